"""Committed days of scores with rows in them, for tests of what reads them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.commit import Output
from relevance.labels import LABELS
from relevance.scoring.figures import ScoringFigures
from relevance.scoring.shard_steps import SCORE_COLUMNS
from tests.builders.scoring_days import FINGERPRINT, shard_figures

Pair = tuple[str, str, str]
"""Query id, product id, label."""


def commit_scores(
    root: Path,
    name: str,
    pairs: Sequence[Pair],
    *,
    fingerprint: str = FINGERPRINT,
    confidence: float = 0.9,
    label_mass: float = 0.985,
    more: Mapping[str, Sequence[Any]] | None = None,
    shard: Mapping[str, Any] | None = None,
) -> str:
    """Commit a day, in two files if it has rows enough; gives its folder. `shard` is what else its figures count."""
    rest = (1 - confidence) / 3
    columns: dict[str, Any] = {
        "query_id": [query for query, _, _ in pairs],
        "product_id": [product for _, product, _ in pairs],
        "label": pa.array([label for _, _, label in pairs], pa.string()).dictionary_encode(),
        **{
            column: pa.array([confidence if label == own else rest for _, _, label in pairs], pa.float32())
            for column, own in zip(SCORE_COLUMNS, LABELS, strict=True)
        },
        **(more or {}),
    }
    table, output = pa.table(columns), Output(str(root / name))
    files = {}
    for number, start in enumerate((0, len(table) // 2)):
        sink = io.BytesIO()
        pq.write_table(table.slice(start, len(table) // 2 if number == 0 else None), sink)
        files[f"part-{number:05d}.parquet"] = output.write_data(f"{number:05d}", sink.getvalue())
    output.publish(files)
    counts = [sum(label == own for _, _, label in pairs) for own in LABELS]
    shares = tuple(count / max(1, len(pairs)) for count in counts)
    counted = {"rows": len(pairs), "shares": shares, "repeated": 0.0, "label_mass": label_mass, **(shard or {})}
    figures = ScoringFigures.sum([shard_figures(**counted)])
    shown = {**figures.as_dict(), "labels": dict(zip(LABELS, counts, strict=True)), "seconds": 1.0}
    output.commit(
        {"fingerprint": fingerprint, "model": "m", "input": "pairs"}, {"files": list(files), "figures": shown}
    )
    output.clean_up()
    return output.url
