from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relevance.pairs.pair import shard_range
from relevance.scoring.label_store import STORE_SCHEMA, LabelStore, content_digests

PRODUCTS = pa.array(["a lamp", "a lamp", "a chair"])
QUERIES = pa.array(["lamp", "led lamp", "lamp"])
HASHES = np.array([2**62, 2**62, 2**62 + 7], np.uint64)


def _filled(url: str) -> tuple[LabelStore, pa.Array, np.ndarray, np.ndarray]:
    store = LabelStore(url, "f1")
    digests = content_digests(PRODUCTS, QUERIES)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 3).astype(np.float32)
    mass = np.array([0.9, 0.8, 0.7], np.float32)
    store.add(shard_range(1, 4), HASHES, digests, probabilities, mass)
    return store, digests, probabilities, mass


def test_what_was_added_is_found_again_to_the_bit(tmp_path: Path) -> None:
    store, digests, probabilities, mass = _filled(str(tmp_path))
    wanted = pa.concat_arrays([content_digests(pa.array(["new"]), pa.array(["x"])), digests[::-1]])
    found, found_probabilities, found_mass = store.lookup(store.files(), shard_range(1, 4), wanted)
    assert found.tolist() == [False, True, True, True]
    assert (found_probabilities[1:] == probabilities[::-1]).all()
    assert (found_mass[1:] == mass[::-1]).all()


def test_another_number_of_shards_finds_overlapping_files_alone(tmp_path: Path) -> None:
    store, digests, _, _ = _filled(str(tmp_path))
    assert store.lookup(store.files(), shard_range(0, 2), digests)[0].all()
    assert not store.lookup(store.files(), shard_range(1, 2), digests)[0].any()


def test_another_fingerprint_knows_nothing(tmp_path: Path) -> None:
    _, digests, _, _ = _filled(str(tmp_path))
    other = LabelStore(str(tmp_path), "f2")
    assert not other.lookup(other.files(), (0, 2**64), digests)[0].any()


def test_text_cannot_move_between_product_and_query() -> None:
    digests = content_digests(pa.array(["ab", "a"]), pa.array(["c", "bc"]))
    assert digests[0] != digests[1]


def test_an_entry_that_is_no_label_is_not_found_and_a_later_one_is(tmp_path: Path) -> None:
    store, digests, probabilities, mass = _filled(str(tmp_path / "good"))
    bad = LabelStore(str(tmp_path / "bad"), "f1")
    broken = probabilities.copy()
    broken[1] = np.nan
    bad.add((0, 2**64), HASHES, digests, broken, mass)
    found, values, _ = bad.lookup(bad.files(), (0, 2**64), digests)
    assert found.tolist() == [True, False, True]
    assert np.isnan(values[1]).all()
    files = [*bad.files(), *store.files()]
    found, values, _ = store.lookup(files, (0, 2**64), digests)
    assert found.all()
    assert (values == probabilities).all()


def test_a_mass_that_was_not_asked_for_is_no_fault_and_one_written_as_nan_is(tmp_path: Path) -> None:
    store, digests, probabilities, mass = _filled(str(tmp_path / "a"))
    unasked = LabelStore(str(tmp_path / "b"), "f1")
    unasked.add((0, 2**64), HASHES, digests, probabilities, np.full(3, np.nan, np.float32))
    found, _, masses = unasked.lookup(unasked.files(), (0, 2**64), digests)
    assert found.all()
    assert np.isnan(masses).all()
    columns = [
        pa.array(HASHES),
        digests,
        *(pa.array(probabilities[:, column]) for column in range(4)),
        pa.array(mass * np.nan),
    ]
    old = tmp_path / f"{0:016x}-{2**64 - 1:016x}-old.parquet"
    pq.write_table(pa.Table.from_arrays(columns, schema=STORE_SCHEMA), old)
    assert not store.lookup([str(old)], (0, 2**64), digests)[0].any()


def test_a_damaged_file_is_named_and_one_of_another_name_is_none_of_the_stores(tmp_path: Path) -> None:
    store, digests, _, _ = _filled(str(tmp_path))
    (tmp_path / "f1" / "copy of labels.parquet").write_bytes(b"")
    assert store.lookup(store.files(), (0, 2**64), digests)[0].all()
    Path(store.files()[0]).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"-[0-9a-f]{12}\.parquet: not a readable file of labels .*: remove it, its lab"
    ):
        store.lookup(store.files(), (0, 2**64), digests)
