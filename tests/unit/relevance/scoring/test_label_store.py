from pathlib import Path

import numpy as np
import pyarrow as pa

from relevance.pairs.pair import shard_range
from relevance.scoring.label_store import LabelStore, content_digests

PRODUCTS = pa.array(["a lamp", "a lamp", "a chair"])
QUERIES = pa.array(["lamp", "led lamp", "lamp"])


def _filled(url: str) -> tuple[LabelStore, pa.Array, np.ndarray, np.ndarray]:
    store = LabelStore(url, "f1")
    digests = content_digests(PRODUCTS, QUERIES)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 3).astype(np.float32)
    mass = np.array([0.9, 0.8, 0.7], np.float32)
    store.add(shard_range(1, 4), digests, probabilities, mass)
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
