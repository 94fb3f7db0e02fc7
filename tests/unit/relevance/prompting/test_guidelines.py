"""The guidelines: what the prompt gets, what is refused, and that no change hides under an old version."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from relevance.labels import LABELS
from relevance.prompting.guidelines import GUIDELINES_PATH, load_guidelines
from relevance.prompting.guidelines_page import guidelines_fragment, render_guidelines

TEXT = GUIDELINES_PATH.read_text(encoding="utf-8")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    assert old in TEXT
    path = tmp_path / "guidelines.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_brief_is_what_shipped_models_were_trained_on() -> None:
    assert load_guidelines().brief() == (
        "exact: the product meets every essential aspect that the query names.\n"
        "substitute: the product misses some aspect of the query but serves the same need.\n"
        "complement: the product does not serve the need but is used together with an exact product.\n"
        "irrelevant: the product misses the key aspect of the query and does not go with an exact product."
    )


def test_the_full_text_holds_every_rule_reading_example_and_decision() -> None:
    guidelines, text = load_guidelines(), load_guidelines().full()
    assert text.startswith(guidelines.brief())
    for rule in guidelines.rules:
        assert rule["text"] in text
    for entry in (*guidelines.ambiguous, *guidelines.examples, *guidelines.borderline):
        assert entry["query"] in text
    assert guidelines.version not in text  # the version alone must not change a prompt


def test_every_label_has_gold_examples_and_the_rules_that_people_ask_for_are_there() -> None:
    guidelines = load_guidelines()
    assert {entry["label"] for entry in guidelines.examples} == set(LABELS)
    names = {rule["name"] for rule in guidelines.rules}
    assert {"unnamed attributes", "ambiguous queries", "accessories", "bundles", "brands"} <= names
    assert {"bat", "chips"} <= {entry["query"] for entry in guidelines.ambiguous}
    assert all(entry["date"] and entry["reason"] for entry in guidelines.borderline)


def test_a_change_under_an_old_version_is_refused_with_the_digest_that_a_new_version_needs(tmp_path: Path) -> None:
    path = changed(tmp_path, "Quality, price and taste", "Quality and price")
    with pytest.raises(ValueError, match=r"the content changed \(digest \w{16}\) but version") as refused:
        load_guidelines(path)
    digest = re.search(r"digest (\w{16})\)", str(refused.value))[1]
    version = load_guidelines().version
    renewed = path.read_text().replace(f'version = "{version}"', 'version = "2027-01-01"', 1)
    path = tmp_path / "renewed.toml"
    path.write_text(renewed)
    with pytest.raises(ValueError, match=f"version 2027-01-01 is not in .*history.* digest {digest}"):
        load_guidelines(path)
    entry = f'\n[[history]]\nversion = "2027-01-01"\ndigest = "{digest}"\nchange = "Taste counts."\n'
    path = tmp_path / "recorded.toml"
    path.write_text(renewed + entry)
    assert load_guidelines(path).version == "2027-01-01"


def test_layout_and_comments_are_no_change(tmp_path: Path) -> None:
    path = tmp_path / "guidelines.toml"
    path.write_text("# a remark\n\n" + TEXT.replace("[[rule]]", "\n[[rule]]"))
    assert load_guidelines(path).version == load_guidelines().version


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'label = "exact"',
            'label = "perfect"',
            r"\[\[example\]\] number 1: label is 'perfect', expected one of",
        ),
        ('reason = "nothing in common"\n', "", r"\[\[example\]\] number 10: .*missing, blank or unknown: reason"),
        ("date = 2026-11-22", 'date = "soon"', r"\[\[borderline\]\] number 1: date: expected a day"),
        ("complement = ", "complements = ", r"missing: \['complement'\]"),
        ('version = "2026-11-22"\n', 'version = "2026-11-22.2"\n', r"a version stands twice in \[\[history\]\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_guidelines(changed(tmp_path, old, new))


def test_the_page_shows_all_and_asks_for_nothing() -> None:
    page, guidelines = render_guidelines(load_guidelines()).decode(), load_guidelines()
    assert guidelines.version in page
    assert len(re.findall(r"<li><b>", page)) == len(guidelines.rules) + len(guidelines.history)
    assert not re.search(r"<script|<link|<img|src=|https?://", page)


def test_the_fragment_is_markup_that_can_stand_in_another_page() -> None:
    fragment = guidelines_fragment(load_guidelines())
    assert "<style" not in fragment
    root = ElementTree.fromstring(f"<div>{fragment}</div>")
    assert [heading.text for heading in root.findall("h3")][:2] == ["The four labels", "Ask in this order"]
