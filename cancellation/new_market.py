"""A market joins a model that others use: labels counted, chats read, fine-tuned, the others checked, calibrated.

OUTPUT/checklist.md    what was done and found, step by step
OUTPUT/model           the new model, calibrated, beside its trained weights
OUTPUT/policy.toml     the policy with the market's entry, in shadow
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from cancellation.comparison.approaches import NetworkJudge
from cancellation.decision.calibration import choose_events
from cancellation.decision.calibration_run import (
    CalibrationSettings,
    calibrate_backfill,
    threshold_rows,
    write_calibrated,
)
from cancellation.decision.policy import MarketPolicy, Policy
from cancellation.decision.sample import read_sample, together
from cancellation.events.event import event_mapping
from cancellation.events.examples import Example, example_files, read_examples, refuse_twice
from cancellation.events.factors import VERDICTS
from cancellation.events.files import EventRow
from cancellation.model.fusion import load_fusion_model, save_fusion_model
from cancellation.model.learnt import are_learnt, learnt_by
from cancellation.model.text_encoder import load_encoder
from cancellation.model.verdict_model import TRAINED_FOLDER, VerdictModel, load_verdict_model
from cancellation.scoring.report import align
from cancellation.scoring.shard_steps import score_rows
from cancellation.text.tokenizer import TOKENIZER_FILE
from cancellation.training.pretraining import PretrainingSettings, pretrain_encoder
from cancellation.training.run import TrainingSettings, train_model
from cluster.settings import Settings
from cluster.statistics.bootstrap import Figure, GroupBootstrap, summarise
from cluster.storage import write_bytes
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings

_RESAMPLES = 500


class NewMarketSettings(Settings):
    """What a new market needs, and what counts as no harm to the others."""

    classes: Literal[2, 3] | None = None
    """With 2, `inconclusive` is no verdict there; null: as the policy has it for the market, else 3."""

    min_labels: int = Field(default=5000, ge=100)
    """Labelled events below which nothing is started."""

    held_out_fraction: float = Field(default=0.25, gt=0, lt=0.9)
    """Share of the sellers whose labelled events are kept out of training: they check the old markets and calibrate."""

    max_worse: float = Field(default=0.02, ge=0, le=1)
    """Accuracy that an old market may lose when chance could explain it; what is surely a loss is never allowed."""


@dataclass(frozen=True)
class NewMarket:
    """A market, what is known of it, and everything that its steps are made with."""

    code: str
    language: str
    labelled: str
    """Labelled events of the market."""
    old_labelled: str
    """Labelled events of the markets that the model knows: trained along, so that they are not forgotten."""
    chats: tuple[str, ...]
    model: Path
    """The model to start from, as jobs.cancellation_train wrote it."""
    policy: Policy
    settings: NewMarketSettings
    pretraining: PretrainingSettings
    training: TrainingSettings
    calibration: CalibrationSettings
    trainer: TrainerSettings
    output: Path
    cache_dir: str
    day: str

    def __post_init__(self) -> None:
        if len(self.code) != 2 or not (self.code.isascii() and self.code.isalpha() and self.code.isupper()):
            raise ValueError(f"market: two capital letters such as CO are expected, found {self.code!r}")
        if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", self.language):
            raise ValueError(f"language: a BCP 47 tag such as es is expected, found {self.language!r}")
        known = self.policy.markets.get(self.code)
        if known is not None and known.language != self.language:
            raise ValueError(
                f"language: expected {known.language}, which the policy has for {self.code}, found {self.language}; "
                "give that one, or correct the policy"
            )
        if known is not None and self.settings.classes not in (None, known.classes):
            raise ValueError(
                f"check.classes: expected {known.classes}, which the policy has for {self.code}, found "
                f"{self.settings.classes}; leave it out, or correct the policy"
            )

    @property
    def entry(self) -> MarketPolicy:
        """What the policy begins with for the market: nothing it did before speaks for another model's verdicts."""
        known = self.policy.markets.get(self.code)
        if known is None:
            return MarketPolicy("shadow", self.settings.classes or 3, self.language)
        return replace(known, state="shadow") if known.state == "live" else known


@dataclass(frozen=True)
class Step:
    """A line of the checklist; `done` is None for a step that was left out."""

    name: str
    done: bool | None
    found: str

    def line(self) -> str:
        mark = {True: "[x]", False: "[ ]", None: "[-]"}[self.done]
        return f"- {mark} {self.name}: {self.found}"


class Checklist:
    """The steps so far, printed and written as they come, so that a run that stops says where."""

    def __init__(self, market: str, url: str) -> None:
        self._lines = [f"# {market}", ""]
        self._url = url

    def add(self, step: Step) -> None:
        """Note a step."""
        self._lines.append(step.line())
        print(step.line(), flush=True)
        write_bytes(self._url, ("\n".join(self._lines) + "\n").encode())


