"""The consistency job as a user calls it: a tiny model many times, the shipped one on neutral variants."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.endpoint.purse import BudgetSpentError
from cluster.settings import load_settings
from cluster.tracking import open_client
from jobs.cancellation_consistency import ConsistencyJob, main
from tests.builders.cancellation_events import sample_event
from tests.conftest import PROJECT
from tests.servers.chat_endpoint import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _arguments(folder: Path, server: ChatServer, **changes: object) -> list[str]:
    events = folder / "events.jsonl"
    rows = [{**sample_event(), "event_id": f"e-{n}", "buyer_reason": f"case-{n}"} for n in range(6)]
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "input": events,
        "output": folder / "out",
        "cache_dir": folder / "cache",
        "backend.kind": "endpoint",
        "backend.endpoint.base_url": server.url,
        "backend.endpoint.backoff_seconds": 0.01,
        "consistency.num_events": 4,
        "consistency.runs": 3,
        "consistency.perturbations": 8,
        "consistency.resamples": 20,
        "invariant": '["rules"]',
        "labelling.judging.sampling.temperature": 0.7,  # as in the job's own file, which a process of its own reads
        **changes,
    }
    return [f"{name}={value}" for name, value in given.items()]


def _run(folder: Path, server: ChatServer, **changes: object) -> dict[str, Any]:
    main(load_settings(ConsistencyJob, _arguments(folder, server, **changes)))
    return json.loads((folder / "out" / "consistency.json").read_text())


def test_answers_are_compared_and_not_asked_for_again(tmp_path: Path, server: ChatServer) -> None:
    arguments = _arguments(tmp_path, server, invariant='["shipped","rules","llm"]')
    main(load_settings(ConsistencyJob, arguments))
    found = json.loads((tmp_path / "out" / "consistency.json").read_text())
    assert found["repeated"]["answers"] == 12
    assert found["repeated"]["figures"]["verdict_agreement"]["value"] == 1
    assert found["repeated"]["figures"]["self_bleu"]["value"] == 1
    assert {body["seed"] for body in server.bodies[:12]} == {0, 1, 2}
    assert set(found["invariance"]) == {"shipped", "rules", "llm"}
    assert found["invariance"]["llm"]["flip_rate"]["value"] == 0
    assert 0 <= found["invariance"]["shipped"]["largest_change"] < 1
    asked = sum(server.asked.values())
    main(load_settings(ConsistencyJob, [*arguments, 'invariant=["rules"]']))
    assert sum(server.asked.values()) == asked
    assert "flip rate" in (tmp_path / "out" / "consistency.md").read_text()


def test_the_judge_that_ships_is_found_in_the_jobs_own_registry(tmp_path: Path, server: ChatServer) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = open_client(uri)
    client.create_registered_model("verdicts")
    client.create_model_version("verdicts", str(PROJECT / "cancellation" / "small_model"))
    client.set_registered_model_alias("verdicts", "champion", 1)
    given = {"repeat": "false", "invariant": '["shipped"]', "shipped": "models:/verdicts@champion", "tracking.uri": uri}
    assert _run(tmp_path, server, **given)["invariance"]["shipped"]["flip_rate"]["value"] is not None


def test_variants_are_asked_about_once_and_their_neighbours_never(tmp_path: Path, server: ChatServer) -> None:
    server.behave = lambda case, number: "off" if case == "case-0" else "answer"
    found = _run(tmp_path, server, repeat="false", invariant='["llm"]')["invariance"]["llm"]
    assert found["flip_rate"]["value"] == 0
    assert found["unanswered"] == 1  # the event itself, so its variants were not asked about
    shown = [body["messages"][-1]["content"] for body in server.bodies]
    assert len(shown) == len(set(shown)) + 1  # labelling.tries of the one that failed
    assert len(shown) <= 2 + 3 * 8
    asked = len(shown)
    _run(tmp_path, server, repeat="false", invariant='["llm"]')
    assert sum(server.asked.values()) == asked


def test_a_killed_run_goes_on_and_asks_again_only_where_that_is_wanted(tmp_path: Path, server: ChatServer) -> None:
    server.behave = lambda case, number: "slow:2"
    command = [sys.executable, "-m", "jobs.cancellation_consistency", *_arguments(tmp_path, server)]
    killed = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while sum(server.asked.values()) < 8:
        assert killed.poll() is None, killed.communicate()[1].decode()[-3000:]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    server.behave = lambda case, number: "answer"
    assert _run(tmp_path, server)["repeated"]["failed"] == 8  # under way when it died
    assert sum(server.asked.values()) == 12
    again = _run(tmp_path, server, **{"labelling.ask_again": "true", "labelling.tries": 3})["repeated"]
    assert (again["answers"], again["failed"]) == (12, 0)
    assert sum(server.asked.values()) == 12 + 8


def test_a_refusal_is_asked_again_and_a_spent_budget_stays_spent(tmp_path: Path, server: ChatServer) -> None:
    priced = {"backend.endpoint.input_usd": 1, "backend.endpoint.output_usd": 10}
    server.behave = lambda case, number: "refuse:400" if case == "case-0" else "answer"
    assert _run(tmp_path, server, **priced)["repeated"]["failed"] == 3
    server.behave = lambda case, number: "answer"
    found = _run(tmp_path, server, **priced)["repeated"]
    assert found["failed"] == 0
    assert set(server.answered.values()) == {3}
    asked, cost = sum(server.asked.values()), found["usage"]["cost_usd"]
    with pytest.raises(BudgetSpentError, match="raise budget_usd"):
        _run(tmp_path, server, **priced, **{"backend.endpoint.budget_usd": cost, "consistency.runs": 4})
    assert sum(server.asked.values()) == asked


def test_other_events_under_the_same_ids_are_other_questions(tmp_path: Path, server: ChatServer) -> None:
    _run(tmp_path, server)
    asked = sum(server.asked.values())
    arguments = _arguments(tmp_path, server)
    events = tmp_path / "events.jsonl"
    events.write_text(events.read_text().replace("no hurry then", "hurry up"))
    main(load_settings(ConsistencyJob, arguments))
    assert sum(server.asked.values()) == 2 * asked


def test_without_reasoning_there_is_no_likeness_of_texts(tmp_path: Path, server: ChatServer) -> None:
    figures = _run(tmp_path, server, **{"labelling.judging.after_verdict": "cancel"})["repeated"]["figures"]
    assert figures["verdict_agreement"]["value"] == 1
    assert {figures[name]["value"] for name in ("factor_jaccard", "self_bleu", "self_cosine")} == {None}
