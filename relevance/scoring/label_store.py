"""Labels already given, by fingerprint and content: what was scored yesterday is not computed today.

Content-addressed: an entry says what this model and prompt give for these texts, so two runs that write the same
entry agree and need no coordination. A file holds one shard's new entries and carries the shard's range of product
hashes in its name, so a later day, cut into another number of shards, opens only the files that overlap its own range.
Files only grow in number, by one a shard and day: `compaction` replaces them by few.

    <store>/<fingerprint>/<first hash>-<last hash>-<random>.parquet
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage

DIGEST_BYTES = 16
_OWN_NAME = re.compile(r"/[0-9a-f]{16}-[0-9a-f]{16}-[^/]*\.parquet$")
_PARALLEL_READS = 16
_LISTINGS = 10
"""While a compaction removes the old files, a listing may name some that are about to go."""

STORE_SCHEMA = pa.schema(
    [
        ("product", pa.uint64()),
        ("content", pa.binary(DIGEST_BYTES)),
        *((f"p_{index}", pa.float32()) for index in range(4)),
        ("label_mass", pa.float32()),
    ]
)


def content_digests(product_texts: pa.Array, queries: pa.Array) -> pa.Array:
    """Digest what the model reads of each pair, fixed-size binary (n,); neighbours often share the product."""
    digests, last_text, product = [], None, hashlib.blake2b(digest_size=DIGEST_BYTES)
    for text, query in zip(product_texts.to_pylist(), queries.to_pylist(), strict=True):
        if text != last_text:
            # The length keeps (ab, c) and (a, bc) apart.
            encoded = text.encode()
            product = hashlib.blake2b(len(encoded).to_bytes(8, "little") + encoded, digest_size=DIGEST_BYTES)
            last_text = text
        pair = product.copy()
        pair.update(query.encode())
        digests.append(pair.digest())
    return pa.array(digests, pa.binary(DIGEST_BYTES))


@dataclass(frozen=True)
class LabelStore:
    """The entries of one fingerprint. Cheap to send to workers."""

    url: str
    fingerprint: str

    @property
    def folder(self) -> str:
        return storage.join_url(self.url, self.fingerprint)

    def files(self) -> list[str]:
        """List the store's files, once per run: shards then pick theirs by name."""
        return [file.url for file in self.listed()]

    def listed(self) -> list[storage.StoredFile]:
        """List the same with their sizes; what has no name of the store's own, such as a copy, is none of them."""
        return [file for file in storage.list_files(self.folder, suffix=".parquet") if _OWN_NAME.search(file.url)]

    def lookup(self, files: Sequence[str], hash_range: tuple[int, int], digests: pa.Array) -> tuple[np.ndarray, ...]:
        """Find the digests among the entries of a hash range.

        Returns:
            Where each was found, bool (n,); its probabilities, float32 (n, 4), NaN where all that is stored of it is
            no label; its label mass, float32 (n,), NaN where it was not asked for.
        """
        n = len(digests)
        probabilities, mass = np.zeros((n, 4), np.float32), np.zeros(n, np.float32)
        if not n or not overlapping(files, hash_range):
            return np.zeros(n, bool), probabilities, mass
        entries = self._read(files, hash_range)
        labels = are_labels(entries)
        probabilities[np.asarray(pc.is_in(digests, value_set=_contents(entries.filter(pc.invert(labels)))))] = np.nan
        entries = entries.filter(labels).combine_chunks()
        index = pc.index_in(digests, value_set=_contents(entries))
        found = np.asarray(pc.is_valid(index))
        rows = np.asarray(pc.fill_null(index, 0))[found]
        for column in range(4):
            probabilities[found, column] = np.asarray(entries[f"p_{column}"])[rows]
        mass[found] = np.asarray(entries["label_mass"])[rows]
        return found, probabilities, mass

    def _read(self, files: Sequence[str], hash_range: tuple[int, int]) -> pa.Table:
        for _ in range(_LISTINGS):
            try:
                return read_entries(overlapping(files, hash_range))
            except FileNotFoundError:
                # Compacted since the files were listed: what they held is in the files that are there now.
                files = self.files()
        return read_entries(overlapping(files, hash_range))

    def add(
        self,
        hash_range: tuple[int, int],
        products: np.ndarray,
        digests: pa.Array,
        probabilities: np.ndarray,
        mass: np.ndarray,
    ) -> None:
        """Append a shard's new entries: hashes of their products, uint64 (n,), the other arrays as of `lookup`."""
        if not len(digests):
            return
        columns = [
            pa.array(products, pa.uint64()),
            digests,
            *(pa.array(probabilities[:, column]) for column in range(4)),
            pa.array(mass, mask=np.isnan(mass)),
        ]
        self.write(hash_range, pa.Table.from_arrays(columns, schema=STORE_SCHEMA))

    def write(self, hash_range: tuple[int, int], entries: pa.Table) -> None:
        """Write a file of entries, all products of which are in the range."""
        buffer = pa.BufferOutputStream()
        pq.write_table(entries, buffer, compression="zstd")
        first, end = hash_range
        name = f"{first:016x}-{end - 1:016x}-{uuid.uuid4().hex[:12]}.parquet"
        storage.write_bytes(storage.join_url(self.folder, name), buffer.getvalue())


def fingerprints(url: str) -> list[str]:
    """Name the fingerprints of which a store has labels."""
    folder = storage.absolute_url(url)
    files = storage.list_files(folder, suffix=".parquet")
    return sorted({file.url.removeprefix(f"{folder}/").partition("/")[0] for file in files})


def overlapping(files: Sequence[str], hash_range: tuple[int, int]) -> list[str]:
    """Choose the files that may hold entries of a range, by their names."""
    return [file for file in files if first_last(file)[0] < hash_range[1] and first_last(file)[1] >= hash_range[0]]


def first_last(file: str) -> tuple[int, int]:
    """Read the first and the last product hash that a file may hold off its name."""
    first, last = (int(part, 16) for part in file.rpartition("/")[2].split("-")[:2])
    return first, last


def are_labels(entries: pa.Table) -> pa.Array:
    """Tell which entries are labels, bool (n,): once a model that overflowed could leave NaN behind."""
    finite = [pc.fill_null(pc.is_finite(entries[f"p_{column}"]), False) for column in range(4)]
    # A mass that was not asked for is null, one that could not be computed was written as NaN.
    return reduce(pc.and_, [*finite, pc.fill_null(pc.is_finite(entries["label_mass"]), True)])


def _contents(entries: pa.Table) -> pa.Array:
    return entries["content"].combine_chunks()


def read_entries(files: Sequence[str]) -> pa.Table:
    """Read files of entries, many at a time.

    Raises:
        ValueError: If one is damaged, naming it.
    """
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        contents = pool.map(storage.read_bytes, files)
        tables = [_entries(file, content) for file, content in zip(files, contents, strict=True)]
    return pa.concat_tables([STORE_SCHEMA.empty_table(), *tables]).combine_chunks()


def _entries(file: str, content: bytes) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(content), schema=STORE_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{file}: not a readable file of labels ({reason}): remove it, its labels are computed anew"
        ) from error
