"""A label store's many small files made into few: what looking up costs stays the same, however many days there were.

Entries never change, so nothing has to be locked. The new files are written first and hold all that the old ones hold;
only then are those removed. Whoever listed the old ones lists again. What is killed in between leaves entries twice,
which is harmless, and the next time puts it right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from relevance.pairs.pair import shard_range
from relevance.scoring.label_store import LabelStore, are_labels, first_last, overlapping, read_entries

logger = logging.getLogger(__name__)

MAX_FILES = 16
"""Files over one place of the hash range before they are compacted: each is a request for every shard's lookup."""
_LIGHT = 0.4
"""CPU cores of a merge; it reads and writes more than it computes."""
_ENTRY_BYTES = 48
_ENTRIES_PER_FILE = 1_000_000
"""Roughly: what one task holds in memory, some 100 MB."""


@dataclass(frozen=True)
class Merge:
    """A range of product hashes whose entries become one file. Cheap to send to workers."""

    hash_range: tuple[int, int]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Compacted:
    """What a compaction did; zeros where there was nothing to do."""

    num_old: int
    num_new: int
    num_entries: int


def depth(files: Sequence[str]) -> int:
    """The most files that lie over one place of the hash range: what one lookup opens at least."""
    if not files:
        return 0
    firsts, lasts = (np.sort(np.array(ends, np.uint64)) for ends in zip(*map(first_last, files), strict=True))
    begun = np.arange(1, len(files) + 1)
    return int((begun - np.searchsorted(lasts, firsts, side="left")).max())


def plan_merges(store: LabelStore) -> list[Merge]:
    """Cut the hash range so that each part's entries fit one file; empty where a merge would change nothing."""
    listed = store.listed()
    files = [file.url for file in listed]
    if depth(files) < 2:
        return []
    entries = sum(file.size_bytes for file in listed) // _ENTRY_BYTES
    count = max(1, -(-entries // _ENTRIES_PER_FILE))
    ranges = [shard_range(number, count) for number in range(count)]
    return [Merge(one, tuple(found)) for one in ranges if (found := overlapping(files, one))]


def merge(store: LabelStore, one: Merge) -> int:
    """Write a range's entries as one file, each once and only those that are labels; returns how many."""
    entries = read_entries(one.files)
    first, end = one.hash_range
    products = np.asarray(entries["product"])
    inside = pa.array((products >= np.uint64(first)) & (products <= np.uint64(end - 1)))
    entries = entries.filter(pc.and_(inside, are_labels(entries))).combine_chunks()
    contents = np.asarray(entries["content"].combine_chunks().cast(pa.binary()).dictionary_encode().indices)
    entries = entries.take(pa.array(np.sort(np.unique(contents, return_index=True)[1])))
    if len(entries):
        store.write(one.hash_range, entries)
    return len(entries)


def on_ray(step: Callable[[LabelStore, Merge], int], store: LabelStore, merges: list[Merge]) -> list[int]:
    """Merge on all of a cluster's cores."""
    import ray

    task = ray.remote(num_cpus=_LIGHT)(step)
    return ray.get([task.remote(store, one) for one in merges])


def one_by_one(step: Callable[[LabelStore, Merge], int], store: LabelStore, merges: list[Merge]) -> list[int]:
    """Merge in this process."""
    return [step(store, one) for one in merges]


def compact(store: LabelStore, *, run: Callable[..., list[int]] = one_by_one) -> Compacted:
    """Replace a store's files by few; a file that comes meanwhile stays as it is.

    Args:
        store: The labels of one fingerprint.
        run: `one_by_one` or `on_ray`.
    """
    merges = plan_merges(store)
    if not merges:
        return Compacted(0, 0, 0)
    old = sorted({file for one in merges for file in one.files})
    try:
        entries = sum(run(merge, store, merges))
    except FileNotFoundError:
        logger.info("label store %s: another run compacts it", store.folder)
        return Compacted(0, 0, 0)
    storage.remove_files(old)
    return Compacted(len(old), len(merges), entries)
