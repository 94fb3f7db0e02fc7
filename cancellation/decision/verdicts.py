"""Verdicts: from a model's raw logits, or from the rules, to what the contract promises.

`schemas/verdict.schema.json` is the form; `policy_version` is added to it, so that a recorded verdict can be
traced to the thresholds of its day. One event's verdict is plain Python: the endpoint makes them by the hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite
from typing import Any

import numpy as np
import pyarrow as pa

from cancellation.decision.actions import choose_action
from cancellation.decision.policy import Policy, Source
from cancellation.decision.rules import judge
from cancellation.events.event import Event
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.model.spec import ModelIdentity

MIN_FACTOR_PROBABILITY = 0.5
"""A decision factor is named when it is more probable than not."""

_PROBABILITIES = pa.struct([pa.field(name, pa.float32()) for name in VERDICTS])
_FACTOR = pa.struct(
    [
        pa.field("code", pa.string(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("evidence", pa.string()),
    ]
)

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("market", pa.string()),
        pa.field("verdict", pa.dictionary(pa.int8(), pa.string())),
        pa.field("score", pa.float32()),
        pa.field("probabilities", _PROBABILITIES),
        pa.field("decision_factors", pa.list_(_FACTOR)),
        pa.field("action", pa.dictionary(pa.int8(), pa.string())),
        pa.field("model_version", pa.dictionary(pa.int8(), pa.string())),
        pa.field("source", pa.dictionary(pa.int8(), pa.string())),
        pa.field("policy_version", pa.dictionary(pa.int8(), pa.string())),
    ]
)
"""A verdict as a table's row. `probabilities.inconclusive` is null in markets of two classes."""


def verdict_probabilities(logits: Sequence[float], *, temperature: float, classes: int) -> dict[str, float]:
    """Turn one event's logits, in the order of `VERDICTS`, into calibrated probabilities of a market's classes.

    With two classes the third is left out before the softmax: the others keep their ratio and sum to one.

    Raises:
        ValueError: If a logit is not finite.
    """
    if not all(map(isfinite, logits)):
        raise ValueError("finite logits are expected from the model, found NaN or infinity: its weights are broken")
    scaled = [float(logit) / temperature for logit in logits[:classes]]
    top = max(scaled)
    weights = [exp(value - top) for value in scaled]
    total = sum(weights)
    return {name: weight / total for name, weight in zip(VERDICTS, weights, strict=False)}


def likeliest_verdict(probabilities: Mapping[str, float], above: float | None) -> str:
    """Name the likeliest class, *induced* only if its probability is above a threshold, where there is one.

    To accuse wrongly costs more than to miss, so that the likeliest class alone is not what costs least (Elkan, The
    Foundations of Cost-Sensitive Learning, 2001).
    """
    found = max(probabilities, key=probabilities.__getitem__)
    if found != "induced" or above is None or probabilities[found] > above:
        return found
    return max((name for name in probabilities if name != found), key=probabilities.__getitem__)


def market_probabilities(probabilities: np.ndarray, events: Sequence[Event], policy: Policy | None) -> np.ndarray:
    """Share out the chance of a class that an event's market does not know, as `verdict_probabilities` does for one.

    Args:
        probabilities: Of all three classes, (n, 3).
        events: Whose they are, n.
        policy: Says which classes a market has; None: all three everywhere.
    """
    if policy is None:
        return probabilities
    known = [policy.market(event.market).classes for event in events]
    kept = probabilities * (np.arange(probabilities.shape[1]) < np.array(known).reshape(-1, 1))
    return kept / kept.sum(axis=1, keepdims=True)


def verdict_thresholds(events: Sequence[Event], policy: Policy | None, model_version: str) -> np.ndarray:
    """Give the scores above which alone each event's verdict says *induced*, (n,), as the policy has them for a model.

    0, which the likeliest class always passes, where it has none, or where they were chosen for another model: what is
    compared with others is not to be more cautious than these.
    """
    if policy is None:
        return np.zeros(len(events))
    entries = [policy.market(event.market) for event in events]
    own = (entry.evidence is not None and entry.evidence.model_version == model_version for entry in entries)
    return np.array([entry.induced or 0.0 if known else 0.0 for entry, known in zip(entries, own, strict=True)])


def model_verdict(
    event_id: str,
    market: str,
    logits: Sequence[float],
    factor_probabilities: Sequence[float],
    *,
    policy: Policy,
    model: ModelIdentity,
) -> dict[str, Any]:
    """Make the contract's verdict from one row of a model's scores.

    Args:
        event_id: The event's.
        market: The event's; one without an entry gets the policy's default.
        logits: Raw, (3,), in the order of `VERDICTS`.
        factor_probabilities: (18,), in the order of `FACTORS`.
        policy: Chooses classes and action.
        model: Whose scores they are; its temperature divides the logits.
    """
    entry = policy.market(market)
    probabilities = verdict_probabilities(logits, temperature=model.temperature, classes=entry.classes)
    score = probabilities["induced"]
    named = [
        {"code": code, "probability": float(probability), "evidence": None}
        for code, probability in zip(FACTORS, factor_probabilities, strict=True)
        if probability >= MIN_FACTOR_PROBABILITY
    ]
    named.sort(key=lambda factor: -factor["probability"])
    return {
        "event_id": event_id,
        "market": market,
        "verdict": likeliest_verdict(probabilities, entry.induced),
        "score": score,
        "probabilities": probabilities,
        "decision_factors": named,
        "action": choose_action(policy, market, score, "model", model),
        "model_version": model.version,
        "source": "model",
        "policy_version": policy.stamp,
    }


def rules_verdict(event: Event, *, policy: Policy, source: Source, rules_version: str = "rules-1") -> dict[str, Any]:
    """Judge an event by the rules, as where they are in force or the model did not answer; never a penalty."""
    if source == "model":
        raise ValueError("source: expected rules or fallback for a verdict of the rules, found model")
    judged = judge(event)
    return {
        "event_id": event.event_id,
        "market": event.market,
        "verdict": judged.verdict,
        "score": judged.score,
        "probabilities": {"induced": judged.score, "not_induced": 1.0 - judged.score},
        "decision_factors": [
            {"code": code, "probability": 1.0, "evidence": _chat_evidence(judged.evidence, code)}
            for code in judged.factors
        ],
        "action": choose_action(policy, event.market, judged.score, source, None),
        "model_version": rules_version,
        "source": source,
        "policy_version": policy.stamp,
    }


def _chat_evidence(evidence: Mapping[str, int], code: str) -> str | None:
    return f"chat[{evidence[code]}]" if code in evidence else None


def verdicts_of_table(table: pa.Table) -> list[dict[str, Any]]:
    """Read verdicts back from a table, in the contract's form; further columns are left alone."""
    rows = table.select(VERDICT_SCHEMA.names).to_pylist()
    for row in rows:
        row["probabilities"] = {name: value for name, value in row["probabilities"].items() if value is not None}
    return rows
