"""Explanations on real Ray Serve behind its proxy: parts come one by one; what goes wrong is said and on record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cancellation.serving.records.segments import read_segment
from tests.servers.chat_endpoint import ChatServer
from tests.servers.serving_process import FEEDBACK_TOKEN, Served, served
from tests.servers.serving_replicas import simulated_event

PATH = "/v1/verdicts:explain"
_BEHAVIOURS = {"case-1": "slow:0.5", "case-2": "slow:1.5", "case-3": "refuse:500", "case-4": "silence"}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    server = ChatServer(lambda case, _: _BEHAVIOURS.get(case, "answer"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, server: ChatServer) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("explain")
    settings = [
        f"serving.explain.endpoint.base_url={server.url}",
        "serving.explain.endpoint.output_usd=10",
        "serving.explain.endpoint.timeout_seconds=5",
        # Tests share their machine: nothing is refused for being slow.
        "serving.admission.max_loop_lag_ms=60000",
        "serving.admission.max_queue_age_ms=60000",
        "serving.admission.standing_ms=60000",
        "serving.shipper.interval_seconds=600",
    ]
    with served(folder, output=str(folder / "archive"), environment={}, settings=settings) as one:
        yield one


def _case(number: int) -> dict[str, Any]:
    return {**simulated_event(number), "event_id": f"x-{number}", "buyer_reason": f"case-{number}"}


def _record(endpoint: Served, event_id: str) -> dict[str, Any]:
    """Wait for an explanation to be on record."""
    found: dict[str, Any] = {}

    def look() -> bool:
        for path in (endpoint.folder / "data" / "log" / "explanations").glob("*-*"):
            if path.suffix in (".open", ".sealed"):
                found.update({one["event_id"]: one for one in read_segment(path).records})
        return event_id in found

    endpoint.until(look)
    return found[event_id]


def test_parts_come_as_the_model_writes_them(endpoint: Served) -> None:
    names, at = [], []
    with endpoint.http.stream("POST", PATH, json=_case(1)) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
                at.append(time.monotonic())
    assert names == ["verdict", "decision_factors", "reasoning", "done"]
    assert at[-1] - at[0] > 1  # the model took four pauses of half a second behind its verdict
    assert _record(endpoint, "x-1")["outcome"] == "whole"
    endpoint.until(lambda: "cancellation_llm_explanations" in endpoint.http.get("/metrics").text)


def test_a_client_that_goes_away_stops_the_model(endpoint: Served, server: ChatServer) -> None:
    with endpoint.http.stream("POST", PATH, json=_case(2)) as answer:
        assert next(answer.iter_lines()) == "event: verdict"
    record = _record(endpoint, "x-2")
    assert (record["outcome"], record["verdict"], record["reasoning"]) == ("gone", "induced", None)
    assert server.answered["case-2"] == 0


@pytest.mark.parametrize(("number", "status", "outcome"), [(3, 502, "failed"), (4, 504, "late")])
def test_an_endpoint_that_fails_or_stalls_is_said_in_time(
    endpoint: Served, number: int, status: int, outcome: str
) -> None:
    answer = endpoint.http.post(PATH, json=_case(number), headers={"X-Deadline-Ms": "2000"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, outcome)
    assert _record(endpoint, f"x-{number}")["outcome"] == outcome
    assert endpoint.judge(_case(10 + number)).status_code == 200


def test_a_token_without_the_scope_reaches_no_model(endpoint: Served, server: ChatServer) -> None:
    before = sum(server.asked.values())
    with httpx.Client(base_url=endpoint.url, timeout=30) as stranger:
        assert stranger.post(PATH, json=_case(5)).status_code == 401
        wrong = {"Authorization": f"Bearer {FEEDBACK_TOKEN}"}
        assert stranger.post(PATH, json=_case(5), headers=wrong).status_code == 403
    assert sum(server.asked.values()) == before


def test_the_description_offers_it_and_its_example_works(endpoint: Served) -> None:
    described = endpoint.http.get("/openapi.json").json()["paths"][PATH]["post"]
    example = described["requestBody"]["content"]["application/json"]["example"]
    answer = endpoint.http.post(PATH, json=example)
    assert answer.text.startswith("event: verdict\ndata: ")
    assert "event: done\n" in answer.text
    assert PATH in endpoint.http.get("/docs").text
    assert Path(endpoint.folder / "data" / "log" / "explanations").is_dir()
