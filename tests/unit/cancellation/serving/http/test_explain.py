"""Explanations over real HTTP, from an endpoint that may refuse, fall silent or break off: what the caller sees."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cancellation.serving.records.explanation_record import EXPLANATION_SCHEMA, explanation_table
from cancellation.serving.records.people import ROLES
from cancellation.serving.records.segments import read_segment
from tests.servers.chat_endpoint import ALTERNATIVES, ANSWER, ChatServer
from tests.servers.serving_replicas import files_that_cannot_grow, listening, simulated_event

PATH = "/v1/verdicts:explain"
FEEDBACK_TOKEN = "a-token-for-feedback-alone"
CALIBRATED = math.sqrt(0.8) / sum(map(math.sqrt, ALTERNATIVES.values()))
"""What is said of the verdict at a temperature of 2, as `serving.explain.temperature` has it here."""
_BEHAVIOURS = {"case-1": "refuse:500", "case-2": "silence", "case-3": "half:5", "case-4": "off", "case-9": "plain"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    server = ChatServer(lambda case, _: _BEHAVIOURS.get(case, "answer"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def http(folder: Path, server: ChatServer) -> Iterator[httpx.Client]:
    tokens = folder / "tokens"
    tokens.write_text(f"a-token-for-reviewers verdict\n{FEEDBACK_TOKEN} feedback\n")
    tokens.chmod(0o600)
    endpoint = {"base_url": server.url, "timeout_seconds": 3, "input_usd": 1, "output_usd": 10}
    settings = {"explain": {"endpoint": endpoint, "temperature": 2}, "tokens_file": str(tokens)}
    with listening(folder, admission={"max_explanations": 1}, **settings) as client:
        yield client


def _case(number: int, **changes: Any) -> dict[str, Any]:
    return {**simulated_event(number), "event_id": f"x-{number}", "buyer_reason": f"case-{number}", **changes}


def _parts(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    blocks = [block.split("\n") for block in answer.text.removesuffix("\n\n").split("\n\n") if block != ":"]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def _explain(http: httpx.Client, event: dict[str, Any], **headers: str) -> httpx.Response:
    """Ask once there is room: a place is free when the endpoint's last request has ended."""
    deadline = time.monotonic() + 60
    while (answer := http.post(PATH, json=event, headers=headers)).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer


