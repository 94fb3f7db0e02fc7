"""The demo's pairs: generated products and queries with their true labels, some repeated, a few bad."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pyarrow as pa
from pydantic import Field

from cluster.settings import Settings
from relevance.labels import LABELS
from relevance.small_model_recipe.catalogue import CatalogueWriter, Product, Query

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("brand", pa.string()),
        pa.field("category", pa.string()),
        pa.field("attributes", pa.string()),
        pa.field("market", pa.string()),
        pa.field("label", pa.string()),
    ]
)
"""The contract's pairs, `attributes` as a JSON string, and the true label (null for a bad row)."""


class SampleSettings(Settings):
    """How many pairs, and how many of them are not as they should be."""

    num_pairs: int = Field(default=5000, ge=100)
    """Rows in all, repeated and bad ones among them."""

    queries_per_product: int = Field(default=10, ge=1)
    """Queries drawn for each product."""

    repeated_fraction: float = Field(default=0.02, ge=0, lt=0.5)
    """Share of rows whose key stood in an earlier row, as when two searches of a day are logged twice."""

    num_bad: int = Field(default=6, ge=0, le=50)
    """Rows that no model can label: blank query or title, NUL byte, emoji alone, text without end."""

    label_shares: tuple[float, float, float, float] = (0.46, 0.34, 0.06, 0.14)
    """Aimed share of each label, in the order of `LABELS`."""

    seed: int = 0
    """The same seed gives the same rows."""


def sample_table(settings: SampleSettings | None = None) -> pa.Table:
    """Generate the sample, shape (num_pairs, 9), rows in no order of product or label."""
    settings = settings or SampleSettings()
    chooser = random.Random(settings.seed)
    num_repeated = int(settings.num_pairs * settings.repeated_fraction)
    rows = _distinct_rows(settings, settings.num_pairs - num_repeated - settings.num_bad)
    bad = [_spoil(rows[chooser.randrange(len(rows))], fault) for fault in range(settings.num_bad)]
    rows += [dict(row) for row in chooser.sample(rows, num_repeated)] + bad
    chooser.shuffle(rows)
    return pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)


def _distinct_rows(settings: SampleSettings, number: int) -> list[dict[str, Any]]:
    writer = CatalogueWriter(settings.seed)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for offered, query, label in writer.pairs(
        dict(zip(LABELS, settings.label_shares, strict=True)), settings.queries_per_product
    ):
        row = _row(offered, query, label)
        rows.setdefault((row["query_id"], row["product_id"]), row)
        if len(rows) == number:
            return list(rows.values())
    raise AssertionError("the catalogue never ends")


def _row(offered: Product, query: Query, label: str) -> dict[str, Any]:
    given = offered.item.attributes
    # Every tenth product comes with attributes, so that the demo shows the field; the title names them too.
    some = offered.product_id.endswith("0")
    others = {name: value for name, value in given.items() if some and name != "brand"}
    return {
        "query_id": "q" + hashlib.sha256(query.text.encode()).hexdigest()[:12],
        "query": query.text,
        "product_id": offered.product_id,
        "title": offered.title,
        "brand": given.get("brand"),
        "category": offered.department.name,
        "attributes": json.dumps(others) if others else None,
        "market": "US",
        "label": label,
    }


def _spoil(row: dict[str, Any], fault: int) -> dict[str, Any]:
    """Make a bad row of a good one, under a key of its own."""
    changes = [
        {"query": "   "},
        {"title": " \t "},
        {"title": row["title"] + "\x00"},
        {"query": "\N{HOT BEVERAGE}\N{ATHLETIC SHOE}\N{PARTY POPPER}"},
        {"query": "a gift for somebody who has everything and wants nothing " * 40},
        {"title": "Great value best price " * 50_000},
    ]
    key = f"bad{fault:02d}"
    return row | changes[fault % len(changes)] | {"query_id": f"q{key}", "product_id": f"p{key}", "label": None}
