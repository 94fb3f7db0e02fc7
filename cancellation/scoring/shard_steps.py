"""A shard of events to a shard of verdicts, rows conserved, and the figures that a report adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cancellation.decision.policy import Policy
from cancellation.decision.verdicts import VERDICT_SCHEMA, model_verdict
from cancellation.events.event import Event
from cancellation.events.factors import VERDICTS
from cancellation.events.files import EventRow, error_kind

if TYPE_CHECKING:
    from cancellation.model.verdict_model import VerdictModel

SCORED_SCHEMA = pa.schema(
    [
        *VERDICT_SCHEMA,
        pa.field("logits", pa.list_(pa.float32())),
        pa.field("label", pa.string()),
        pa.field("seller_id", pa.string()),
        pa.field("cancelled_at", pa.float64()),
        pa.field("sampling_weight", pa.float64()),
        pa.field("place", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""The contract's verdict; the model's raw logits, of which calibration and thresholds can be made later without
scoring anew; the label where the input has one, and how many events a row of a weighted sample stands for; seller and
instant (epoch seconds), by which a proof is split; where the row comes from; and what is wrong with it, everything but
the place then being null."""

MODEL_BATCH = 256
"""Events that are encoded before the model is called: it sorts them by length and makes its own batches."""

_BY_MARKET = ("markets", "confusion", "penalties")

Explain = Callable[[Event, Mapping[str, Any]], dict[str, Any]]
"""Adds evidence to a verdict of an event."""


@dataclass
class ScoringCounts:
    """What came of some rows; sums of shards are the figures of the whole."""

    read: int = 0
    scored: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Rows by what is wrong with them, numbers in paths left out (`chat[].at: …`)."""
    markets: dict[str, Counter[str]] = field(default_factory=dict)
    """By market: verdicts and actions, counted under their names."""
    confusion: dict[str, Counter[str]] = field(default_factory=dict)
    """By market: `label>verdict`, over rows with a label."""
    penalties: dict[str, Counter[str]] = field(default_factory=dict)
    """By market: labels of the rows with a penalty."""
    passed_over: list[str] = field(default_factory=list)
    """What the input holds that is in no row: files of other endings, values in paths."""

    def add(self, other: ScoringCounts) -> None:
        """Add another part's counts to these."""
        self.read += other.read
        self.scored += other.scored
        self.failed += other.failed
        self.errors.update(other.errors)
        self.passed_over += other.passed_over
        for name in _BY_MARKET:
            for market, counts in getattr(other, name).items():
                getattr(self, name).setdefault(market, Counter()).update(counts)

    def as_dict(self) -> dict[str, Any]:
        """Give the counts as JSON types."""
        by_market = {
            name: {market: dict(counts) for market, counts in getattr(self, name).items()} for name in _BY_MARKET
        }
        plain = {"read": self.read, "scored": self.scored, "failed": self.failed}
        others = {"passed_over": self.passed_over} if self.passed_over else {}
        return {**plain, "errors": dict(self.errors), **by_market, **others}

    @staticmethod
    def sum(parts: Iterable[Mapping[str, Any]]) -> ScoringCounts:
        """Add up parts in the form of `as_dict`."""
        total = ScoringCounts()
        for part in parts:
            counters = {name: {market: Counter(counts) for market, counts in part[name].items()} for name in _BY_MARKET}
            plain = {name: part[name] for name in ("read", "scored", "failed")}
            others = list(part.get("passed_over", ()))
            total.add(ScoringCounts(**plain, errors=Counter(part["errors"]), **counters, passed_over=others))
        return total


