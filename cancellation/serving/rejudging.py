"""Judge again, with the model, what the rules had to answer while it was away; the old decision stays as it is.

The new decision goes to the archive's `rejudged/` folder, in the form of the decision log: its verdict is the model's,
and `shadow` holds what was answered. Whoever acts on it has both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.decision.policy import Policy
from cancellation.decision.verdicts import model_verdict, verdicts_of_table
from cancellation.events.event import parse_event
from cancellation.model.verdict_model import VerdictModel
from cancellation.serving.records.decision_record import decision_table, partition
from cancellation.serving.records.people import ROLES
from cancellation.serving.records.redaction import is_by_reference
from cancellation.serving.records.shipped_log import day_start, read_log
from cluster.storage import create_exclusive, join_url

_ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Rejudged:
    """What came of it."""

    judged: int
    changed: int
    """Verdicts other than those that were answered."""
    done_before: int
    without_event: int
    """Decisions whose chats were logged by reference: there is nothing to judge."""


def rejudge(archive_url: str, first: date, last: date, *, model: VerdictModel, policy: Policy) -> Rejudged:
    """Judge the fallback decisions of some days (UTC, both included) again. Safe to repeat: each is judged once."""
    start, end = day_start(first), day_start(last + timedelta(days=1))
    table = read_log(join_url(archive_url, "decisions"), start=start, end=end)
    table = table.filter(pc.equal(table["source"], "fallback"))
    output = join_url(archive_url, "rejudged")
    before = set(read_log(output, start=start, end=end, columns=["event_id"])["event_id"].to_pylist())
    pairs = list(zip(table.to_pylist(), verdicts_of_table(table), strict=True))
    due = [(row, verdict) for row, verdict in pairs if row["event_id"] not in before]
    judgeable = [(row, verdict) for row, verdict in due if _has_texts(row["event"])]
    records: list[dict[str, Any]] = []
    for place in range(0, len(judgeable), _ROWS_AT_ONCE):
        records += _judge(judgeable[place : place + _ROWS_AT_ONCE], model, policy)
    _write(output, records)
    changed = sum(record["verdict"]["verdict"] != record["shadow"]["verdict"] for record in records)
    return Rejudged(len(records), changed, len(pairs) - len(due), len(due) - len(judgeable))


def _has_texts(event: str | None) -> bool:
    return event is not None and not is_by_reference(json.loads(event))


def _judge(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], model: VerdictModel, policy: Policy
) -> list[dict[str, Any]]:
    encoded = []
    for row, _ in rows:
        # As they were: of a redacted text some features would come out otherwise.
        features = np.array([np.nan if value is None else value for value in row["features"]], np.float32)
        encoded.append(replace(model.encoder.encode(parse_event(row["event"])), features=features))
    scores = model.score(encoded)
    records = []
    for (row, answered), logits, factors in zip(
        rows, scores.logits.tolist(), scores.factor_probabilities.tolist(), strict=True
    ):
        market = policy.market(row["market"])
        verdict = model_verdict(row["event_id"], row["market"], logits, factors, policy=policy, model=model.identity)
        told = {name: answered[name] for name in ("model_version", "score", "verdict", "action")}
        records.append(
            {
                **{name: row[name] for name in ("event_id", "market", "features", "feature_digest", "caller")},
                "received_at": row["received_at"].timestamp(),
                "verdict": verdict,
                "thresholds": {"investigate": market.investigate, "penalty": market.penalty},
                "state": market.state,
                "event": json.loads(row["event"]),
                "people": {role: row[f"{role}_digest"] for role in ROLES},
                "shadow": {"name": "answered", **told},
                "fallback_reason": row["fallback_reason"],
            }
        )
    return records


def _write(output_url: str, records: Sequence[Mapping[str, Any]]) -> None:
    folders = defaultdict(list)
    for record in records:
        folders[partition(record)].append(record)
    for folder, found in sorted(folders.items()):
        ids = "\n".join(sorted(record["event_id"] for record in found))
        sink = pa.BufferOutputStream()
        pq.write_table(decision_table(found), sink, compression="zstd")
        name = f"{blake2b(ids.encode(), digest_size=8).hexdigest()}.parquet"
        create_exclusive(join_url(output_url, folder, name), sink.getvalue().to_pybytes())
