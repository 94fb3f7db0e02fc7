"""The policy as a caller sees it: one market, now or at an instant."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cancellation.decision.actions import why_no_penalty
from cancellation.decision.policy import MarketPolicy
from cancellation.model.spec import ModelIdentity
from cancellation.serving.rollout.policy_store import ALL_MARKETS, PolicyStore


def policy_view(store: PolicyStore, market: str, model: ModelIdentity) -> dict[str, Any]:
    """Give what is in force for a market now, whether its penalty threshold is used with this model and else why not,
    and whether a changed file is being refused."""
    policy = store.current
    return {
        "market": market,
        "known": market in policy.markets and market not in store.unknown_killed,
        "killed": bool({market, ALL_MARKETS} & store.killed),
        **_entry(policy.market(market)),
        "policy_version": policy.stamp,
        "model_version": model.version,
        "trained": market in model.markets,
        "penalty_refused": why_no_penalty(policy, market, model),
        "demo": policy.demo,
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
        "thresholds": market.thresholds,
        "evidence": asdict(market.evidence) if market.evidence else None,
    }
