"""Generated pairs on storage, and the rows that a run left."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.commit import read_job_manifest
from relevance.labels import LABELS

_WORDS = ("red", "blue", "steel", "wooden", "wall", "clock", "bottle", "shoes", "shirt", "phone", "case", "charger")


def make_pairs(num_pairs: int, *, seed: int = 0, pairs_per_product: int = 5, first: int = 0) -> pa.Table:
    """Pairs with distinct keys and queries, numbered from `first`, in random order."""
    chooser = random.Random(seed)
    rows = []
    for number in range(first, first + num_pairs):
        product = number // pairs_per_product
        words = random.Random(product).choices(_WORDS, k=6)
        query = " ".join(random.Random(number + 10**6).choices(_WORDS, k=2)) + f" {number}"
        rows.append({"query_id": f"q{number}", "query": query, "product_id": f"p{product}", "title": " ".join(words)})
    chooser.shuffle(rows)
    return pa.Table.from_pylist(rows)


def write_pairs(table: pa.Table, url: str, *, num_files: int = 2) -> None:
    """Write a table as parquet files in a folder."""
    step = -(-len(table) // num_files)
    for number in range(num_files):
        buffer = pa.BufferOutputStream()
        pq.write_table(table.slice(number * step, step), buffer)
        storage.write_bytes(storage.join_url(url, f"pairs-{number}.parquet"), buffer.getvalue())


def read_visible(url: str) -> list[dict]:
    """All rows that a reader who globs the folder's parquet files sees, in key order."""
    files = [file.url for file in storage.list_files(url, suffix=".parquet") if "/_" not in file.url[len(url) :]]
    return _rows(files)


def read_committed(url: str) -> list[dict]:
    """All rows that `_SUCCESS` names, in key order."""
    manifest = read_job_manifest(url)
    assert manifest is not None, f"{url} is not committed"
    return _rows([storage.join_url(url, name) for name in manifest["files"]])


def _rows(files: Sequence[str]) -> list[dict]:
    tables = [pq.read_table(pa.BufferReader(storage.read_bytes(file))) for file in files]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["query_id"], row["product_id"]))


def write_learnable_pairs(path: Path, *, num_queries: int, products_per_query: int = 5, seed: int = 0) -> Path:
    """Labelled pairs as CSV, by a rule that a tiny model learns: the query's first word decides."""
    chooser = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "query", "product_id", "title", "label"])
        for number in range(num_queries):
            kind = number % len(LABELS)
            query = f"{_WORDS[kind]} {' '.join(chooser.choices(_WORDS[4:], k=2))} {number}"
            for product in range(products_per_query):
                title = " ".join(chooser.choices(_WORDS[4:], k=4))
                writer.writerow([f"q{number}", query, f"p{number}-{product}", title, LABELS[kind]])
    return path
