"""A labelled sample says how it was drawn, and what holds for several of them is what holds for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.decision.sample import LabelledSample, read_sample, together, write_sample
from cancellation.simulation.simulator import SimulationSettings
from jobs.cancellation_simulate import SimulateJob, main

ALL = ("penalty", "investigate", "none")


def test_a_simulation_says_that_it_is_one(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.parquet"):
        main(SimulateJob(output=str(tmp_path / name), simulation=SimulationSettings(num_events=3)))
    for place in (tmp_path / "a.jsonl", tmp_path):
        assert read_sample(str(place)) == LabelledSample(source="simulation", drawn="random", outcomes=ALL)


def test_of_several_files_the_weakest_word_counts(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("")
    write_sample(str(tmp_path / "a.jsonl"), LabelledSample(source="backfill", drawn="random", outcomes=ALL))
    with pytest.raises(ValueError, match=r"expected how they were drawn in .*b\.jsonl\.sample\.json, found none"):
        read_sample(str(tmp_path))
    other = LabelledSample(source="written", drawn="chosen", outcomes=("penalty", "none"))
    write_sample(str(tmp_path / "b.jsonl"), other)
    assert read_sample(str(tmp_path)) == other
    (tmp_path / "_sample.json").write_text('{"source": "backfill", "drawn": "often", "outcomes": []}')
    with pytest.raises(ValueError, match="found bad values at drawn"):
        read_sample(str(tmp_path))


@pytest.mark.parametrize("name", ["b.ndjson", "b.json", "b.jsonl.gz", "B.JSONL", "b.parq"])
def test_no_file_that_is_read_goes_unasked(tmp_path: Path, name: str) -> None:
    """What somebody chose would else prove something beside what was drawn at random."""
    (tmp_path / "a.jsonl").write_text("")
    write_sample(str(tmp_path / "a.jsonl"), LabelledSample(source="backfill", drawn="random", outcomes=ALL))
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"expected how they were drawn in .*\.sample\.json, found none"):
        read_sample(str(tmp_path))
    chosen = LabelledSample(source="backfill", drawn="chosen", outcomes=ALL)
    write_sample(str(tmp_path / name), chosen)
    assert read_sample(str(tmp_path)) == read_sample(str(tmp_path / name)) == chosen


def test_a_weighted_sample_proves_and_beside_a_chosen_one_nothing_does(tmp_path: Path) -> None:
    random, weighted, chosen = (
        LabelledSample(source="backfill", drawn=drawn, outcomes=ALL) for drawn in ("random", "weighted", "chosen")
    )
    weighted.refuse("first.jsonl")
    assert together([random, weighted]) == weighted
    assert together([random, weighted, chosen]) == chosen
    with pytest.raises(ValueError, match=r"both: a random sample .* is expected, found one that was chosen"):
        together([weighted, chosen]).refuse("both")
