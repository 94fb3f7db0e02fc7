"""Judge again, with the model, what the rules had to answer while it was away; the old decision stays as it is.

The new decision goes to the archive's `rejudged/` folder, in the form of the decision log: its verdict is the model's,
and `shadow` holds what was answered. Whoever acts on it has both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cancellation.decision.policy import Policy, PolicyError, load_policy
from cancellation.decision.verdicts import model_verdict
from cancellation.events.event import parse_event
from cancellation.model.verdict_model import VerdictModel
from cancellation.serving.archive_batches import Recorded, find_due, record_of, write_records
from cancellation.serving.records.shipped_log import policy_url

FOLDER = "rejudged"


@dataclass(frozen=True, slots=True)
class Rejudged:
    """What came of it."""

    judged: int
    changed: int
    """Verdicts other than those that were answered."""
    done_before: int
    without_event: int
    """Decisions whose chats were logged by reference: there is nothing to judge."""


def rejudge(archive_url: str, first: date, last: date, *, model: VerdictModel, policy: Policy | None) -> Rejudged:
    """Judge the fallback decisions of some days (UTC, both included) again. Safe to repeat: each is judged once.

    Args:
        archive_url: Where the endpoint ships (`serving.output`).
        first: First day on which they were answered.
        last: Last day.
        model: Judges.
        policy: Chooses classes and actions; None: the one that was in force when each was answered, as archived.

    Raises:
        PolicyError: If the archive lacks a policy.
    """
    due = find_due(archive_url, FOLDER, first, last, pc.field("source") == "fallback")
    in_force = cache(partial(_archived_policy, archive_url))
    records = [
        record
        for batch in due.batches()
        for record in _judge(batch, model, lambda decision: policy or in_force(decision.row["policy_version"]))
    ]
    write_records(archive_url, FOLDER, records)
    changed = sum(record["verdict"]["verdict"] != record["shadow"]["verdict"] for record in records)
    return Rejudged(len(records), changed, due.done_before, due.without_event)


def _archived_policy(archive_url: str, stamp: str) -> Policy:
    url = policy_url(archive_url, stamp.partition("+")[0])
    try:
        return load_policy(url)
    except PolicyError as error:
        raise PolicyError(f"{error}; it was in force for decisions to judge again: give one with policy=") from None


def _judge(
    decisions: Sequence[Recorded], model: VerdictModel, policy_of: Callable[[Recorded], Policy]
) -> list[dict[str, Any]]:
    encoded = []
    for decision in decisions:
        # As they were: of a redacted text some features would come out otherwise.
        row = decision.row
        features = np.array([np.nan if value is None else value for value in row["features"]], np.float32)
        encoded.append(replace(model.encoder.encode(parse_event(row["event"])), features=features))
    scores = model.score(encoded)
    records = []
    for decision, logits, factors in zip(
        decisions, scores.logits.tolist(), scores.factor_probabilities.tolist(), strict=True
    ):
        event_id, code = decision.row["event_id"], decision.row["market"]
        market = (policy := policy_of(decision)).market(code)
        verdict = model_verdict(event_id, code, logits, factors, policy=policy, model=model.identity)
        told = {name: decision.verdict[name] for name in ("model_version", "score", "verdict", "action")}
        now = {"thresholds": market.thresholds, "state": market.state, "shadow": {"name": "answered", **told}}
        records.append(record_of(decision, verdict, **now))
    return records
