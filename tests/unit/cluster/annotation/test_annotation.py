"""What both products' rounds of annotation share."""

from __future__ import annotations

import json

import pytest

from cluster.annotation.label_studio import import_tasks, name_people, read_export
from cluster.annotation.versions import check_version, content_digest


def exported(**annotation: object) -> bytes:
    return json.dumps(
        [{"data": {"case": 7}, "annotations": [{"completed_by": 3, "result": [], **annotation}]}]
    ).encode()


def test_every_control_is_read_by_its_name():
    results = [
        {"from_name": "kind", "value": {"choices": ["a", "b"]}},
        {"from_name": "why", "value": {"text": ["one", "two"]}},
        {"from_name": "left", "value": {"choices": []}},
        {"type": "relation"},
    ]
    (one,) = read_export(exported(result=results, updated_at="2026-11-28"), name="x")
    assert one.chosen == {"kind": ("a", "b"), "why": ("one", "two")}
    assert (one.first("kind"), one.first("left"), one.user, one.annotated_at) == ("a", None, "3", "2026-11-28")
    assert one.data == {"case": 7}
    (skipped,) = read_export(exported(result=results, was_cancelled=True, completed_by={"email": "a@b.c"}), name="x")
    assert (skipped.chosen, skipped.user) == ({}, "a@b.c")


@pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"data": {}}]', b'{"a": 1}', b"\xff"])
def test_what_is_no_export_is_named(content):
    with pytest.raises(ValueError, match=r"a\.json: not a Label Studio export .* as JSON, not JSON-MIN"):
        read_export(content, name="a.json")


def test_tasks_are_what_a_project_imports():
    assert json.loads(import_tasks([{"case": "ä"}])) == [{"data": {"case": "ä"}}]


def test_a_text_belongs_to_the_version_that_it_was_recorded_for():
    content = {"version": "2", "rule": "b"}
    digest = content_digest(content)
    history = [{"version": "1", "digest": "0"}, {"version": "2", "digest": digest}]
    assert check_version("rules.toml", {**content, "history": history}) == digest
    with pytest.raises(ValueError, match=rf"version 3 is not in \[\[history\]\]: add it there with digest {digest}"):
        check_version("rules.toml", {**content, "version": "3", "history": history})
    with pytest.raises(ValueError, match=r"the content changed .* give it a new version"):
        check_version("rules.toml", {**content, "rule": "c", "history": history})
    with pytest.raises(ValueError, match="a version stands twice"):
        check_version("rules.toml", {**content, "history": [*history, history[0]]})


def test_a_name_stands_for_one_user_unless_people_says_otherwise() -> None:
    given = [("ann", "1"), ("ann", "2"), ("", "3")]
    for people in ({}, {"1": "ann"}):
        with pytest.raises(ValueError, match=r"a.json: the project of annotator 'ann' has labels by 2 users"):
            name_people(given, people, name="a.json")
    assert name_people(given, {"1": "ann", "2": "ann"}, name="a.json") == ["ann", "ann", "user 3"]
    assert name_people(given, {"2": "bob"}, name="a.json") == ["ann", "bob", "user 3"]
