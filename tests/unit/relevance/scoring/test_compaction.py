"""A label store over a year: as many files to open on the last day as in the second month, and no label lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage
from jobs.relevance_compact import CompactJob, main
from relevance.pairs.pair import shard_range
from relevance.scoring.compaction import MAX_FILES, compact, depth
from relevance.scoring.label_store import LabelStore, overlapping

PAIRS_A_SHARD = 3


def _add_day(store: LabelStore, day: int, num_shards: int) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    """Write one file a shard, as a scoring day does; what was added."""
    chooser = np.random.default_rng(day)
    all_hashes, all_digests, all_labels = [], [], []
    for shard in range(num_shards):
        first, end = shard_range(shard, num_shards)
        hashes = chooser.integers(first, end - 1, PAIRS_A_SHARD, dtype=np.uint64, endpoint=True)
        digests = pa.array([chooser.bytes(16) for _ in hashes], pa.binary(16))
        labels = chooser.dirichlet(np.ones(4), len(hashes)).astype(np.float32)
        store.add((first, end), hashes, digests, labels, np.full(len(hashes), 0.9, np.float32))
        all_hashes.append(hashes)
        all_digests.append(digests)
        all_labels.append(labels)
    return np.concatenate(all_hashes), pa.concat_arrays(all_digests), np.concatenate(all_labels)


def test_after_a_year_a_shard_opens_as_many_files_as_in_the_second_month(tmp_path: Path) -> None:
    store, opened, days = LabelStore(str(tmp_path), "f1"), [], []
    for day in range(365):
        num_shards = 3 + day % 3  # no two days are cut alike
        if depth(store.files()) > MAX_FILES:
            compact(store)
        files = store.files()
        opened.append(np.mean([len(overlapping(files, shard_range(n, num_shards))) for n in range(num_shards)]))
        days.append(_add_day(store, day, num_shards))
    second_month, last_month = np.mean(opened[30:60]), np.mean(opened[-30:])
    assert last_month <= 1.2 * second_month
    assert max(opened) <= 2 * (MAX_FILES + 2)
    for hashes, digests, labels in (days[0], days[180], days[-1]):
        found, values, _ = store.lookup(store.files(), (int(hashes.min()), int(hashes.max()) + 1), digests)
        assert found.all()
        assert (values == labels).all()


def test_whoever_listed_the_files_before_finds_the_labels_all_the_same(bucket: str) -> None:
    store = LabelStore(f"{bucket}/store", "f1")
    _, digests, labels = _add_day(store, 0, 2)
    _add_day(store, 1, 3)
    listed = store.files()
    done = compact(store)
    assert (done.num_old, done.num_new, done.num_entries) == (5, 1, 5 * PAIRS_A_SHARD)
    assert not set(listed) & set(store.files())
    found, values, _ = store.lookup(listed, (0, 2**64), digests)
    assert found.all()
    assert (values == labels).all()


def test_a_killed_compaction_leaves_entries_twice_and_the_next_one_once(tmp_path: Path) -> None:
    store = LabelStore(str(tmp_path), "f1")
    _, digests, labels = _add_day(store, 0, 2)
    files = {file: storage.read_bytes(file) for file in store.files()}
    _add_day(store, 1, 2)
    compact(store)
    for file, content in files.items():  # as if it had been killed before it removed these
        storage.write_bytes(file, content)
    found, values, _ = store.lookup(store.files(), (0, 2**64), digests)
    assert found.all()
    assert (values == labels).all()
    assert compact(store).num_entries == 4 * PAIRS_A_SHARD


@pytest.mark.usefixtures("local_ray")
def test_the_job_compacts_every_fingerprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("f1", "f2"):
        for day in range(3):
            _add_day(LabelStore(str(tmp_path), name), day, 2)
    main(CompactJob(store=str(tmp_path)))
    said = capsys.readouterr().out
    assert "f1 (1 of 2): 6 files made into 1" in said
    assert "f2 (2 of 2): 6 files made into 1" in said
    main(CompactJob(store=str(tmp_path), fingerprint="f2"))
    assert "f2 (1 of 1): nothing to do" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no labels of f3 there"):
        main(CompactJob(store=str(tmp_path), fingerprint="f3"))
