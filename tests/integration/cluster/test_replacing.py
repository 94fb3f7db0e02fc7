"""An output that takes another's place: until it is committed readers have the old one, whole, whatever dies when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from cluster.commit import Output, read_job_manifest
from cluster.sharded.job import Finished, commit_once, commit_shard
from tests.servers.s3 import S3Server

OLD, NEW, OTHER = ({"input": name} for name in ("old", "new", "other"))
SHARDS = {"old": 2, "new": 1, "other": 1}


def _run(url: str, plan: Mapping[str, Any], *, replace: bool = True, shards: int | None = None) -> Finished:
    name, output = plan["input"], Output(url)

    def work() -> int:
        for number in range(SHARDS[name] if shards is None else shards):
            commit_shard(output, f"{number:05d}", pa.table({"x": [name, name]}), {})
        if shards is not None:
            raise ValueError("nothing was published")
        return 0

    return commit_once(
        output,
        plan,
        work,
        summary=lambda *_: {},
        extras=lambda *_: {"report.html": name.encode()},
        started=time.monotonic(),
        replace=replace,
    )


def _rows(url: str, names: Sequence[str]) -> list[str]:
    files = [storage.read_bytes(storage.join_url(url, name)) for name in names]
    return [value for file in files for value in pq.read_table(pa.BufferReader(file))["x"].to_pylist()]


def _whole(url: str, *plans: Mapping[str, Any]) -> str:
    """Which of some plans' rows both kinds of readers see; whoever reads `part-*` waits for `_SUCCESS`."""
    manifest = read_job_manifest(url)
    assert manifest is not None
    rows = _rows(url, manifest["files"])
    name = manifest["plan"]["input"]
    assert name in [plan["input"] for plan in plans]
    assert rows == [name] * 2 * SHARDS[name]
    if storage.exists(f"{url}/_SUCCESS"):
        found = [file.url.rpartition("/")[2] for file in storage.list_files(url)]
        assert _rows(url, [file for file in found if file.startswith("part-")]) == rows
    return name


def test_a_rerun_that_fails_its_checks_leaves_what_was_there(bucket: str) -> None:
    _run(bucket, OLD)
    before = storage.read_bytes(f"{bucket}/_SUCCESS")
    with pytest.raises(ValueError, match="nothing was published"):
        _run(bucket, NEW, shards=1)
    assert _whole(bucket, OLD) == "old"
    with pytest.raises(ValueError, match="different input"):
        _run(bucket, NEW, replace=False)
    assert _run(bucket, OLD, replace=False).already_done
    assert storage.read_bytes(f"{bucket}/_SUCCESS") == before
    assert not storage.exists(f"{bucket}/_staging")


def test_what_broke_is_not_taken_for_what_was_committed_before(bucket: str, s3_server: S3Server) -> None:
    _run(bucket, OLD)
    with s3_server.fail("PUT", r"_staging/shards", status=403, times=1), pytest.raises(PermissionError):
        _run(bucket, NEW)

    def gone() -> int:
        raise FileNotFoundError("what I was about to read")

    with pytest.raises(FileNotFoundError):
        commit_once(Output(bucket), NEW, gone, summary=lambda *_: {}, started=0.0, replace=True)


@pytest.mark.parametrize(
    "then",
    [pytest.param(plan, id=plan["input"], marks=() if plan is NEW else pytest.mark.slow) for plan in (NEW, OLD, OTHER)],
)
def test_killed_at_any_write_the_old_day_is_there_or_the_new_one(
    bucket: str, s3_server: S3Server, then: Mapping[str, Any]
) -> None:
    """Writes of one thread of requests come in an order; behind the last of them the run is through."""
    for writes in range(200):
        url = f"{bucket}/{writes}"
        _run(url, OLD)
        s3_server.writes_left = writes
        try:
            died = _died(lambda url=url: _run(url, NEW))
        finally:
            s3_server.writes_left = float("inf")
        seen = _whole(url, OLD, NEW)
        if not died:
            break
        _run(url, then, replace=then is not OLD or seen == "new")
        assert _whole(url, then) == then["input"]
        assert storage.exists(f"{url}/_SUCCESS")
        assert not storage.exists(f"{url}/_REPLACING")
        assert not storage.exists(f"{url}/_staging")
        assert storage.read_bytes(f"{url}/report.html").decode() in (then["input"], "new")
    assert 12 < writes < 199, "each write of a run was the last one once"
    assert seen == "new"


def _died(run: Callable[[], object]) -> bool:
    try:
        run()
    except OSError:
        return True
    return False


def test_a_claim_that_reaches_the_store_late_replaces_nothing_that_was_committed_meanwhile(
    bucket: str, s3_server: S3Server
) -> None:
    """A store that asks to come again holds a claim up for minutes: the run that it waited for has ended by then."""
    errors: list[str] = []

    def late() -> None:
        with pytest.raises(ValueError, match="holds a run with different input: choose another output") as refused:
            _run(bucket, NEW, replace=False)
        errors.append(str(refused.value))

    with s3_server.hold("PUT", r"/_staging/plan\.json$") as claim:
        waiting = threading.Thread(target=late)
        waiting.start()
        assert claim.reached.wait(60)
        _run(bucket, OLD, replace=False)
        claim.released.set()
        waiting.join(60)
    assert len(errors) == 1
    assert _whole(bucket, OLD) == "old"
    assert storage.list_files(f"{bucket}/_staging") == []