def add_market(market: NewMarket, run: TrackedRun) -> Policy:
    """Do all steps; gives the new policy.

    Raises:
        ValueError: If there are too few labels, or files are refused.
        RuntimeError: If an old market got worse, or training failed.
    """
    for url in (market.labelled, market.old_labelled):
        read_sample(url).refuse(url)
    checklist = Checklist(market.code, str(market.output / "checklist.md"))
    new, old = _read(market.labelled), _read(market.old_labelled)
    settings = market.settings.model_copy(update={"classes": market.entry.classes})
    checklist.add(check_labels(new, market.code, market.labelled, settings))
    fraction = market.settings.held_out_fraction
    learnt = learnt_by(market.model)
    (taught_new, unseen_new), (taught_old, unseen_old) = (
        split_sellers(events, fraction, are_learnt([one.event for one in events], learnt), source=url)
        for events, url in ((new, market.labelled), (old, market.old_labelled))
    )
    start = _pretrain(market, run, checklist)
    events = market.output / "training_events"
    write_examples(events / "new.jsonl", taught_new)
    write_examples(events / "old.jsonl", taught_old)
    model = _fine_tune(market, start, events, run)
    checklist.add(Step("fine-tuned with the market's own embedding", True, model.version))
    check = check_old_markets(
        load_verdict_model(market.model), model, unseen_old, market.settings.max_worse, policy=market.policy
    )
    checklist.add(check)
    if not check.done:
        raise RuntimeError(f"{market.code}: old markets got worse ({check.found}); nothing was calibrated")
    return _calibrate(market, model, unseen_old + unseen_new, checklist)


def check_labels(examples: Sequence[Example], code: str, source: str, settings: NewMarketSettings) -> Step:
    """Count a market's labels.

    Raises:
        ValueError: If they are too few, of another market, or one class is missing.
    """
    others = {example.event.market for example in examples} - {code}
    if others:
        raise ValueError(f"{source}: events of {code} only are expected, found {min(others)} too")
    counts = Counter(example.label for example in examples)
    if len(examples) < settings.min_labels:
        raise ValueError(
            f"{source}: at least {settings.min_labels:,} labelled events of {code} are expected (check.min_labels), "
            f"found {len(examples):,}: {settings.min_labels - len(examples):,} more to label"
        )
    if missing := [label for label in VERDICTS[: settings.classes] if not counts[label]]:
        raise ValueError(f"{source}: no event is labelled {missing[0]}; a random sample has all classes")
    return Step("labels", True, ", ".join(f"{counts[label]:,} {label}" for label in VERDICTS))


def check_old_markets(
    before: VerdictModel, after: VerdictModel, examples: Sequence[Example], max_worse: float, *, policy: Policy
) -> Step:
    """Compare two models on held-out events of the old markets, by the likeliest of each's classes, event by event:
    a threshold of one model would make it more cautious than the other."""
    labels = np.array([VERDICTS.index(example.label) for example in examples])
    events = [example.event for example in examples]
    judged = [NetworkJudge(model, policy).judge(events).probabilities for model in (before, after)]
    right = [probabilities.argmax(axis=1) == labels for probabilities in judged]
    markets, sellers = (np.array([getattr(event, name) for event in events]) for name in ("market", "seller_id"))
    weights = np.array([example.sampling_weight or 1.0 for example in examples])
    changes = {
        code: paired_change(*(one[markets == code] for one in (*right, sellers, weights)))
        for code in sorted(set(markets.tolist()))
    }
    worse = [code for code, change in changes.items() if is_worse(change, max_worse)]
    text = ", ".join(
        f"{code} {100 * (change.value or 0):+.1f} [{100 * (change.low or 0):+.1f}, {100 * (change.high or 0):+.1f}]"
        for code, change in changes.items()
    )
    if missing := sorted({*before.spec.markets} - {*changes}):
        text += f"; not looked at, as no event of them was kept out: {', '.join(missing)}"
    return Step("old markets no worse (accuracy, points)", not worse, text)


def paired_change(
    before: np.ndarray, after: np.ndarray, sellers: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0
) -> Figure:
    """Change of a share between two judges of the same events, with its 95 % interval, by bootstrap over sellers.

    Args:
        before: Where one judge is right, bool (n,).
        after: Where the other is.
        sellers: Whose events they are, (n,).
        weights: How many cancellations each stands for, (n,); None: all alike.
        seed: The same seed gives the same interval.
    """
    one = np.ones(len(before)) if weights is None else weights
    draws = GroupBootstrap(sellers, samples=_RESAMPLES, seed=seed)
    return summarise(draws.sums(one * (after.astype(float) - before.astype(float))) / draws.sums(one))


