"""What actors are told of each other's deaths; the deaths themselves need Ray and are tested with the jobs."""

from __future__ import annotations

import json

import pytest

from cluster.sharded.pool import DeathCounter, Deaths, as_report


def test_every_start_but_the_first_follows_a_death() -> None:
    counter = DeathCounter(lambda: {"n1", "n2"})
    assert counter.start("a", "n1") == (0, "its process was killed")
    assert counter.start("a", "n2") == (1, "its process was killed")
    counter.explain("a", "MemoryError")
    assert counter.start("a", "n1") == (2, "MemoryError")
    assert counter.start("b", "n1") == (0, "its process was killed")


def test_a_worker_that_went_with_its_node_did_not_die_of_the_unit() -> None:
    alive = {"n0", "n1", "n2", "n3", "n4"}
    counter = DeathCounter(lambda: alive)
    for number in range(4):
        assert counter.start("a", f"n{number}")[0] == 0
        alive.discard(f"n{number}")
    assert counter.start("a", "n4")[0] == 0
    assert counter.start("a", "n4")[0] == 1, "the node is still there: this one crashed"


def test_a_refusal_is_raised_and_ends_no_process() -> None:
    deaths = Deaths(counter=None, most=1)
    with pytest.raises(ValueError, match="not finite"), deaths.of_errors("a", refusals=(ValueError,)):
        raise ValueError("not finite")
    with deaths.of_errors("a"):
        pass


def test_a_report_is_one_row_of_json() -> None:
    (row,) = as_report({"shard": "a", "read": 3}).to_pylist()
    assert json.loads(row["figures"]) == {"shard": "a", "read": 3}
