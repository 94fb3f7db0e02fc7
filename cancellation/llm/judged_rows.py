"""A finished labelling of labelled events as a scored backfill, for calibration: people's labels beside its own."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from cancellation.scoring.run import read_verdicts
from cancellation.scoring.shard_steps import SCORED_SCHEMA

_SAME = ("event_id", "market", "model_version", "logits", "seller_id", "place", "error")


def read_judged(url: str) -> pa.Table:
    """Read the output of `jobs.cancellation_label` as rows of `scoring.SCORED_SCHEMA`; verdict and action are null.

    Raises:
        ValueError: If nothing is finished there, it is no labelling, its input had no labels, verdicts have no
            probabilities, or the model's adapter learnt from an event.
    """
    rows = read_verdicts(url)
    if missing := {*_SAME, "given_label", "cancelled_at"} - set(rows.column_names):
        raise ValueError(f"{url}: the output of cancellation_label is expected, found none: no {min(missing)}")
    if rows["given_label"].null_count == len(rows):
        raise ValueError(f"{url}: labels of people beside the model's are expected, found none; label labelled events")
    labelled = pc.is_null(rows["error"])
    if bare := pc.sum(pc.and_(labelled, pc.is_null(rows["logits"]))).as_py():
        raise ValueError(
            f"{url}: verdicts with log-probabilities are expected, found {bare:,} of {pc.sum(labelled).as_py():,} "
            "without: nothing can be calibrated by them; label by a server that gives them, asked by "
            "backend.endpoint.top_logprobs"
        )
    _refuse_learnt(url, rows.filter(labelled))
    at = [
        None if text is None else datetime.fromisoformat(text).timestamp() for text in rows["cancelled_at"].to_pylist()
    ]
    given = {name: rows[name] for name in _SAME} | {"label": rows["given_label"], "cancelled_at": pa.array(at)}
    columns = [given.get(field.name, pa.nulls(len(rows), field.type)).cast(field.type) for field in SCORED_SCHEMA]
    return pa.table(columns, names=SCORED_SCHEMA.names).cast(SCORED_SCHEMA)


def _refuse_learnt(url: str, rows: pa.Table) -> None:
    if "learnt" not in rows.column_names:  # of a labelling of before
        return
    learnt = rows.filter(pc.fill_null(rows["learnt"], False))
    if len(learnt):
        raise ValueError(
            f"{url}: {len(learnt):,} of {len(rows):,} events taught the model's adapter, the first at "
            f"{learnt['place'][0].as_py()}; they prove nothing of it: label others, and calibrate on those"
        )
