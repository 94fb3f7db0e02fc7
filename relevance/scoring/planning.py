"""Cut a day of pairs into deterministic shards, all pairs of a product together, through storage.

A hash shuffle in two steps. `SplitGroup.partition` reads some splits of the input, validates their rows and
writes them as one file in which each shard's rows lie together; `read_shard` later fetches one byte
range of every such file. Nothing is held between the two, so memory does not grow with the input,
and a killed run finds the finished files by their manifests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage
from cluster.commit import Output
from relevance.pairs.files import Split, error_kind, read_split
from relevance.pairs.pair import clean_pairs, shards_of

PARTITION_STAGE = "partitions"
_PARTITION_ROWS = 131_072
"""Rows held by one task while it sorts them to shards: about 100 MB with long descriptions."""
_PARTITION_BYTES = 2**29
"""And bytes: from 2 GiB of a column's texts on Arrow cannot sort them."""
_GROUP_BYTES = 2**26
"""Of small files that one task reads one after the other, as they are stored: some seconds of work."""


@dataclass(frozen=True)
class Shard:
    """A shard's place in the partitioned files, in the order of the input."""

    number: int
    num_shards: int
    num_rows: int
    files: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def count_shards(splits: Iterable[Split], *, shard_rows: int) -> int:
    """How many shards an input is cut into: a function of the input alone."""
    return max(1, -(-sum(split.estimated_rows for split in splits) // shard_rows))


@dataclass(frozen=True)
class SplitGroup:
    """Splits that one task brings to their shards: a large one, or small ones that follow each other.

    A shard fetches a range of each group's files: of thousands of small ones it would be one of each.
    """

    splits: tuple[Split, ...]

    @property
    def name(self) -> str:
        """The first one's, to the last one's: sorted, they are in the order of the input."""
        first, last = self.splits[0].name, self.splits[-1].name
        return first if len(self.splits) == 1 else f"{first}-to-{last}"

    def partition(self, output: Output, *, num_shards: int, max_text_bytes: int, carry: Sequence[str] = ()) -> None:
        """Validate the splits' rows, write them ordered by shard, and commit the group's manifest."""
        files, errors, num_rows = [], Counter(), 0
        held: list[pa.Table] = []
        for table in chain.from_iterable(map(read_split, self.splits)):
            clean = clean_pairs(table, max_text_bytes=max_text_bytes, carry=carry)
            errors.update(map(error_kind, pc.drop_null(clean["error"]).to_pylist()))
            num_rows += len(clean)
            if held and held[-1].schema != clean.schema:  # a carried column's form may be another file's own
                files.append(_write_partition(held, self.name, output, num_shards))
                held = []
            held.append(clean)
            if sum(map(len, held)) >= _PARTITION_ROWS or sum(table.nbytes for table in held) >= _PARTITION_BYTES:
                files.append(_write_partition(held, self.name, output, num_shards))
                held = []
        if held:
            files.append(_write_partition(held, self.name, output, num_shards))
        manifest = {"files": files, "num_rows": num_rows, "errors": dict(errors)}
        output.commit_unit(PARTITION_STAGE, self.name, manifest)


def group_splits(splits: Iterable[Split]) -> list[SplitGroup]:
    """Put splits together that follow each other, as many as make a file of rows: a function of the input alone."""
    groups: list[SplitGroup] = []
    rows = size = 0
    for split in splits:
        rows, size = rows + split.estimated_rows, size + split.size_bytes
        if groups and rows <= _PARTITION_ROWS and size <= _GROUP_BYTES:
            groups[-1] = SplitGroup((*groups[-1].splits, split))
        else:
            groups.append(SplitGroup((split,)))
            rows, size = split.estimated_rows, split.size_bytes
    return groups


def _write_partition(tables: list[pa.Table], group: str, output: Output, num_shards: int) -> dict[str, Any]:
    table = pa.concat_tables(tables).combine_chunks()
    shards = shards_of(table["product_id"].combine_chunks(), num_shards)
    order = np.argsort(shards, kind="stable")
    table = table.take(pa.array(order))
    present, first = np.unique(shards[order], return_index=True)
    ends = np.append(first[1:], len(table))
    ranges: dict[str, list[int]] = {}
    plain = _decoded(table)
    with pa.BufferOutputStream() as buffer:
        for shard, start, end in zip(present.tolist(), first.tolist(), ends.tolist(), strict=True):
            position = buffer.tell()
            _write_rows(buffer, _encoded(plain.slice(start, end - start), table.schema))
            ranges[str(shard)] = [position, buffer.tell(), end - start]
        name = output.write_data(f"partition-{group}", buffer.getvalue())
    return {"name": name, "ranges": ranges}


def _decoded(table: pa.Table) -> pa.Table:
    """Write columns with a dictionary out: each slice would be stored with the whole of it."""
    return pa.table({name: _without_dictionary(table[name]) for name in table.column_names})


def _without_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if _has_dictionary(column.type) else column


def _has_dictionary(kind: pa.DataType) -> bool:
    """Tell a column of words by number; of lists and structs Arrow can make none again."""
    if not pa.types.is_dictionary(kind):
        return False
    value = kind.value_type
    return pa.types.is_primitive(value) or pa.types.is_string(value) or pa.types.is_large_string(value)


def _encoded(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a slice the types that it had, with the words alone that stand in it."""
    columns = (
        _with_dictionary(rows[field.name], field.type) if _has_dictionary(field.type) else rows[field.name]
        for field in schema
    )
    return pa.table(dict(zip(schema.names, columns, strict=True)))


def _with_dictionary(column: pa.ChunkedArray, kind: pa.DictionaryType) -> pa.Array:
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return pa.DictionaryArray.from_arrays(
        encoded.indices.cast(kind.index_type), encoded.dictionary, ordered=kind.ordered
    )


def _write_rows(sink: pa.NativeFile, rows: pa.Table) -> None:
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)


def collect_shards(manifests: Mapping[str, Mapping[str, Any]], num_shards: int) -> list[Shard]:
    """Turn the groups' manifests into shards; one without rows is left out."""
    parts: list[list[tuple[str, int, int, int]]] = [[] for _ in range(num_shards)]
    for group in sorted(manifests):
        for file in manifests[group]["files"]:
            for shard, (start, end, num_rows) in file["ranges"].items():
                parts[int(shard)].append((file["name"], start, end, num_rows))
    shards = []
    for number, found in enumerate(parts):
        if found:
            files, starts, ends, rows = zip(*found, strict=True)
            shards.append(Shard(number, num_shards, sum(rows), files, starts, ends))
    return shards


def read_shard(shard: Shard, output: Output) -> pa.Table:
    """Read a shard's rows (see `pairs.CLEAN_SCHEMA`), in the order of the input."""
    urls = [storage.join_url(output.url, name) for name in shard.files]
    parts = storage.read_ranges(urls, shard.starts, shard.ends)
    table = pa.concat_tables(
        [pa.ipc.open_stream(part).read_all() for part in parts], promote_options="permissive"
    ).combine_chunks()
    assert len(table) == shard.num_rows, f"shard {shard.name}: {len(table)} rows, the plan says {shard.num_rows}"
    return table
