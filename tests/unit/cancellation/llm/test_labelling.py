"""Rows through a misbehaving server, without Ray: each ends labelled or with its error, and is paid once."""

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

from cancellation.decision.policy import load_policy
from cancellation.events.files import EventRow, read_event_line
from cancellation.llm.backend import BackendError, SamplingSettings
from cancellation.llm.endpoint_backend import EndpointBackend
from cancellation.llm.judging import JudgingSettings
from cancellation.llm.labelling import (
    Labeller,
    LabellingCounts,
    LabellingSettings,
    OutageError,
    count_rows,
    label_rows,
)
from cluster.endpoint.ledger import RequestLedger
from cluster.endpoint.purse import BudgetSpentError, Purse
from cluster.endpoint.settings import EndpointSettings
from tests.builders.cancellation_events import sample_event
from tests.conftest import PROJECT
from tests.servers.chat_endpoint import ANSWER, ChatServer, misbehave

ANSWER_USD = (100 + 400 * 0.5 + len(ANSWER) * 10) / 1e6


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _lines(count: int) -> list[bytes]:
    names = [{"event_id": f"e-{n}", "order_id": f"o-{n}", "buyer_reason": f"case-{n}"} for n in range(count)]
    return [json.dumps({"event": {**sample_event(), **name}, "label": "induced"}).encode() for name in names]


def _rows(count: int) -> list[EventRow]:
    return [read_event_line(line, f"e:{number}") for number, line in enumerate(_lines(count), 1)]


def _labeller(server: ChatServer, purse: Purse | None = None, **changes: Any) -> Labeller:
    return Labeller(_backend(server, purse, **changes), LabellingSettings(), load_policy())


def _backend(server: ChatServer, purse: Purse | None = None, **changes: Any) -> EndpointBackend:
    prices = {"input_usd": 1, "cached_input_usd": 0.5, "output_usd": 10}
    given = {"timeout_seconds": 60, "backoff_seconds": 0.01, "max_tries": 3, "concurrency": 4, **prices, **changes}
    return EndpointBackend(EndpointSettings(base_url=server.url, **given), purse or Purse(None))


def test_every_row_ends_labelled_or_with_its_error(server: ChatServer, tmp_path: Path) -> None:
    server.behave = misbehave
    rows = [*_rows(20), read_event_line(b"{broken", "e:21")]
    labeller = _labeller(server, timeout_seconds=5)
    table = label_rows(rows, labeller, RequestLedger(str(tmp_path)), parallel=4)
    found = table.to_pylist()
    assert [row["place"] for row in found] == [f"e:{number}" for number in range(1, 22)]
    errors = {row["place"]: row["error"] for row in found if row["error"]}
    assert set(errors) == {"e:5", "e:6", "e:7", "e:9", "e:21"}
    assert errors["e:5"].startswith("endpoint: the answer broke off")
    assert errors["e:6"] == "endpoint: silent for 5 s"
    assert errors["e:7"].startswith("answer: expected <verdict>")
    assert errors["e:9"] == "endpoint: refused with status 400"
    good = [row for row in found if not row["error"]]
    assert {(row["label"], *row["label_factors"]) for row in good} == {("induced", "chat.asked_to_cancel")}
    assert good[0]["probability"] == pytest.approx(0.8, abs=0.06)  # markets of two classes share the third's
    assert good[0]["cost_usd"] == pytest.approx(ANSWER_USD)
    assert found[7]["cost_estimated"]
    assert found[3]["cost_usd"] > 2 * ANSWER_USD  # half an answer may have been paid too
    assert all(row["label"] is None and row["event_id"] is None for row in found if row["error"])
    counts = count_rows(table)
    assert (counts.read, counts.labelled, counts.failed) == (21, 16, 5)
    assert LabellingCounts.sum([counts.as_dict(), counts.as_dict()]).confusion == {"induced>induced": 32}

    asked = dict(server.asked)
    again = label_rows(rows, labeller, RequestLedger(str(tmp_path)), parallel=4)
    assert again.select(["label", "place"]).equals(table.select(["label", "place"]))
    assert {case: server.asked[case] - asked[case] for case in asked if server.asked[case] != asked[case]} == {
        "case-8": 1  # refused, so never paid: it may be asked again
    }