def is_worse(change: Figure, max_worse: float) -> bool:
    """Surely a loss, or a larger one than may be put down to chance."""
    assert change.value is not None
    assert change.high is not None
    return change.high < 0 or change.value < -max_worse


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write labelled events as JSONL, in the form that training reads; a file that has them already stays.

    A file written anew is another one to a training, which would not go on from its checkpoints.
    """
    lines = [
        json.dumps(
            {
                "event": event_mapping(e.event),
                "label": e.label,
                "label_factors": e.factors,
                "label_weight": e.weight,
                "sampling_weight": e.sampling_weight,
            },
            ensure_ascii=False,
        )
        for e in examples
    ]
    content = "".join(line + "\n" for line in lines).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(str(path), content)


def _pretrain(market: NewMarket, run: TrackedRun, checklist: Checklist) -> Path:
    """Go on with the encoder on the market's chats, inside the model; gives the model to fine-tune from."""
    trained = market.model / TRAINED_FOLDER
    model, tokenizer = load_fusion_model(trained)
    if not market.chats or model.text_encoder is None:
        checklist.add(Step("pre-trained on its chats", None, "no chats were given"))
        return trained
    encoder_folder, target, start = (market.output / name for name in ("encoder", "pretrained", "start"))
    encoder_folder.mkdir(parents=True, exist_ok=True)
    model.text_encoder.save_pretrained(encoder_folder)
    tokenizer.save(str(encoder_folder / TOKENIZER_FILE))
    changes = {"chats": market.chats, "encoder": str(encoder_folder), "max_tokens": model.spec.max_tokens}
    settings = market.pretraining.model_copy(update=changes)
    target.mkdir(parents=True, exist_ok=True)
    loss = pretrain_encoder(settings, market.trainer, run, output=target, cache_dir=market.cache_dir)
    encoder, _ = load_encoder(str(target), cache_dir=market.cache_dir)
    model.text_encoder.load_state_dict(encoder.state_dict())
    save_fusion_model(model, tokenizer, start)
    checklist.add(Step("pre-trained on its chats", True, f"{loss:.3f} nats per masked token"))
    return start


def _fine_tune(market: NewMarket, start: Path, events: Path, run: TrackedRun) -> VerdictModel:
    base = market.training
    changes = {
        "start": str(start),
        "name": f"{base.name}-{market.code}",
        "markets": tuple(dict.fromkeys((*base.markets, market.code))),
        "events": base.events.model_copy(update={"events": str(events)}),
    }
    settings, folder = base.model_copy(update=changes), market.output / "trained_model"
    trained = train_model(settings, market.trainer, run, output=folder, cache_dir=market.cache_dir)
    return load_verdict_model(trained.folder)


def _calibrate(market: NewMarket, model: VerdictModel, examples: Sequence[Example], checklist: Checklist) -> Policy:
    policy = replace(market.policy, markets={**market.policy.markets, market.code: market.entry})
    rows = [
        EventRow(f"held_out:{number}", e.event, e.label, None, e.sampling_weight)
        for number, e in enumerate(examples, 1)
    ]
    sample = together([read_sample(url) for url in (market.labelled, market.old_labelled)])
    scored = score_rows(rows, model, policy)
    calibrated = calibrate_backfill(scored, policy, market.calibration, sample=sample, day=market.day)
    folder = market.output / "trained_model"
    write_calibrated(calibrated, folder, str(market.output), source=market.labelled, day=market.day)
    print("\n".join(align(threshold_rows(calibrated))))
    new = calibrated.policy.known_market(market.code)
    penalty = "no penalty yet" if new.penalty is None else f"penalty above {new.penalty}"
    found = f"temperature {calibrated.calibration.temperature:.3f}; {market.code} in state {new.state}, {penalty}"
    if market.policy.market(market.code).state == "live":
        found += ", where it was live: look at the new model's verdicts first"
    checklist.add(Step("calibrated", True, found))
    return calibrated.policy


def _read(url: str) -> list[Example]:
    examples = [example for file in example_files(url) for example in read_examples(file)]
    weights = [one.sampling_weight for one in examples if one.sampling_weight is not None]
    read_sample(url).check_weights(weights, url)
    refuse_twice(examples, url)
    return examples


def split_sellers(
    examples: Sequence[Example], fraction: float, learnt: np.ndarray, *, source: str
) -> tuple[list[Example], list[Example]]:
    """Cut examples into those to teach and those to keep out, no seller on both sides.

    Args:
        examples: Labelled events.
        fraction: Share of the sellers to keep out.
        learnt: True where the model that training begins with has learnt from an event: its seller is taught further.
        source: Where they lie.

    Raises:
        ValueError: If a side is empty.
    """
    sellers = [one.event.seller_id for one in examples]
    known = {seller for seller, one in zip(sellers, learnt, strict=True) if one}
    out = choose_events(sellers, fraction, purpose="held out") & np.array([one not in known for one in sellers], bool)
    if not out.any() or out.all():
        raise ValueError(
            f"{source}: events of sellers to teach and of others to keep out are expected, found {(~out).sum():,} and "
            f"{out.sum():,}, and the model has learnt from {learnt.sum():,} of them; give events of more sellers"
        )
    pairs = list(zip(examples, out, strict=True))
    return [example for example, kept in pairs if not kept], [example for example, kept in pairs if kept]
