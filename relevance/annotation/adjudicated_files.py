"""What adjudication leaves on storage: labelled pairs to train on, conflicts for a lead, the history."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from relevance.annotation.adjudication import DECISION_COLUMNS, Adjudicated
from relevance.annotation.annotation import PairKey
from relevance.annotation.files import harmless
from relevance.annotation.pairs import TEXT_COLUMNS
from relevance.annotation.round import RoundPair

LABELLED, CONFLICTS, HISTORY = "labelled_pairs", "conflicts.csv", "history.csv"
_LABELLED_COLUMNS = (*TEXT_COLUMNS, "label", "annotator", "guideline_version", "method", "support")


def adjudicated_files(adjudicated: Sequence[Adjudicated], rows: Mapping[PairKey, RoundPair]) -> dict[str, bytes]:
    """Write settled pairs (parquet and CSV), open pairs and everybody's labels, by file name."""
    labelled = _labelled_pairs(adjudicated, rows)
    return {
        f"{LABELLED}.parquet": _parquet(labelled),
        f"{LABELLED}.csv": _csv(labelled),
        CONFLICTS: _conflicts(adjudicated, rows),
        HISTORY: _history(adjudicated),
    }


def _labelled_pairs(adjudicated: Sequence[Adjudicated], rows: Mapping[PairKey, RoundPair]) -> pa.Table:
    """The settled pairs, as the contract for labelled pairs has them, and by what method they were settled."""
    settled = [one for one in adjudicated if one.label is not None]
    flat = [
        {
            **rows[one.pair].texts,
            "label": one.label,
            "annotator": one.by,
            "guideline_version": one.guideline_version,
            "method": one.method,
            "support": one.support,
        }
        for one in settled
    ]
    types = dict.fromkeys(_LABELLED_COLUMNS, pa.string()) | {"support": pa.float64()}
    return pa.table({name: pa.array([row[name] for row in flat], types[name]) for name in _LABELLED_COLUMNS})


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pacsv.write_csv(table, buffer)
    return buffer.getvalue()


def _conflicts(adjudicated: Sequence[Adjudicated], rows: Mapping[PairKey, RoundPair]) -> bytes:
    """A line per open pair with what people said; a lead fills in the blanks and gives the file back."""
    lines = []
    for one in adjudicated:
        if one.label is None:
            texts = rows[one.pair].texts
            said = "; ".join(f"{vote.annotator}: {vote.label}" for vote in one.votes)
            key = dict(zip(("query_id", "product_id"), one.pair, strict=True))
            shown = {name: harmless(texts[name] or "") for name in ("query", "title")}
            lines.append({**key, **shown, "labels": said})
    return _lines(("query_id", "product_id", "query", "title", "labels", *DECISION_COLUMNS[2:]), lines)


def _history(adjudicated: Sequence[Adjudicated]) -> bytes:
    lines = [
        {"query_id": one.pair[0], "product_id": one.pair[1], **asdict(event), "why": harmless(event.why)}
        for one in adjudicated
        for event in one.history
    ]
    columns = ("query_id", "product_id", "what", "by", "at", "label", "why", "round", "guideline_version")
    return _lines(columns, lines)


def _lines(columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue().encode()