def _logged(folder: Path, event_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        paths = [path for path in (folder / "log" / "explanations").iterdir() if path.suffix in (".open", ".sealed")]
        found = [one for path in paths for one in read_segment(path).records if one["event_id"] == event_id]
        if found:
            return found[-1]
        assert time.monotonic() < deadline, f"{event_id} is not on record"
        time.sleep(0.1)


def test_verdict_factors_and_reasoning_come_in_turn_and_are_on_record(
    http: httpx.Client, folder: Path, server: ChatServer
) -> None:
    event = _case(100)
    event["chat"] = [{"at": event["cancelled_at"], "sender": "seller", "text": "call me at +62 812 3456 7890"}]
    parts = _parts(_explain(http, event))
    assert [name for name, _ in parts] == ["verdict", "decision_factors", "reasoning", "done"]
    verdict, factors, reasoning, done = (data for _, data in parts)
    assert (verdict["event_id"], verdict["verdict"]) == ("x-100", "induced")
    assert verdict["probabilities"]["induced"] == pytest.approx(CALIBRATED, abs=1e-3)
    assert factors == {"decision_factors": ["chat.asked_to_cancel"]}
    assert reasoning == {"reasoning": "The seller asked."}
    assert done["cost_usd"] == pytest.approx((500 + len(ANSWER) * 10) / 1e6)
    record = _logged(folder, "x-100")
    assert (record["outcome"], record["verdict"], record["caller"][:6]) == ("whole", "induced", "token-")
    assert record["completion_tokens"] == len(ANSWER)
    assert "3456" not in json.dumps(server.bodies) + json.dumps(record)
    assert not [role for role in ROLES if event[f"{role}_id"] in json.dumps(record)]
    table = explanation_table([record, {"event_id": 1}])
    assert table["seller_digest"][0].as_py() == record["event"]["seller_id"]
    assert table.schema.equals(EXPLANATION_SCHEMA)
    assert table["score"][0].as_py() == pytest.approx(CALIBRATED, abs=1e-3)
    assert json.loads(table["unread"][1].as_py()) == {"event_id": 1}


def test_a_log_that_cannot_be_written_is_told_of_once_and_that_it_works_again(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with files_that_cannot_grow():
        ends = [_parts(_explain(http, _case(number)))[-1] for number in (101, 102, 103)]
    assert [(name, data["error"]["code"]) for name, data in ends] == [("error", "not_recorded")] * 3
    assert sum(one.startswith("an explanation could not be written down") for one in caplog.messages) == 1
    assert _parts(_explain(http, _case(104)))[-1][0] == "done"
    assert "the log of explanations: works again" in caplog.messages


def test_who_may_not_and_what_is_no_event_never_reaches_the_model(http: httpx.Client, server: ChatServer) -> None:
    before = len(server.bodies)
    assert http.post(PATH, json=_case(101), headers={"Authorization": ""}).status_code == 401
    assert http.post(PATH, json=_case(101), headers={"Authorization": f"Bearer {FEEDBACK_TOKEN}"}).status_code == 403
    assert http.get(PATH).status_code == 405
    refused = _explain(http, _case(101, market="SECRET"))
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "market")
    assert _explain(http, _case(101), **{"X-Deadline-Ms": "soon"}).status_code == 422
    assert len(server.bodies) == before


@pytest.mark.parametrize(
    ("number", "status", "code", "says"),
    [
        (1, 502, "failed", "endpoint: refused with status 500"),
        (2, 504, "late", "within the deadline"),
        (4, 502, "failed", "expected <verdict>"),
    ],
)
def test_a_failure_before_the_first_part_is_a_status(
    http: httpx.Client, folder: Path, number: int, status: int, code: str, says: str
) -> None:
    answer = _explain(http, _case(number), **{"X-Deadline-Ms": "1500"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert says in error["message"]
    record = _logged(folder, f"x-{number}")
    assert (record["outcome"], record["verdict"]) == (code, None)


def test_an_answer_that_breaks_off_keeps_its_verdict_and_says_so(http: httpx.Client, folder: Path) -> None:
    parts = _parts(_explain(http, _case(3)))
    assert parts[-1][0] == "error"
    assert parts[-1][1]["error"]["code"] == "failed"
    assert _logged(folder, "x-3")["cost_usd"] > 0


def test_a_verdict_without_a_distribution_has_no_probability(http: httpx.Client, folder: Path) -> None:
    said = dict(_parts(_explain(http, _case(9))))
    assert said["verdict"]["verdict"] == "induced"
    assert said["verdict"]["probabilities"] is None
    assert _logged(folder, "x-9")["score"] is None


def test_whoever_goes_away_stops_the_model_and_frees_the_place(
    http: httpx.Client, folder: Path, server: ChatServer
) -> None:
    server.behave = lambda case, _: "slow:0.5" if case == "case-5" else "answer"
    with http.stream("POST", PATH, json=_case(5)) as answer:
        assert next(answer.iter_lines()) == "event: verdict"
        refused = http.post(PATH, json=_case(102))
        assert (refused.status_code, refused.headers.get("retry-after")) == (429, "1"), refused.text
        assert http.post("/v1/verdicts", json=_case(103)).status_code == 200
    record = _logged(folder, "x-5")
    assert (record["outcome"], record["verdict"], record["reasoning"]) == ("gone", "induced", None)
    assert server.answered["case-5"] == 0
    assert _parts(_explain(http, _case(104)))[-1][0] == "done"


@pytest.mark.parametrize("behaviour", ["silence", "comments"])
def test_a_server_that_says_nothing_holds_neither_the_caller_nor_the_place(
    http: httpx.Client, folder: Path, server: ChatServer, behaviour: str
) -> None:
    server.behave = lambda case, _: behaviour if case == "case-8" else "answer"
    started = time.monotonic()
    answer = _explain(http, _case(8, event_id=f"x-8-{behaviour}"), **{"X-Deadline-Ms": "800"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "late")
    assert time.monotonic() - started < 2.5  # timeout_seconds is 3
    assert http.post(PATH, json=_case(106)).status_code == 200
    assert _logged(folder, f"x-8-{behaviour}")["outcome"] == "late"


def test_a_slow_stream_beats_in_between(http: httpx.Client, server: ChatServer) -> None:
    server.behave = lambda case, _: "slow:0.8" if case == "case-7" else "answer"
    answer = _explain(http, _case(7))
    assert "\n\n:\n\nevent: " in answer.text
    assert [name for name, _ in _parts(answer)] == ["verdict", "decision_factors", "reasoning", "done"]


def test_a_deadline_in_mid_stream_ends_it_with_what_is_there(
    http: httpx.Client, folder: Path, server: ChatServer
) -> None:
    server.behave = lambda case, _: "slow:0.6" if case == "case-6" else "answer"
    parts = _parts(_explain(http, _case(6), **{"X-Deadline-Ms": "3500"}))
    assert parts[0][0] == "verdict"
    assert (parts[-1][0], parts[-1][1]["error"]["code"]) == ("error", "late")
    assert _logged(folder, "x-6")["outcome"] == "late"


def test_reasoning_may_come_first(tmp_path: Path) -> None:
    server = ChatServer(lambda case, _: "reasoning_first")
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-for-reviewers verdict\n")
    tokens.chmod(0o600)
    explain = {"endpoint": {"base_url": server.url}, "prompt": {"reasoning_first": True}}
    try:
        with listening(tmp_path, explain=explain, tokens_file=str(tokens)) as client:
            parts = _parts(_explain(client, _case(107)))
    finally:
        server.stop()
    assert [name for name, _ in parts] == ["reasoning", "verdict", "decision_factors", "done"]
    assert parts[0][1] == {"reasoning": "The seller asked."}
    assert parts[2][1] == {"decision_factors": ["chat.asked_to_cancel"]}


def test_the_description_has_the_stream_where_it_is_configured(http: httpx.Client, tmp_path: Path) -> None:
    described = http.get("/openapi.json").json()["paths"][PATH]["post"]
    assert described["security"] == [{"bearer": ["verdict"]}]
    assert "event: verdict\ndata: " in described["responses"]["200"]["content"]["text/event-stream"]["example"]
    example = described["requestBody"]["content"]["application/json"]["example"]
    assert _parts(_explain(http, example))[0][1]["event_id"] == example["event_id"]
    with listening(tmp_path) as other:
        assert other.post(PATH, json=_case(105)).status_code == 404
        assert PATH not in other.get("/openapi.json").json()["paths"]
