"""Outputs that are spoilt on purpose: a campaign whose checks would not see that stops before its first strike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.commit import read_job_manifest
from tests.slow.faults.scoring import Campaign, Day
from tests.slow.faults.tally import Tally


def require_days_checked(campaign: Campaign, calm: Day) -> None:
    """Spoil copies of a calm day, each in one way, and see the check count it.

    Raises:
        RuntimeError: If a spoilt day passes for a whole one.
    """
    spoil: dict[str, Callable[[bytes], bytes]] = {
        "lost": lambda data: _changed(data, lambda rows: rows.slice(1)),
        "twice": lambda data: _changed(data, lambda rows: pa.concat_tables([rows, rows.slice(0, 1)])),
        "different": lambda data: _changed(data, _with_error),
        "half_written": lambda data: data[:-20],
    }
    for promise, change in spoil.items():
        day, tally = campaign.new_day(), Tally(promise)
        for file in storage.list_files(calm.output):
            storage.write_bytes(day.output + file.url[len(calm.output) :], storage.read_bytes(file.url))
        manifest = read_job_manifest(day.output)
        assert manifest
        first = storage.join_url(day.output, manifest["files"][0])
        storage.write_bytes(first, change(storage.read_bytes(first)))
        campaign.check(day, tally)
        if not getattr(tally, promise):
            raise RuntimeError(f"the check does not see a day that has something {promise}: {tally}")
    day, tally = campaign.new_day(), Tally("not committed")
    campaign.check(day, tally)
    if not tally.unfinished:
        raise RuntimeError(f"the check does not see a day that is not there: {tally}")


def _changed(data: bytes, change: Callable[[pa.Table], pa.Table]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(pa.BufferReader(data))), sink)
    return sink.getvalue().to_pybytes()


def _with_error(rows: pa.Table) -> pa.Table:
    place = rows.schema.get_field_index("error")
    errors = ["spoilt", *rows["error"].to_pylist()[1:]]
    return rows.set_column(place, rows.schema.field(place), pa.array(errors, rows.schema.field(place).type))


def require_records_checked(shipped: Path, check: Callable[[Tally], None]) -> None:
    """Copy, then remove one of a shipped log's files and see the check count it.

    Raises:
        RuntimeError: If a log with a file too many, or too few, passes for a whole one.
    """
    file = min(shipped.rglob("*.parquet"))
    twin = file.with_name(f"x{file.name}")
    twin.write_bytes(file.read_bytes())
    check(twice := Tally("twice"))
    twin.unlink()
    file.unlink()
    check(lost := Tally("unrecorded"))
    if not (twice.twice and lost.unrecorded):
        raise RuntimeError(f"the check does not see a spoilt log: {twice}, {lost}")
