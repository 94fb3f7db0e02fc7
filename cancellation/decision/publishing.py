"""A calibrated verdict model on its way into the registry: what it must have, what is said of it, who becomes champion.

A version becomes champion if the policy that comes with it proves, for this very model, that its penalties are right in
every market that the model answers. Otherwise it stays a challenger, and the reason is kept with it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from cancellation.decision.calibration_run import POLICY_FILE
from cancellation.decision.policy import Policy, load_policy
from cancellation.model.verdict_model import CALIBRATION_FILE, VerdictModel, load_verdict_model
from cluster.models.files import resolve_model
from cluster.models.registry import ModelRegistry
from cluster.settings import Settings
from cluster.tracking import TrackedRun

_CARD_FILE = "README.md"


class PublishSource(Settings):
    """What is published."""

    model: str | None = None
    """Local folder of a calibrated model, as `jobs.cancellation_calibrate` writes it."""

    policy: str | None = None
    """The policy file with its evidence, written beside it."""

    name: str = "cancellation"
    """Registered model in MLflow."""

    rollback: bool = False
    """Make the champion before the present one champion again, and do nothing else."""

    force: bool = False
    """Make the version champion in spite of missing evidence; needs a reason."""

    reason: str | None = Field(default=None, min_length=1, max_length=1000)
    """Why it is forced or rolled back; kept with the version."""


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion, and why."""

    champion: bool
    why: str


def decide(model: VerdictModel, policy: Policy) -> Decision:
    """Look at the evidence of every market that the model answers, or is to answer."""
    missing = []
    for code, market in policy.markets.items():
        if market.state == "off":
            continue
        evidence = market.evidence
        if evidence is None or evidence.model_version != model.version:
            missing.append(f"{code}: its evidence is of {evidence.model_version if evidence else 'no model'}")
        elif market.penalty is None:
            missing.append(f"{code}: no penalty threshold is proven")
    if missing:
        return Decision(False, f"not proven for {model.version}: {'; '.join(missing)}")
    bounds = [m.evidence.lower_bound for m in policy.markets.values() if m.state != "off" and m.evidence is not None]
    if not bounds:
        return Decision(False, "no market of the policy is live or in shadow, so nothing is proven")
    return Decision(True, f"precision at least {min(bounds):.3f} with 95 % confidence in all {len(bounds)} markets")


def publish(source: PublishSource, registry: ModelRegistry, run: TrackedRun) -> str:
    """Register a model with its card and move an alias; gives a sentence about what happened.

    Raises:
        ValueError: If a setting is missing, or the model or the policy is refused.
        RuntimeError: If MLflow cannot take the model, or another job moved the champion meanwhile.
    """
    if source.model is None or source.policy is None:
        raise ValueError("model, policy: expected both, as jobs.cancellation_calibrate wrote them; name them")
    if source.force and source.reason is None:
        raise ValueError("force: expected a reason, found none; say why with reason=…")
    folder = Path(source.model)
    model, policy = load_verdict_model(folder), load_policy(source.policy)
    if not (folder / CALIBRATION_FILE).is_file():
        raise ValueError(f"model folder {folder}: expected {CALIBRATION_FILE}, found none; calibrate the model first")
    decision = decide(model, policy)
    if source.force:
        decision = Decision(True, f"forced: {source.reason}")
    present = registry.champion_if_any() if source.force else registry.champion()
    digest = resolve_model(str(folder)).digest
    version = registry.version_with(digest)
    if version is not None and version == present:
        return f"{source.name}/{version} has exactly these files and is champion already"
    if version is None:
        tags = {"model_version": model.version, "policy_version": policy.version}
        version = _register(folder, digest, source.policy, model_card(model, policy, decision), tags, registry, run)
    if decision.champion:
        registry.promote(version, decision.why, instead_of=present, forced=source.reason if source.force else None)
        return f"{source.name}/{version} is champion: {decision.why}"
    registry.challenge(version, decision.why)
    return f"{source.name}/{version} is challenger: {decision.why}"


def model_card(model: VerdictModel, policy: Policy, decision: Decision) -> str:
    """Describe a model in Markdown: what it is, what it was proven on, what it is not for."""
    spec = model.spec
    lines = [
        f"# {model.version}",
        "",
        "Says whether a seller induced a buyer to cancel, from the chat, the fulfilment and the seller's activity.",
        "",
        f"- network: {spec.variant} over {spec.encoder}, {spec.max_tokens} tokens, {len(spec.features)} features",
        f"- markets: {', '.join(spec.markets)}",
        f"- temperature: {model.temperature:.4f}",
        f"- policy: {policy.version}; {decision.why}",
        "",
        "| market | state | penalty from | flagged | right | lower bound |",
        "|---|---|---|---|---|---|",
    ]
    for code, market in policy.markets.items():
        found = market.evidence
        cases = f"{found.cases} | {found.correct} | {found.lower_bound:.4f}" if found else "- | - | -"
        lines.append(f"| {code} | {market.state} | {market.penalty or 'never'} | {cases} |")
    lines += [
        "",
        "Not for: markets it was never trained on (they may not be live), or penalties without the policy beside it.",
    ]
    return "\n".join(lines) + "\n"


def _register(
    folder: Path,
    digest: str,
    policy: str,
    card: str,
    tags: Mapping[str, str],
    registry: ModelRegistry,
    run: TrackedRun,
) -> str:
    if run.run_id is None:
        raise RuntimeError(f"MLflow gave no run to keep the files in ({run.where}): run the job again")
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(shutil.copytree(folder, Path(temporary) / "model"))
        (whole / _CARD_FILE).write_text(card, encoding="utf-8")
        shutil.copyfile(policy, whole / POLICY_FILE)
        return registry.register(whole, digest, run_id=run.run_id, card=card, tags=tags)
