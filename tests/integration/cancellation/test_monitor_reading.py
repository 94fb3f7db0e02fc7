"""A day that Ray Data reads is the day that one process reads, whatever is wrong with it, on disk and on S3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.monitoring.parts import one_by_one
from cancellation.monitoring.run import MonitoredDay, MonitorSettings, monitor_day
from cancellation.serving.records.compaction import compact
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.serving.records.shipped_log import day_start
from cluster import storage
from cluster.sharded.pool import map_in_order
from tests.builders.monitored_days import DAY, decisions, feedback, profile, ship, ship_feedback
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.usefixtures("local_ray")
ON_TWO_MACHINES = """
import sys, time
from datetime import date
from pathlib import Path
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150 * 2**20})
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20)
ray.init(cluster.address)
from cancellation.monitoring.run import MonitorSettings, monitor_day
from cluster.sharded.pool import map_in_order
archive, out, marks, day = sys.argv[1:]

def together(unit, step, marks, *arguments):
    # A unit goes on only once another is read on the other machine: readers that take turns would wait for ever.
    (Path(marks) / ray.get_runtime_context().get_node_id()).touch()
    deadline = time.monotonic() + 120
    while len(list(Path(marks).iterdir())) < 2:
        assert time.monotonic() < deadline, "all is read on one machine"
        time.sleep(0.05)
    return step(unit, *arguments)

found = monitor_day(
    archive, out, date.fromisoformat(day), profile=None, profile_missing=None, settings=MonitorSettings(),
    through=lambda units, step, *arguments: map_in_order(units, together, step, marks, *arguments),
)
print(found.today.events)
ray.shutdown()
cluster.shutdown()
"""
TABLE = decisions(DAY, 720)


def _with_shadow(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("shadow")
    column = DECISION_SCHEMA.field(place)
    said = {"name": "next", "model_version": "next@2", "score": 0.9, "verdict": "induced", "action": "none"}
    return table.set_column(place, column, pa.array([said] * len(table), column.type))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days; a compaction of the second was killed, so its records are there twice, in files of several parts."""
    folder = tmp_path_factory.mktemp("archive")
    ship(folder, decisions(DAY - timedelta(days=1), 300))
    segments = ship(folder, TABLE)
    ship(folder, _with_shadow(TABLE), log="shadow")
    assert len(segments) == 72
    shutil.copytree(folder, folder.with_name("before"))
    compact(str(folder), before=DAY + timedelta(days=1))
    shutil.copytree(folder.with_name("before"), folder, dirs_exist_ok=True)
    segments[3].write_bytes(segments[3].read_bytes()[:300])
    said = feedback(TABLE, DAY, 40)
    ship_feedback(folder, [*said, said[0], {**said[1], "event_id": "nobody"}])
    ship_feedback(folder, feedback(TABLE, DAY, 5, hour=22), name="cut")
    for path in (folder / "feedback").rglob("*cut.parquet"):
        path.write_bytes(path.read_bytes()[:200])
    return folder


def _monitored(archive: str, out: str, through: Callable) -> MonitoredDay:
    return monitor_day(
        archive,
        out,
        DAY,
        profile=profile(),
        profile_missing=None,
        settings=MonitorSettings(),
        through=through,
        now=day_start(DAY) + 2 * 86_400,
    )


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_ray_data_counts_what_one_process_counts(
    archive: Path, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(archive)
    if place == "s3":
        url = request.getfixturevalue("bucket")
        storage.send_folder(archive, url)
    alone = _monitored(url, str(tmp_path / "alone"), one_by_one)
    found = _monitored(url, str(tmp_path / "ray"), map_in_order)
    assert asdict(found.today) == asdict(alone.today)
    assert [asdict(one) for one in found.before] == [asdict(one) for one in alone.before]
    assert [asdict(one) for one in found.feedback] == [asdict(one) for one in alone.feedback]
    assert found.findings == alone.findings
    assert found.today.events == len(TABLE), "the rows of the file that was cut are in the compacted one"
    assert found.today.damage.files == [], "so it is missed by nobody"
    assert sum(found.today.shadow["next"]["pairs"].values()) == len(TABLE)
    assert found.feedback[-1].unknown == 1
    assert found.feedback[-1].damage.files
    kept = pq.read_table(found.events_url)["event_id"].to_pylist()
    assert sorted(kept) == sorted(TABLE["event_id"].to_pylist())


@pytest.mark.slow
def test_units_are_read_on_several_machines_at_once(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    places = [str(archive), str(tmp_path / "out"), str(tmp_path / "marks"), str(DAY)]
    command = [sys.executable, "-c", ON_TWO_MACHINES, *places]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(len(TABLE))


@pytest.mark.slow
def test_an_outside_systems_trouble_is_raised_as_it_is_and_no_day_is_kept(
    archive: Path, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    storage.send_folder(archive, bucket)
    with s3_server.fail("GET", "05-0001.parquet", status=403, times=1) as fault, pytest.raises(PermissionError):
        _monitored(bucket, str(tmp_path / "out"), map_in_order)
    assert fault.reached.is_set()
    assert not (tmp_path / "out" / "days" / str(DAY) / "decisions.json").exists()
    assert _monitored(bucket, str(tmp_path / "out"), map_in_order).today.events == len(TABLE)