def score_rows(
    rows: Sequence[EventRow], model: VerdictModel, policy: Policy, *, explain: Explain | None = None
) -> pa.Table:
    """Score events; one row out for every row in, in its order (see `SCORED_SCHEMA`).

    Args:
        rows: Events, and rows with an error, which come out as such.
        model: Gives raw logits; its own temperature calibrates them.
        policy: Gives classes and actions.
        explain: Adds evidence to verdicts with an action; None leaves it out, as it costs a hundred times the verdict.
    """
    scored: list[dict[str, Any]] = []
    for start in range(0, len(rows), MODEL_BATCH):
        batch = rows[start : start + MODEL_BATCH]
        encoded = [model.encoder.encode(row.event) for row in batch if row.event is not None]
        scores = model.score(encoded) if encoded else None
        place = 0
        for row in batch:
            record: dict[str, Any] = {"place": row.place, "label": row.label, "error": row.error}
            record["sampling_weight"] = row.sampling_weight
            if row.event is not None and scores is not None:
                record |= _verdict(row.event, scores.logits[place], scores.factor_probabilities[place], model, policy)
                place += 1
                if explain is not None and record["action"] != "none":
                    record |= explain(row.event, record)
            scored.append(record)
    return pa.Table.from_pylist(scored, schema=SCORED_SCHEMA)


def _verdict(
    event: Event, logits: np.ndarray, factor_probabilities: np.ndarray, model: VerdictModel, policy: Policy
) -> dict[str, Any]:
    verdict = model_verdict(
        event.event_id,
        event.market,
        logits.tolist(),
        factor_probabilities.tolist(),
        policy=policy,
        model=model.identity,
    )
    return {**verdict, "logits": logits, "seller_id": event.seller_id, "cancelled_at": event.cancelled_at}


def failed_rows(rows: Sequence[EventRow], reason: str) -> pa.Table:
    """Write rows out that could not be scored: each with its own error, or the common reason."""
    records = [{"place": row.place, "label": row.label, "error": row.error or reason} for row in rows]
    return pa.Table.from_pylist(records, schema=SCORED_SCHEMA)


def count_rows(table: pa.Table) -> ScoringCounts:
    """Count a table of `SCORED_SCHEMA`."""
    columns = ("market", "verdict", "action", "label", "error")
    counts = ScoringCounts(read=len(table))
    for row in table.select(columns).to_pylist():
        if row["error"] is not None:
            counts.failed += 1
            counts.errors[error_kind(row["error"])] += 1
            continue
        counts.scored += 1
        market = row["market"]
        counts.markets.setdefault(market, Counter()).update([row["verdict"], row["action"]])
        if row["label"] is not None:
            counts.confusion.setdefault(market, Counter())[f"{row['label']}>{row['verdict']}"] += 1
            if row["action"] == "penalty":
                counts.penalties.setdefault(market, Counter())[row["label"]] += 1
    return counts


@dataclass(frozen=True)
class VerdictQuality:
    """How verdicts compare with labels; None where nothing can be said."""

    labelled: int
    accuracy: float | None
    precision: float | None
    """Of the induced verdicts, the share labelled so."""
    recall: float | None
    """Of the events labelled induced, the share judged so."""
    penalties: int
    penalty_precision: float | None
    matrix: tuple[tuple[int, ...], ...]
    """Labels by row, verdicts by column, in the order of `VERDICTS`."""


def verdict_quality(confusion: Mapping[str, int], penalties: Mapping[str, int]) -> VerdictQuality:
    """Measure from counts in the form of `ScoringCounts.confusion` and `.penalties` of one market, or of all."""
    matrix = np.array([[confusion.get(f"{label}>{verdict}", 0) for verdict in VERDICTS] for label in VERDICTS])
    num_penalties = sum(penalties.values())
    return VerdictQuality(
        labelled=int(matrix.sum()),
        accuracy=_share(np.trace(matrix), matrix.sum()),
        precision=_share(matrix[0, 0], matrix[:, 0].sum()),
        recall=_share(matrix[0, 0], matrix[0].sum()),
        penalties=num_penalties,
        penalty_precision=_share(penalties.get("induced", 0), num_penalties),
        matrix=tuple(tuple(int(value) for value in row) for row in matrix),
    )


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None
