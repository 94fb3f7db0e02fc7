"""Decision records for tests."""

from __future__ import annotations

from typing import Any

NOON = 1_793_448_000.0
"""2026-10-31T12:00:00Z."""


def decision_record(
    number: int = 0, *, market: str = "BR", received_at: float = NOON, **changes: Any
) -> dict[str, Any]:
    """A record with something in every field."""
    event_id = f"e-{number:06d}"
    verdict = {
        "event_id": event_id,
        "market": market,
        "verdict": "induced",
        "score": 0.75,
        "probabilities": {"induced": 0.75, "not_induced": 0.25},
        "decision_factors": [{"code": "chat.out_of_stock", "probability": 0.5, "evidence": "chat[1]"}],
        "action": "investigate",
        "model_version": "m@1",
        "source": "model",
        "policy_version": "p-1",
    }
    return {
        "event_id": event_id,
        "market": market,
        "received_at": received_at,
        "verdict": verdict,
        "features": [0.5, None, *[float(number)] * 66],
        "feature_digest": "abc",
        "thresholds": {"investigate": 0.45, "penalty": None},
        "state": "live",
        "policy_version": "p-1",
        "model_version": "m@1",
        "timings_ms": {"parse": 0.25, "encode": 0.5, "queue": 1.0, "model": 3.0, "total": 5.0},
        "shadow": None,
        "event": {"event_id": event_id, "chat": [{"text": "สวัสดี <PHONE>"}]},
        "caller": "token-1",
        "fallback_reason": None,
        **changes,
    }
