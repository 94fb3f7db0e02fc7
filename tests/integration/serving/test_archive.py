"""What the archive is for, held against a gateway behind a real port: appeals, evidence, decisions judged again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cancellation.serving.records.people import PersonKey
from cancellation.serving.records.shipped_log import read_log
from cancellation.serving.settings import ModelSettings
from jobs.cancellation_appeal import AppealJob, main
from jobs.cancellation_evidence import EvidenceJob
from jobs.cancellation_evidence import main as evidence_main
from jobs.cancellation_rejudge import RejudgeJob
from jobs.cancellation_rejudge import main as rejudge_main
from tests.conftest import PROJECT
from tests.servers.serving_replicas import listening, simulated_event

QUICK = {"decision_log": {"segment_seconds": 0.5}, "shipper": {"interval_seconds": 0.2}}


def judge(http: httpx.Client, event: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post("/v1/verdicts", json=event, headers=headers)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_an_appeal_finds_in_the_archive_what_was_decided_and_by_which_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    with listening(data, output=str(archive), **QUICK) as http:
        given = judge(http, {**simulated_event(70), "event_id": "appealed"}).json()
        until(lambda: any((archive / "policies").glob("*.toml")))
        first = (data / "policy.toml").read_text()
        (data / "policy.toml").write_text(first.replace("investigate = 0.45", "investigate = 0.55"))
        until(lambda: len(list((archive / "policies").glob("*.toml"))) == 2)
        until(lambda: any((archive / "decisions").rglob("*.parquet")), 120)
    key = PersonKey.load(data / "person.key")
    shutil.rmtree(data)  # the machine is long gone
    today = datetime.now(UTC).date()
    main(AppealJob(archive=str(archive), event_id="appealed", market="ID", day=today))
    found = json.loads(capsys.readouterr().out)
    for name in ("verdict", "action", "model_version", "policy_version"):
        assert found["decision"][name] == given[name]
    assert found["policy"] == first
    assert json.loads(found["decision"]["event"])["order_id"] == key.digest("order", simulated_event(70)["order_id"])
    with pytest.raises(ValueError, match="expected a decision on that event in BR"):
        main(AppealJob(archive=str(archive), event_id="appealed", market="BR", day=today))


def test_what_the_rules_had_to_answer_is_judged_again_once_and_beside_the_old_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    with listening(data, output=str(archive), **QUICK) as http:
        for index in range(3):
            event = {**simulated_event(index), "event_id": f"late-{index}"}
            assert judge(http, event, **{"X-Deadline-Ms": "1"}).json()["source"] == "fallback"
        by_model = judge(http, {**simulated_event(0), "event_id": "in-time"}).json()
        until(lambda: read_log(str(archive / "decisions")).num_rows == 4, 120)
    today = datetime.now(UTC).date()
    job = RejudgeJob(archive=str(archive), first=today, last=today)
    for said in ("judged 3", "judged 0"):
        rejudge_main(job)
        assert capsys.readouterr().out.startswith(said)
    again = {row["event_id"]: row for row in read_log(str(archive / "rejudged")).to_pylist()}
    assert set(again) == {"late-0", "late-1", "late-2"}
    assert again["late-0"]["score"] == pytest.approx(by_model["score"], abs=1e-3)
    assert {(row["source"], row["shadow"]["model_version"]) for row in again.values()} == {("model", "rules-1")}
    assert read_log(str(archive / "decisions")).num_rows == 4


def test_each_penalty_gets_its_evidence_in_the_archive_before_anybody_appeals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    with listening(data, output=str(archive), **QUICK) as http:
        given = [judge(http, simulated_event(index)).json() for index in (30, 35, 50, 0)]
        penalties = {verdict["event_id"]: verdict for verdict in given if verdict["action"] == "penalty"}
        assert 0 < len(penalties) < len(given)
        until(lambda: read_log(str(archive / "decisions")).num_rows == len(given), 120)
        one = next(iter(penalties))
        asked_for = http.get(f"/v1/verdicts/{one}", headers={"X-Deadline-Ms": "60000"}).json()
    shutil.rmtree(data)
    today = datetime.now(UTC).date()
    job = EvidenceJob(archive=str(archive), first=today, last=today)
    for said in (f"explained {len(penalties)}, done before 0", f"explained 0, done before {len(penalties)}"):
        evidence_main(job)
        assert capsys.readouterr().out.startswith(said)
    made = {row["event_id"]: row for row in read_log(str(archive / "evidence")).to_pylist()}
    assert set(made) == set(penalties)
    for event_id, verdict in penalties.items():
        named = {factor["code"]: factor["evidence"] for factor in made[event_id]["decision_factors"]}
        assert set(named) == {factor["code"] for factor in verdict["decision_factors"]}
        assert any(named.values())
    main(AppealJob(archive=str(archive), event_id=one, market=penalties[one]["market"], day=today))
    explained = json.loads(capsys.readouterr().out)["explained"]
    assert [factor["evidence"] for factor in explained] == [
        factor["evidence"] for factor in asked_for["verdict"]["decision_factors"]
    ]
    shutil.rmtree(archive / "evidence")
    other = ModelSettings(source=str(_renamed(tmp_path)))
    evidence_main(EvidenceJob(archive=str(archive), first=today, last=today, model=other))
    assert f"other model {len(penalties)}" in capsys.readouterr().out


def test_an_event_that_comes_again_on_one_day_is_a_decision_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    today, event = datetime.now(UTC).date(), {**simulated_event(30), "event_id": "again"}
    job = RejudgeJob(archive=str(archive), first=today, last=today)

    def shipped(number: int) -> bool:
        return read_log(str(archive / "decisions")).num_rows == number

    def forgotten() -> bool:
        return http.get("/v1/verdicts/again").status_code == 404

    with listening(data, output=str(archive), retention_hours=1 / 3600, **QUICK) as http:
        for number in (1, 2):
            assert judge(http, event, **{"X-Deadline-Ms": "1"}).json()["source"] == "fallback"
            until(lambda number=number: shipped(number) and any((archive / "policies").glob("*.toml")), 120)
            rejudge_main(job)
            assert capsys.readouterr().out.startswith("judged 1,")
            assert read_log(str(archive / "rejudged")).num_rows == number
            until(forgotten)
        penalty = judge(http, event).json()
        assert penalty["action"] == "penalty"
        until(lambda: shipped(3) and forgotten(), 120)
        asked = {"market": "ID", "day": str(today)}
        assert "penalty" in http.get("/v1/statements/again", params=asked).json()["what"]
    evidence_main(EvidenceJob(archive=str(archive), first=today, last=today))
    capsys.readouterr()
    main(AppealJob(archive=str(archive), event_id="again", market="ID", day=today))
    found = json.loads(capsys.readouterr().out)
    assert (found["decision"]["source"], found["explained"]) == ("fallback", None)
    assert [one["explained"] is not None for one in found["later"]] == [False, True]


def test_what_is_judged_again_goes_by_the_policy_of_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    own = tmp_path / "own.toml"
    own.write_text(
        (PROJECT / "cancellation" / "decision" / "policy.toml")
        .read_text()
        .replace("investigate = 0.45", "investigate = 0.55")
    )
    with listening(data, output=str(archive), rollout={"policy": str(own)}, **QUICK) as http:
        given = judge(http, {**simulated_event(30), "event_id": "late"}, **{"X-Deadline-Ms": "1"}).json()
        until(lambda: read_log(str(archive / "decisions")).num_rows == 1 and any((archive / "policies").glob("*")), 120)
    today = datetime.now(UTC).date()
    job = RejudgeJob(archive=str(archive), first=today, last=today)
    (kept,) = (archive / "policies").iterdir()
    kept.rename(tmp_path / "away.toml")
    with pytest.raises(ValueError, match="give one with policy="):
        rejudge_main(job)
    (tmp_path / "away.toml").rename(kept)
    rejudge_main(job)
    (again,) = read_log(str(archive / "rejudged")).to_pylist()
    assert (again["policy_version"], round(again["investigate_threshold"], 2)) == (given["policy_version"], 0.55)


def _renamed(folder: Path) -> Path:
    """The shipped model under another name: another version of the same weights."""
    copy = shutil.copytree(PROJECT / "cancellation" / "small_model", folder / "renamed")
    description = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**description, "name": "renamed"}))
    return copy
