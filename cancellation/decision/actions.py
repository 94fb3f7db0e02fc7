"""From a score to an action: one function for every verdict, online or in a batch, that knows policy and model.

A penalty needs a proof, and the proof has to be of the model that gave the score, of a market that this model was
trained on, and of real sellers. Whatever is missing is said in words, and people look instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Literal

from cancellation.decision.policy import Action, Evidence, Policy, Source
from cancellation.model.spec import ModelIdentity

Kind = Literal["untrained_market", "no_evidence", "other_model", "other_calibration", "no_source", "not_real"]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why a market's penalty threshold is not used."""

    kind: Kind
    why: str


def choose_action(policy: Policy, market: str, score: float, source: Source, model: ModelIdentity | None) -> Action:
    """Choose the action for a calibrated score; a penalty only from a live market's own model, on its own proof.

    Args:
        policy: Has the thresholds and what they rest on.
        market: The event's; one without an entry gets the policy's default.
        score: Calibrated, from 0 to 1.
        source: Who judged.
        model: Which model judged; None for the rules.

    Raises:
        ValueError: If the score is not in [0, 1]: every comparison with NaN would silently be "none".
    """
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"a score from 0 to 1 is expected, found {score}")
    entry = policy.market(market)
    if source == "model" and entry.state == "live" and entry.penalty is not None and score > entry.penalty:
        return "investigate" if model is None or obstacles(policy, market, model) else "penalty"
    return "investigate" if score > entry.investigate else "none"


def obstacles(policy: Policy, market: str, model: ModelIdentity) -> Sequence[Obstacle]:
    """Say why a market's penalty threshold is not used with a model; empty where it is, or where there is none."""
    entry = policy.market(market)
    if entry.penalty is None:
        return ()
    return (*_of_model(entry.evidence, market, model), *_of_basis(entry.evidence, policy))


def why_no_penalty(policy: Policy, market: str, model: ModelIdentity) -> str | None:
    """Give all that stands in a penalty's way as one sentence; None where nothing does."""
    return "; ".join(obstacle.why for obstacle in obstacles(policy, market, model)) or None


def demo_line(policy: Policy) -> str | None:
    """One line for the start of whatever judges by a demo's policy; None for another policy."""
    if not policy.demo:
        return None
    return (
        f"DEMO: policy {policy.stamp} punishes on proof that nobody lived (demo = true); take that line out of it "
        "before real sellers are judged"
    )


def _of_model(evidence: Evidence | None, market: str, model: ModelIdentity) -> tuple[Obstacle, ...]:
    found: list[Obstacle] = []
    if market not in model.markets:
        known = ", ".join(sorted(model.markets)) or "none"
        found.append(Obstacle("untrained_market", f"model {model.version} was not trained on {market} (on {known})"))
    if evidence is None:
        return (*found, Obstacle("no_evidence", "the threshold has no evidence"))
    if evidence.model_version != model.version:
        why = f"the threshold was proven for model {evidence.model_version}, not for {model.version}"
        found.append(Obstacle("other_model", why))
    # The same labels fitted on another processor differ in the eighth digit.
    if evidence.temperature is not None and not isclose(evidence.temperature, model.temperature, rel_tol=1e-6):
        why = f"the threshold was proven at temperature {evidence.temperature:g}, the model has {model.temperature:g}"
        found.append(Obstacle("other_calibration", why))
    return tuple(found)


def _of_basis(evidence: Evidence | None, policy: Policy) -> tuple[Obstacle, ...]:
    if evidence is None or evidence.source == "backfill":
        return ()
    if evidence.source is None:
        return (Obstacle("no_source", "the evidence does not say what it rests on (source)"),)
    if policy.demo:
        return ()
    cases = {"simulation": "simulated", "written": "written"}[evidence.source]
    return (Obstacle("not_real", f"the evidence rests on {cases} cases, and the policy does not say demo = true"),)
