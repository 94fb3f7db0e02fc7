"""A sharded job: committed once, resumed where it stopped, and stopped where a part would pass for the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import storage
from cluster.commit import Output
from cluster.sharded.job import (
    SHARD_STAGE,
    Finished,
    commit_once,
    commit_shard,
    refuse_failures,
    require_manifests,
    work_off,
)

PLAN = {"input": "a"}


@dataclass(frozen=True)
class Part:
    name: str


PARTS = [Part(f"{number:05d}") for number in range(4)]


class Runs:
    """Commits shards in this process, gives some up, and remembers what it was given."""

    def __init__(self, output: Output, *, bad: Sequence[str] = ()) -> None:
        self.output, self.bad = output, bad
        self.given: list[str] = []
        self.progress: list[str] = []

    def __call__(self, shards: Sequence[Part]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            self.given.append(shard.name)
            if shard.name not in self.bad:
                commit_shard(self.output, shard.name, pa.table({"x": [1, 2]}), {"read": 2})
            yield {"shard": shard.name, "why": "died" if shard.name in self.bad else None}

    def work_off(self, **options: Any) -> dict[str, str]:
        return work_off(
            self.output,
            PARTS,
            self,
            given_up=lambda figures: figures["why"],
            progress=lambda figures: self.progress.append(figures["shard"]),
            **options,
        )


def finish(output: Output, work: Callable[[], int], **options: Any) -> Finished:
    return commit_once(output, PLAN, work, summary=_summary, started=time.monotonic(), **options)


def _summary(counted: int, seconds: float) -> Mapping[str, Any]:
    return {"rows": counted, "seconds": seconds}


def work_of(output: Output) -> Callable[[], int]:
    def work() -> int:
        Runs(output).work_off()
        return 8

    return work


def test_an_output_is_made_once(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    done = finish(output, work_of(output), extras=lambda rows, _: {"note.txt": f"{rows} rows".encode()})
    assert not done.already_done
    assert done.manifest["files"] == [f"part-{part.name}.parquet" for part in PARTS]
    assert (tmp_path / "note.txt").read_text() == "8 rows"
    assert not (tmp_path / "_staging").exists()
    again = finish(Output(str(tmp_path)), lambda: pytest.fail("worked again"))
    assert again.already_done
    assert {name: again.manifest[name] for name in done.manifest} == done.manifest


def test_a_rival_that_commits_first_and_cleans_up_has_won(tmp_path: Path) -> None:
    mine = Output(str(tmp_path))

    def late() -> int:
        finish(rival := Output(str(tmp_path)), work_of(rival))
        raise FileNotFoundError("what I was about to read")

    done = finish(mine, late)
    assert done.already_done
    assert done.manifest["rows"] == 8


def test_an_error_without_a_rival_is_raised(tmp_path: Path) -> None:
    def broken() -> int:
        raise RuntimeError("no storage")

    with pytest.raises(RuntimeError, match="no storage"):
        finish(Output(str(tmp_path)), broken)
    assert not storage.exists(str(tmp_path / "_SUCCESS"))


def test_a_second_run_works_on_what_the_first_left(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    first = Runs(output, bad=["00002"])
    assert first.work_off() == {"00002": "died"}
    assert first.progress == ["00000", "00001", "00003"]
    second = Runs(output)
    assert second.work_off() == {}
    assert second.given == second.progress == ["00002"]


@pytest.mark.parametrize(("bad", "fraction"), [(2, 0.25), (4, 1.0)])
def test_too_many_shards_given_up_is_not_the_shards(tmp_path: Path, bad: int, fraction: float) -> None:
    runs = Runs(Output(str(tmp_path)), bad=[part.name for part in PARTS[:bad]])
    with pytest.raises(RuntimeError, match=rf"gave up {bad} of 4 shards, .* \(00000: died; "):
        runs.work_off(max_given_up_fraction=fraction)


def test_one_shard_may_always_be_given_up(tmp_path: Path) -> None:
    runs = Runs(Output(str(tmp_path)), bad=["00003"])
    assert runs.work_off(max_given_up_fraction=0.0) == {"00003": "died"}


def test_work_that_cannot_be_seen_stops_the_job(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    require_manifests(output, SHARD_STAGE, ["00000"], {"00000": {}})
    with pytest.raises(RuntimeError, match=r"1 of the shards .* cannot be seen .* 00001 first: the output has to be"):
        require_manifests(output, SHARD_STAGE, ["00000", "00001"], {"00000": {}})


def test_too_many_failed_rows_are_refused_with_the_most_frequent_reasons() -> None:
    errors = {"rare": 1, "blank": 4}
    refuse_failures("in", errors, 100, failed=5, max_failed_fraction=0.05, what="have errors")
    with pytest.raises(ValueError, match=r"in: 5\.00% of 100 rows have errors, at most 4\.00% .* blank \(4\); rare"):
        refuse_failures("in", errors, 100, failed=5, max_failed_fraction=0.04, what="have errors")
    refuse_failures("in", {}, 0, failed=0, max_failed_fraction=0.0, what="have errors")