def test_a_verdict_without_a_distribution_has_no_probability(server: ChatServer, tmp_path: Path) -> None:
    server.behave = lambda case, number: "plain" if case == "case-1" else "answer"
    labeller = _labeller(server)
    table = label_rows(_rows(2), labeller, RequestLedger(str(tmp_path)), parallel=1)
    known, unknown = table.to_pylist()
    assert known["label_weight"] == pytest.approx(0.3 * known["probability"])
    assert (unknown["label"], unknown["error"]) == ("induced", None)
    assert (unknown["probability"], unknown["logits"]) == (None, None)
    assert unknown["label_weight"] == pytest.approx(0.3)
    counts = count_rows(table)
    assert counts.without_probability == 1
    assert LabellingCounts.sum([counts.as_dict()] * 2).without_probability == 2
    again = label_rows(_rows(2), labeller, RequestLedger(str(tmp_path)), parallel=1)
    assert again.equals(table)


def test_the_budget_stops_and_a_larger_one_goes_on(server: ChatServer, tmp_path: Path) -> None:
    budget = 0.01  # a request may cost 0.0065 at most, so the last of it is left
    purse = Purse(budget)
    with pytest.raises(BudgetSpentError, match="raise budget_usd and run again"):
        label_rows(_rows(30), _labeller(server, purse), RequestLedger(str(tmp_path)), parallel=4)
    paid = sum(server.answered.values()) * ANSWER_USD
    assert 0 < paid <= budget
    assert purse.spent_usd == pytest.approx(paid)
    ledger = RequestLedger(str(tmp_path))
    assert ledger.num_unsure == 0
    table = label_rows(_rows(30), _labeller(server, Purse(1.0, spent_usd=paid)), ledger, parallel=4)
    assert not any(table["error"].to_pylist())
    assert set(server.answered.values()) == {1}


def _worst_usd(server: ChatServer) -> float:
    """Upper bound of a request about an event, as it is booked when nothing is known of what it took."""
    with pytest.raises(BackendError) as caught:
        list(_backend(server).stream(_labeller(server).prompt(_rows(1)[0].event), SamplingSettings(), lambda: False))
    server.asked.clear()
    return caught.value.usage.cost_usd


def _submit(server: ChatServer, folder: Path, budget: float, settings: LabellingSettings) -> Any:
    """One run of the job over one event: the purse begins with what the ledger knows to be paid."""
    ledger = RequestLedger(str(folder), ask_again=settings.ask_again)
    paid = sum(record["cost_usd"] for record in (*ledger.records.values(), *ledger.paid.values()))
    labeller = Labeller(_backend(server, Purse(budget, spent_usd=paid)), settings, load_policy())
    return label_rows(_rows(1), labeller, ledger, parallel=1).to_pylist()[0]


@pytest.mark.parametrize("reflect", [False, True])
def test_what_was_paid_before_the_budget_ran_out_is_remembered(
    server: ChatServer, tmp_path: Path, reflect: bool
) -> None:
    server.behave = lambda case, number: "half"
    worst_usd = _worst_usd(server)
    first_usd = ANSWER_USD if reflect else worst_usd
    server.behave = lambda case, number: "answer" if reflect or number else "half"
    settings = LabellingSettings(judging=JudgingSettings(reflect=reflect))
    budget = worst_usd + ANSWER_USD / 2  # the second request does not fit any more
    for _ in range(3):
        with pytest.raises(BudgetSpentError):
            _submit(server, tmp_path, budget, settings)
    assert sum(server.asked.values()) == 1
    row = _submit(server, tmp_path, 1.0, settings)
    assert row["error"] is None
    assert row["cost_usd"] == pytest.approx(first_usd + (2 if reflect else 1) * ANSWER_USD)


