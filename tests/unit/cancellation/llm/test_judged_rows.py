"""A labelling of labelled events goes into the calibration job: a temperature, and what is proven or missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.decision.policy import Action, load_policy
from cancellation.decision.sample import LabelledSample
from cancellation.events.factors import VERDICTS
from cancellation.events.files import read_event_line
from cancellation.llm.endpoint_backend import EndpointBackend
from cancellation.llm.judged_rows import read_judged
from cancellation.llm.labelling import Labeller, LabellingSettings, label_rows
from cluster.endpoint.ledger import RequestLedger
from cluster.endpoint.settings import EndpointSettings
from cluster.settings import load_settings
from jobs.cancellation_calibrate import CalibrateJob, main
from tests.builders.cancellation_events import before, sample_event
from tests.servers.chat_endpoint import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _judged(server: ChatServer, folder: Path) -> pa.Table:
    """Fifty labelled events of two markets, a third of each class, of all of which the server says 0.8 induced."""
    rows = []
    for number in range(50):
        names = {name: f"{name}-{number}" for name in ("event_id", "order_id", "seller_id")}
        other = {"market": ("TH", "ID")[number % 2], "cancelled_at": before(-60.0 * number)}
        line = {"event": {**sample_event(), **names, **other}, "label": VERDICTS[(number // 2) % 3]}
        rows.append(read_event_line(json.dumps(line).encode(), f"events.jsonl:{number + 1}"))
    labeller = Labeller(EndpointBackend(EndpointSettings(base_url=server.url)), LabellingSettings(), load_policy())
    return label_rows(rows, labeller, RequestLedger(str(folder / "ledger")), parallel=4)


def _commit(table: pa.Table, folder: Path) -> Path:
    folder.mkdir()
    pq.write_table(table, folder / "part-0.parquet")
    (folder / "_SUCCESS").write_text(json.dumps({"files": ["part-0.parquet"]}))
    return folder


def test_verdicts_beside_peoples_labels_are_calibrated_and_thresholds_sought(
    tmp_path: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, output = _commit(_judged(server, tmp_path), tmp_path / "labels"), tmp_path / "calibrated"
    sample = LabelledSample(source="backfill", drawn="random", outcomes=get_args(Action))
    (labels / "_sample.json").write_text(sample.model_dump_json())
    given = [f"input={labels}", f"output={output}", "model=null", "calibration.min_events=50"]
    main(load_settings(CalibrateJob, [*given, "tracking.experiment=judged-test"]))
    found = json.loads((output / "calibration.json").read_text())
    assert found["temperature"] > 2  # it said 0.8 of what is so in a third of the cases
    assert found["ece_after"] < 0.1 < found["ece_before"]
    assert f"temperature {found['temperature']:.3f}" in capsys.readouterr().out
    evidence = load_policy(output / "policy.toml").market("TH").evidence
    assert evidence is not None
    assert (evidence.model_version, evidence.temperature) == ("default", pytest.approx(found["temperature"]))


def test_shards_of_a_labelling_that_an_earlier_version_began_are_read_beside_later_ones(
    tmp_path: Path, server: ChatServer
) -> None:
    table = _judged(server, tmp_path)
    labels = _commit(table, tmp_path / "labels")
    pq.write_table(table.slice(0, 20).drop_columns(["learnt"]), labels / "part-0.parquet")
    pq.write_table(table.slice(20), labels / "part-1.parquet")
    (labels / "_SUCCESS").write_text(json.dumps({"files": ["part-0.parquet", "part-1.parquet"]}))
    assert len(read_judged(str(labels))) == 50


def test_what_is_no_labelling_or_has_nobodys_labels_is_refused(tmp_path: Path, server: ChatServer) -> None:
    table = _judged(server, tmp_path)
    other = _commit(table.drop(["given_label"]), tmp_path / "other")
    with pytest.raises(ValueError, match="the output of cancellation_label is expected, found none: no given_label"):
        read_judged(str(other))
    place = table.schema.get_field_index("given_label")
    bare = _commit(table.set_column(place, "given_label", pa.nulls(50, pa.string())), tmp_path / "bare")
    with pytest.raises(ValueError, match="label labelled events"):
        read_judged(str(bare))


def test_verdicts_without_log_probabilities_are_refused(tmp_path: Path, server: ChatServer) -> None:
    server.behave = lambda case, number: "plain"
    bare = _commit(_judged(server, tmp_path), tmp_path / "bare")
    with pytest.raises(ValueError, match=r"found 50 of 50 without: .*backend\.endpoint\.top_logprobs"):
        read_judged(str(bare))
