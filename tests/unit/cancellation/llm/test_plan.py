"""What a labelling's output is a function of: a run goes on only with what it began with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cancellation.decision.policy import load_policy
from cancellation.events.files import find_event_shards
from cancellation.llm.backends import BackendSettings
from cancellation.llm.labelling import LabellingSettings
from cancellation.llm.retrieval import RetrievalSettings
from cancellation.llm.run import LabellingRun, LabellingRunSettings, label_events, make_plan
from cluster.commit import Output
from tests.builders.cancellation_events import sample_event


def _examples(path: Path, label: str) -> None:
    path.write_text(json.dumps({"event": sample_event(), "label": label}) + "\n")


def test_events_whose_writer_is_not_done_are_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    _examples(tmp_path / "events" / "a.jsonl", "induced")
    run = LabellingRun(
        str(tmp_path / "events"),
        Output(str(tmp_path / "labels")),
        BackendSettings(kind="endpoint"),
        load_policy(),
        LabellingSettings(),
        LabellingRunSettings(require_marker="_SUCCESS"),
        str(tmp_path / "cache"),
    )
    with pytest.raises(RuntimeError, match=r"events: no _SUCCESS there \(run\.require_marker\): run again when"):
        label_events(run)


@pytest.mark.parametrize("changed", ["examples", "encoder"])
def test_an_output_never_mixes_two_sets_of_examples(tmp_path: Path, changed: str) -> None:
    events, shown, encoder = tmp_path / "events.jsonl", tmp_path / "shown.jsonl", tmp_path / "encoder"
    events.write_text(json.dumps({"event": sample_event()}) + "\n")
    _examples(shown, "induced")
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    retrieval = RetrievalSettings(examples=str(shown), encoder=str(encoder))
    run = LabellingRun(
        str(events),
        Output(str(tmp_path / "labels")),
        BackendSettings(kind="endpoint"),
        load_policy(),
        LabellingSettings(retrieval=retrieval),
        LabellingRunSettings(),
        str(tmp_path / "cache"),
    )
    shards = find_event_shards(str(events), shard_bytes=run.settings.shard_bytes)
    assert run.output.open(make_plan(run, shards)) is None  # begun, and killed
    assert run.output.open(make_plan(run, shards)) is None
    if changed == "examples":
        _examples(shown, "not_induced")
    else:
        (encoder / "config.json").write_text('{"other": 1}')
    with pytest.raises(ValueError, match=f"holds a run with different {changed}"):
        label_events(run)
