"""The policy as a caller sees it: one market, now or at an instant."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cancellation.decision.policy import MarketPolicy
from cancellation.serving.rollout.policy_store import ALL_MARKETS, PolicyStore


def policy_view(store: PolicyStore, market: str, model_version: str) -> dict[str, Any]:
    """Give what is in force for a market now, and whether a changed file is being refused."""
    policy = store.current
    return {
        "market": market,
        "known": market in policy.markets,
        "killed": bool({market, ALL_MARKETS} & store.killed),
        **_entry(policy.market(market)),
        "policy_version": policy.version,
        "model_version": model_version,
        "refused": store.last_refusal.problem if store.last_refusal else None,
    }


def policy_view_at(store: PolicyStore, market: str, instant: float) -> dict[str, Any]:
    """Give what was in force at an instant (epoch seconds).

    Raises:
        ValueError: If that was before the first policy.
    """
    entry = store.at(market, instant)
    return {
        "market": market,
        "killed": entry.killed,
        **_entry(entry.policy),
        "policy_version": entry.policy_version,
        "since": datetime.fromtimestamp(entry.since, UTC).isoformat(),
    }


def _entry(market: MarketPolicy) -> dict[str, Any]:
    return {
        "state": market.state,
        "classes": market.classes,
        "language": market.language,
        "thresholds": {"investigate": market.investigate, "penalty": market.penalty},
        "evidence": asdict(market.evidence) if market.evidence else None,
    }