def test_an_answer_that_broke_off_is_asked_for_again_on_request(server: ChatServer, tmp_path: Path) -> None:
    server.behave = lambda case, number: "half" if number < 2 else "answer"
    paid = _submit(server, tmp_path, 1.0, LabellingSettings())["cost_usd"]
    again = _submit(server, tmp_path, 1.0, LabellingSettings())
    assert again["error"].startswith("endpoint: the answer broke off")
    assert (again["cost_usd"], sum(server.asked.values())) == (paid, 2)
    row = _submit(server, tmp_path, 1.0, LabellingSettings(ask_again=True))
    assert row["error"] is None
    assert row["cost_usd"] == pytest.approx(paid + ANSWER_USD)


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_not_repeated(server: ChatServer, tmp_path: Path, status: int) -> None:
    server.behave = lambda case, number: f"refuse:{status}"
    row = label_rows(_rows(1), _labeller(server), RequestLedger(str(tmp_path)), parallel=1).to_pylist()[0]
    assert (row["error"], row["cost_usd"]) == (f"endpoint: refused with status {status}", 0)
    assert sum(server.asked.values()) == 1


@pytest.mark.parametrize(("behaviour", "estimated"), [("cut", True), ("ended:eos_token", False)])
def test_a_whole_answer_counts_whatever_ended_the_stream(
    server: ChatServer, tmp_path: Path, behaviour: str, estimated: bool
) -> None:
    server.behave = lambda case, number: behaviour
    row = label_rows(_rows(1), _labeller(server), RequestLedger(str(tmp_path)), parallel=1).to_pylist()[0]
    assert (row["error"], row["label"], row["reasoning"]) == (None, "induced", "The seller asked.")
    assert (sum(server.asked.values()), row["cost_estimated"]) == (1, estimated)


@pytest.mark.parametrize("behaviour", ["verdict", "cut_factors"])
def test_half_an_answer_is_no_label(server: ChatServer, tmp_path: Path, behaviour: str) -> None:
    server.behave = lambda case, number: behaviour
    row = label_rows(_rows(1), _labeller(server), RequestLedger(f"{tmp_path}/a"), parallel=1).to_pylist()[0]
    assert row["label"] is None
    assert row["error"].startswith("answer: expected a closed <decision_factors>, found the text ended before it; if ")
    cancelling = LabellingSettings(judging=JudgingSettings(after_verdict="cancel"))
    labeller = Labeller(_backend(server), cancelling, load_policy())
    row = label_rows(_rows(1), labeller, RequestLedger(f"{tmp_path}/b"), parallel=1).to_pylist()[0]
    assert (row["label"], row["label_factors"], row["error"]) == ("induced", None, None)


def test_a_dead_server_is_no_reason_to_give_events_up(server: ChatServer, tmp_path: Path) -> None:
    server.behave = lambda case, number: "refuse:400"
    with pytest.raises(OutageError, match="look at the server, and run again"):
        label_rows(_rows(60), _labeller(server), RequestLedger(str(tmp_path)), parallel=4)
    server.behave = lambda case, number: "answer"
    table = label_rows(_rows(60), _labeller(server), RequestLedger(str(tmp_path)), parallel=4)
    assert not any(table["error"].to_pylist())


def test_nothing_is_asked_twice_after_sigkill(tmp_path: Path) -> None:
    server = ChatServer(seconds_per_token=0.05)
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(_lines(40)) + b"\n")
    command = [sys.executable, "-m", "tests.servers.label_driver", server.url, f"{tmp_path}/ledger", str(events)]
    try:
        killed = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while sum(server.answered.values()) < 9:
            assert killed.poll() is None, killed.communicate()[1].decode()[-3000:]
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert sum(server.asked.values()) < 40
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
    finally:
        server.stop()
    counts = json.loads(done.stdout.splitlines()[-1])
    assert set(server.asked.values()) == {1}
    assert counts["labelled"] + counts["failed"] == 40
    assert counts["failed"] <= 8  # under way when it died
    assert all("may have been paid" in reason for reason in counts["errors"])
