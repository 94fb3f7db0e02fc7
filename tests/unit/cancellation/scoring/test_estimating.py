"""A backfill's estimate: how much there is and how long it takes, from a sample of the input."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.decision.policy import load_policy
from cancellation.scoring.estimating import BackfillEstimate, estimate_backfill
from cancellation.scoring.run import ScoringSettings, VerdictRun, open_run
from tests.builders.backfills import BROKEN, model_folder, write_backfill
from tests.builders.verdict_models import load_word_model


def _open(folder: Path, *, shard_bytes: int) -> VerdictRun:
    return open_run(
        str(folder / "events"),
        str(folder / "verdicts"),
        model_folder(folder / "words"),
        load_policy(),
        ScoringSettings(shard_bytes=shard_bytes, max_actors=3),
        cache_dir=str(folder / "cache"),
        load=load_word_model,
    )


def test_an_input_of_few_shards_is_counted_whole_and_nothing_is_written(tmp_path: Path) -> None:
    num_lines = write_backfill(f"{tmp_path}/events/a.jsonl")
    found = estimate_backfill(_open(tmp_path, shard_bytes=2**21), load=load_word_model)
    assert (found.shards, found.events) == (1, num_lines)
    assert found.failed_fraction == pytest.approx(len(BROKEN) / num_lines)
    assert found.events_per_second > 0
    assert not (tmp_path / "verdicts").exists()


def test_a_large_input_is_scaled_up_from_a_part(tmp_path: Path) -> None:
    num_lines = write_backfill(f"{tmp_path}/events/a.jsonl", 400, broken=False)
    found = estimate_backfill(_open(tmp_path, shard_bytes=40_000), load=load_word_model)
    assert found.shards > 8
    assert found.events == pytest.approx(num_lines, rel=0.25)


def test_more_actors_than_shards_gain_nothing() -> None:
    found = BackfillEstimate(4, 100_000, 0.001, events_per_second=100.0, load_seconds=2.0, max_actors=8)
    assert [found.seconds(actors) for actors in (1, 4, 8)] == [1002.0, 252.0, 252.0]
    assert found.lines() == [
        "about 100,000 events in 4 shards; 0.1% cannot be read",
        "one actor: 100 events/s after 2.0 s of loading",
        "1 actor: 16 min 42 s",
        "4 actors: 4 min 12 s",
        "measured here; nothing was written",
    ]


def test_an_input_without_an_event_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "a.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="expected events, found none that could be read"):
        estimate_backfill(_open(tmp_path, shard_bytes=2**21), load=load_word_model)
