"""Labelling as a user calls it, against a server that misbehaves: every row once, nothing paid twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.events.examples import example_files, read_examples
from cancellation.events.files import find_event_shards
from cancellation.llm.judged_rows import read_judged
from cancellation.llm.run import REQUESTS
from cluster.endpoint.ledger import RequestLedger
from cluster.settings import load_settings
from jobs.cancellation_label import LabelJob, main
from jobs.cancellation_llm_finetune import LlmFinetuneJob
from jobs.cancellation_llm_finetune import main as finetune
from tests.builders.cancellation_events import sample_event
from tests.builders.chat_models import save_tiny_chat_model
from tests.conftest import PROJECT
from tests.servers.chat_endpoint import ANSWER, ChatServer, misbehave

pytestmark = pytest.mark.usefixtures("local_ray")
ANSWER_USD = (100 + 400 * 0.5 + len(ANSWER) * 10) / 1e6


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _write_events(folder: Path, count: int) -> Path:
    path = folder / "events.jsonl"
    lines = []
    for number in range(count):
        names = {"event_id": f"e-{number}", "order_id": f"o-{number}", "buyer_reason": f"case-{number}"}
        lines.append(json.dumps({"event": {**sample_event(), **names}, "label": "induced"}))
    path.write_text("\n".join(lines) + "\n")
    return path


def _arguments(input_path: Path, folder: Path, server: ChatServer | None, **changes: Any) -> list[str]:
    given = {
        "input": input_path,
        "output": folder / "labels",
        "cache_dir": folder / "cache",
        "run.shard_bytes": 30_000,
        "tracking.experiment": "label-test",
    }
    if server is not None:
        given |= {
            "backend.kind": "endpoint",
            "backend.endpoint.base_url": server.url,
            "backend.endpoint.timeout_seconds": 20,
            "backend.endpoint.backoff_seconds": 0.01,
            "backend.endpoint.max_tries": 3,
            "backend.endpoint.concurrency": 4,
            "backend.endpoint.input_usd": 1,
            "backend.endpoint.cached_input_usd": 0.5,
            "backend.endpoint.output_usd": 10,
        }
    return [f"{name}={value}" for name, value in {**given, **changes}.items()]


def _rows(folder: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((folder / "labels").glob("part-*.parquet"))]
    return pa.concat_tables(tables).to_pylist()


def test_every_event_ends_labelled_or_with_its_error(tmp_path: Path, server: ChatServer) -> None:
    server.behave = misbehave
    path = _write_events(tmp_path, 20)
    with path.open("a") as file:
        file.write("{broken\n")
    changes = {"backend.endpoint.timeout_seconds": 2, "run.max_failed_fraction": 0.5}
    main(load_settings(LabelJob, _arguments(path, tmp_path, server, **changes)))
    rows = _rows(tmp_path)
    assert [row["place"] for row in rows] == [f"events.jsonl:{number}" for number in range(1, 22)]
    errors = {row["place"].partition(":")[2]: row["error"] for row in rows if row["error"]}
    assert set(errors) == {"5", "6", "7", "9", "21"}
    assert errors["5"].startswith("endpoint: the answer broke off")
    assert errors["6"] == "endpoint: silent for 2 s"
    assert errors["7"].startswith("answer: expected <verdict>")
    assert errors["9"] == "endpoint: refused with status 400"
    good = [row for row in rows if not row["error"]]
    assert {row["label"] for row in good} == {"induced"}
    assert {tuple(row["label_factors"]) for row in good} == {("chat.asked_to_cancel",)}
    assert good[0]["probability"] == pytest.approx(0.8, abs=1e-3)
    assert good[0]["cost_usd"] == pytest.approx(ANSWER_USD)
    assert rows[7]["cost_estimated"]
    assert rows[3]["cost_usd"] > 2 * ANSWER_USD  # half an answer may have been paid too
    assert all(row["label"] is None and row["event_id"] is None for row in rows if row["error"])
    assert json.loads((tmp_path / "labels" / "run.json").read_text())["counts"]["failed"] == 5

    learnt = [one for url in example_files(str(tmp_path / "labels")) for one in read_examples(url)]
    assert len(learnt) == 16
    assert learnt[0].weight == pytest.approx(0.3 * 0.8, abs=1e-3)

    asked = dict(server.asked)
    main(load_settings(LabelJob, _arguments(path, tmp_path, server, **changes)))
    assert server.asked == asked


def test_the_budget_stops_cleanly_and_a_larger_one_goes_on(
    tmp_path: Path, server: ChatServer, capfd: pytest.CaptureFixture[str]
) -> None:
    path, budget = _write_events(tmp_path, 30), 0.01
    small = _arguments(path, tmp_path, server, **{"backend.endpoint.budget_usd": budget})
    with pytest.raises(RuntimeError, match="raise budget_usd and run again"):
        main(load_settings(LabelJob, small))
    paid = sum(server.answered.values()) * ANSWER_USD
    assert 0 < paid <= budget
    assert not (tmp_path / "labels" / "_SUCCESS").exists()
    large = _arguments(path, tmp_path, server, **{"backend.endpoint.budget_usd": 1})
    main(load_settings(LabelJob, large))
    assert [row["event_id"] for row in _rows(tmp_path)] == [f"e-{number}" for number in range(30)]
    assert set(server.answered.values()) == {1}
    assert "30 labelled (30 induced" in capfd.readouterr().out


@pytest.mark.timeout(600)
def test_nothing_is_asked_twice_after_sigkill(tmp_path: Path, local_ray: str) -> None:
    server = ChatServer(seconds_per_token=0.05)
    path = _write_events(tmp_path, 40)
    command = [sys.executable, "-m", "jobs.cancellation_label", *_arguments(path, tmp_path, server)]
    environment = {**os.environ, "RAY_ADDRESS": local_ray}
    try:
        killed = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while sum(server.answered.values()) < 9:
            assert killed.poll() is None, killed.communicate()[1].decode()[-3000:]
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        before = dict(server.asked)
        main(load_settings(LabelJob, _arguments(path, tmp_path, server, **{"run.max_failed_fraction": 0.5})))
    finally:
        server.stop()
    rows = _rows(tmp_path)
    assert [row["place"] for row in rows] == [f"events.jsonl:{number}" for number in range(1, 41)]
    assert len(before) < 40
    assert set(server.asked.values()) == {1}
    unsure = [row for row in rows if row["error"]]
    assert len(unsure) <= 4 * 2  # under way when it died
    assert all("may have been paid" in row["error"] for row in unsure)


def test_a_dead_server_is_no_reason_to_give_events_up(tmp_path: Path, server: ChatServer) -> None:
    server.behave = lambda case, number: "refuse:400"
    path = _write_events(tmp_path, 40)
    with pytest.raises(RuntimeError, match="look at the server, and run again"):
        main(load_settings(LabelJob, _arguments(path, tmp_path, server)))
    server.behave = lambda case, number: "answer"
    main(load_settings(LabelJob, _arguments(path, tmp_path, server)))
    assert not any(row["error"] for row in _rows(tmp_path))


def test_what_a_folder_holds_beside_its_events_is_named(
    tmp_path: Path, server: ChatServer, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    _write_events(tmp_path, 2).rename(tmp_path / "in" / "events.jsonl")
    (tmp_path / "in" / "notes.txt").write_text("none of the events")
    main(load_settings(LabelJob, _arguments(tmp_path / "in", tmp_path, server)))
    assert "passed over: notes.txt" in capfd.readouterr().out
    assert json.loads((tmp_path / "labels" / "run.json").read_text())["counts"]["passed_over"] == ["notes.txt"]


def test_a_model_in_this_process_labels_and_says_before_what_it_will_cost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_chat_model(tmp_path / "tiny")
    path = _write_events(tmp_path, 6)
    arguments = _arguments(path, tmp_path, None, **{"backend.local.model": model, "run.max_actors": 1})
    main(load_settings(LabelJob, [*arguments, "estimate=true"]))
    told = capfd.readouterr().out
    assert "6 events: about" in told
    assert "nothing was asked, nothing was written" in told
    assert not (tmp_path / "labels").exists()
    main(load_settings(LabelJob, arguments))
    rows = _rows(tmp_path)
    assert len(rows) == 6
    assert not any(row["error"] for row in rows)
    assert all(row["cost_usd"] > 0 and row["reasoning"] for row in rows)
    assert rows[1]["cached_tokens"] > 0.5 * rows[1]["prompt_tokens"]


def test_events_that_taught_an_adapter_in_a_bucket_do_not_calibrate_it(
    tmp_path: Path, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, adapter = save_tiny_chat_model(tmp_path / "tiny"), f"{bucket}/adapter"
    path = _write_events(tmp_path, 6)
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "taught.jsonl").write_text(lines[2].replace('"e-2"', '"of another file"') + lines[4])
    given = {
        "input": tmp_path / "taught.jsonl",
        "output": adapter,
        "finetuning.model": model,
        "finetuning.epochs": 1,
        "trainer.num_workers": 0,
        "trainer.checkpoints": tmp_path / "checkpoints",
        "tracking.experiment": "label-test",
    }
    finetune(load_settings(LlmFinetuneJob, [f"{name}={value}" for name, value in given.items()]))
    local = {"backend.local.model": model, "backend.local.adapter": adapter, "run.max_actors": 1}
    main(load_settings(LabelJob, _arguments(path, tmp_path, None, **local)))
    assert "the adapter learnt from 2 of these" in capfd.readouterr().out
    assert [row["learnt"] for row in _rows(tmp_path)] == [False, False, True, False, True, False]
    with pytest.raises(ValueError, match=r"2 of 6 events taught the model's adapter, the first at events\.jsonl:3;"):
        read_judged(f"{tmp_path}/labels")

    path.write_text("".join(lines[:2]))
    main(load_settings(LabelJob, _arguments(path, tmp_path, None, **local, output=tmp_path / "others")))
    assert len(read_judged(f"{tmp_path}/others")) == 2


@pytest.mark.parametrize(("status", "of"), [(401, 1), (429, 3)])
def test_when_the_server_is_well_again_a_rerun_asks_about_the_failed_events_alone(
    tmp_path: Path, server: ChatServer, status: int, of: int
) -> None:
    server.behave = lambda case, number: f"refuse:{status}" if int(case[5:]) % of == 0 else "answer"
    arguments = _arguments(_write_events(tmp_path, 6), tmp_path, server, **{"run.shard_bytes": 12_000})
    with pytest.raises(ValueError, match=r"could not be labelled.*run\.max_failed_fraction"):
        main(load_settings(LabelJob, arguments))
    server.behave = lambda case, number: "answer"
    main(load_settings(LabelJob, arguments))
    assert [row["error"] for row in _rows(tmp_path)] == [None] * 6
    assert set(server.answered.values()) == {1}


def test_after_a_crash_ask_again_asks_about_what_was_under_way(tmp_path: Path, server: ChatServer) -> None:
    path = _write_events(tmp_path, 4)
    (shard,) = find_event_shards(str(path), shard_bytes=30_000)
    RequestLedger(f"{tmp_path}/labels/_staging/{REQUESTS}/{shard.name}").begin("000001")  # and the process dies
    with pytest.raises(ValueError, match="may have been paid: ask_again=true asks once more"):
        main(load_settings(LabelJob, _arguments(path, tmp_path, server)))
    main(load_settings(LabelJob, _arguments(path, tmp_path, server, **{"labelling.ask_again": "true"})))
    assert [row["error"] for row in _rows(tmp_path)] == [None] * 4
    assert set(server.asked.values()) == {1}


def test_a_model_of_ones_own_is_asked_again_about_what_a_crash_left(tmp_path: Path, local_ray: str) -> None:
    model = save_tiny_chat_model(tmp_path / "tiny")
    path = _write_events(tmp_path, 3)
    (shard,) = find_event_shards(str(path), shard_bytes=30_000)
    RequestLedger(f"{tmp_path}/labels/_staging/{REQUESTS}/{shard.name}").begin("000001")  # and the process dies
    local = {"backend.local.model": model, "run.max_actors": 1}
    main(load_settings(LabelJob, _arguments(path, tmp_path, None, **local)))
    assert [row["error"] for row in _rows(tmp_path)] == [None] * 3
