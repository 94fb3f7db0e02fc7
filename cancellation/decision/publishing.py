"""A calibrated verdict model on its way into the registry: what it must have, what is said of it, who becomes champion.

A version becomes champion if the policy that comes with it proves, for this very model, that its penalties are right in
every market that the model answers. Otherwise it stays a challenger, and the reason is kept with it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cancellation.decision.actions import why_no_penalty
from cancellation.decision.calibration_run import POLICY_FILE
from cancellation.decision.policy import Basis, Evidence, Policy, load_policy
from cancellation.model.spec import ModelIdentity, ModelSpec, load_spec
from cancellation.model.verdict_model import CALIBRATION_FILE, Device, Dtype, load_verdict_model, read_identity
from cluster.models.publishing import Decision, ReleaseSettings, publish_folder
from cluster.models.registry import ModelRegistry
from cluster.places import CachePath, InputUrl
from cluster.storage import fetch_folder, read_bytes
from cluster.tracking import TrackedRun

_CARD_FILE = "README.md"
_CASES: Mapping[Basis | None, str] = {
    "simulation": "simulated",
    "written": "written",
    "backfill": "labelled",
    None: "unnamed",
}


class PublishSource(ReleaseSettings):
    """What is published."""

    model: InputUrl | None = None
    """Folder of a calibrated model, as `jobs.cancellation_calibrate` writes it."""

    policy: InputUrl | None = None
    """The policy file with its evidence, written beside it."""

    device: Device = "cpu"
    """What it will serve on: a GPU runs other weights, in a precision of its own, and needs a proof of its own."""

    dtype: Dtype = "float16"
    """Of matrix products on a GPU."""

    name: str = "cancellation"
    """Registered model in MLflow."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where a remote model is kept on this machine."""


def decide(model: ModelIdentity, policy: Policy) -> Decision:
    """Look at the evidence of every market that the model answers, or is to answer."""
    missing = []
    for code, market in policy.markets.items():
        if market.state == "off":
            continue
        if market.penalty is None:
            missing.append(f"{code}: no penalty threshold is proven")
        elif why := why_no_penalty(policy, code, model):
            missing.append(f"{code}: {why}")
    if missing:
        return Decision(False, f"not proven for {model.version}: {'; '.join(missing)}")
    bounds = [m.evidence.lower_bound for m in policy.markets.values() if m.state != "off" and m.evidence is not None]
    if not bounds:
        return Decision(False, "no market of the policy is live or in shadow, so nothing is proven")
    why = f"precision at least {min(bounds):.3f} in each of {len(bounds)} markets, with 95 % confidence for each alone"
    return Decision(True, f"{why}; {_rests_on(policy)}")


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
    folder = Path(fetch_folder(source.model, source.cache_dir))
    if source.device == "cpu":
        load_verdict_model(folder)  # what cannot be loaded is not published
    model = read_identity(folder, device=source.device, dtype=source.dtype)
    spec, policy = load_spec(folder), load_policy(source.policy)
    if not (folder / CALIBRATION_FILE).is_file():
        raise ValueError(f"model folder {folder}: expected {CALIBRATION_FILE}, found none; calibrate the model first")
    decision = decide(model, policy)
    if source.force and not decision.champion:
        decision = Decision(True, f"forced: {source.reason}, although {decision.why}", source.reason)
    card, tags = (
        model_card(spec, model, policy, decision),
        {"model_version": model.version, "policy_version": policy.stamp},
    )
    done = publish_folder(
        folder,
        registry,
        run,
        instead_of=registry.champion_if_any() if source.force else registry.champion(),
        decide=lambda: decision,
        register=lambda _, digest, run_id: _register(folder, source.policy, card, registry, digest, run_id, tags),
    )
    if done.decision is None:
        return f"{done.version} has exactly these files and is champion already"
    return f"{done.version} is {'champion' if decision.champion else 'challenger'}: {decision.why}"


def model_card(spec: ModelSpec, model: ModelIdentity, policy: Policy, decision: Decision) -> str:
    """Describe a model in Markdown: what it is, what it was proven on, what it is not for."""
    lines = [
        f"# {model.version}",
        "",
        "Says whether a seller induced a buyer to cancel, from the chat, the fulfilment and the seller's activity.",
        "",
        f"- network: {spec.variant} over {spec.encoder}, {spec.max_tokens} tokens, {len(spec.features)} features",
        f"- markets: {', '.join(spec.markets)}",
        f"- temperature: {model.temperature:.4f}",
        f"- policy: {policy.stamp}; {decision.why}",
        f"- precision: {_rests_on(policy)}",
        "",
        "| market | state | penalty from | flagged | right | lower bound | cases | drawn | days | sellers |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for code, market in policy.markets.items():
        found = market.evidence
        cases = " | ".join(_cells(found)) if found else " | ".join("-" * 7)
        lines.append(f"| {code} | {market.state} | {market.penalty or 'never'} | {cases} |")
    lines += [
        "",
        "Flagged, right and lower bound are of the labelled events that calibration was given, never of live traffic; "
        "those of the model that ships are of chats written for the purpose, by a language model.",
        "",
        "Not for: markets it was never trained on (they may not be live), or penalties without the policy beside it.",
    ]
    return "\n".join(lines) + "\n"


def _rests_on(policy: Policy) -> str:
    """Say whose cases the proof is of."""
    sources = {market.evidence.source for market in policy.markets.values() if market.evidence is not None}
    if not sources:
        return "nothing was measured"
    if sources == {"backfill"}:
        return "on labelled cancellations of the past"
    return f"on {' and '.join(sorted(_CASES[source] for source in sources))} cases: it says nothing of real sellers"


def _cells(found: Evidence) -> tuple[str, ...]:
    sellers = "-" if found.sellers is None else str(found.sellers)
    numbers = (str(found.cases), str(found.correct), f"{found.lower_bound:.4f}")
    return (*numbers, _CASES[found.source], found.sampling or "-", found.period or "-", sellers)


def _register(
    folder: Path, policy: str, card: str, registry: ModelRegistry, digest: str, run_id: str, tags: Mapping[str, str]
) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(shutil.copytree(folder, Path(temporary) / "model"))
        (whole / _CARD_FILE).write_text(card, encoding="utf-8")
        (whole / POLICY_FILE).write_bytes(read_bytes(policy))
        return registry.register(whole, digest, run_id=run_id, card=card, tags=tags)
