"""Judges of labels: models of two kinds, each asked only about events of sellers that it was not taught on.

Which labels are likely wrong is confident learning over their opinions: a label's quality is the probability that
judges give to it, each weighed by how well it foresees what people say (self-confidence; Northcutt, Jiang, Chuang,
Confident Learning, 2021; Kuan and Mueller, Model-agnostic label quality scoring, 2022), by cleanlab 2.9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator
from threadpoolctl import threadpool_limits

from cancellation.comparison.approaches import NetworkJudge
from cancellation.comparison.figures import Truth
from cancellation.comparison.learners import TreeLearner, TreeSettings
from cancellation.decision.policy import Policy
from cancellation.decision.verdicts import market_probabilities
from cancellation.events.event import Event
from cancellation.events.examples import Example
from cancellation.events.factors import VERDICTS
from cancellation.features.vector import feature_table
from cancellation.llm.judged_rows import read_judged
from cancellation.model.fusion import load_fusion_model
from cancellation.model.torch_network import TorchNetwork
from cancellation.model.verdict_model import TRAINED_FOLDER, VerdictModel
from cancellation.new_market import write_examples
from cancellation.text.encoding import EventEncoder
from cancellation.training.run import TrainingSettings, train_model
from cluster.places import AsideUrl
from cluster.settings import Settings
from cluster.statistics.temperature import class_probabilities
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings

Kind = Literal["fusion", "fusion_other_seed", "trees", "llm"]
_MAX_BATCH_TOKENS = 4096
_LEAST = 1e-9
"""Added to every chance, so that they can be divided by their sum."""


class JudgeSettings(Settings):
    """Who doubts the labels."""

    kinds: tuple[Kind, ...] = ("fusion", "trees")
    """fusion: the verdict model, trained as `training` says; fusion_other_seed: the same from another seed; trees:
    boosted trees on the 68 features, which read no text; llm: what `llm` says."""

    folds: int = Field(default=4, ge=2, le=20)
    """Each judge is taught so many times, each time without a part of the sellers, whose events it then judges."""

    llm: AsideUrl | None = None
    """For the kind llm: the output of jobs.cancellation_label over the same events. It must not have been fine-tuned
    on them, nor have them among its examples."""

    trees: TreeSettings = TreeSettings(max_iter=80)
    training: TrainingSettings = TrainingSettings()
    """Of the fusion model; its events, name, markets and export are set here."""

    @field_validator("kinds")
    @classmethod
    def _two(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if len(kinds) < 2 or len({*kinds}) < len(kinds):
            raise ValueError("expected two or more different judges: one alone would teach the labels its own errors")
        if not set(kinds) - {"llm"}:
            raise ValueError("expected a judge that can be trained beside llm")
        return kinds

    @model_validator(mode="after")
    def _said(self) -> JudgeSettings:
        if "llm" in self.kinds and self.llm is None:
            raise ValueError(
                "judges.llm: the output of jobs.cancellation_label over the events is expected, found none"
            )
        return self

    def unused(self) -> set[str]:
        """A language model that is no judge."""
        return set() if "llm" in self.kinds else {"llm"}

    @property
    def trained(self) -> tuple[Kind, ...]:
        """Judges that are trained here, and so can gain by better labels."""
        return tuple(kind for kind in self.kinds if kind != "llm")


@dataclass(frozen=True)
class Workshop:
    """Where models are trained."""

    settings: JudgeSettings
    trainer: TrainerSettings
    folder: Path
    """On this machine's disk."""
    cache_dir: str
    policy: Policy
    """Says which verdicts a market knows: judges give no chance to others, as serving does."""
    run: TrackedRun | None = None

    def teach(self, kind: Kind, taught: Sequence[Example], name: str) -> Callable[[Sequence[Event]], np.ndarray]:
        """Train a judge on examples; what is given back tells probabilities of the verdicts, (n, 3).

        Raises:
            ValueError: If examples of a class are missing.
            RuntimeError: If training failed.
        """
        said = self._trees(taught) if kind == "trees" else self._fusion(kind, taught, name)
        return lambda events: market_probabilities(said(events), events, self.policy)

    def _trees(self, taught: Sequence[Example]) -> Callable[[Sequence[Event]], np.ndarray]:
        truth = Truth.of([one.label for one in taught], [None] * len(taught), [one.event.market for one in taught])
        with threadpool_limits(1):  # of a few thousand rows: threads wait for each other longer than they work
            learner = TreeLearner(self.settings.trees)
            learner.fit(_inputs([one.event for one in taught]), truth.labels, truth.factors, known=truth.factors_known)
        return lambda events: learner.probabilities(_inputs(events))

    def _fusion(self, kind: Kind, taught: Sequence[Example], name: str) -> Callable[[Sequence[Event]], np.ndarray]:
        base, folder = self.settings.training, self.folder / f"{kind}-{name}"
        write_examples(folder / "events" / "taught.jsonl", taught)
        seed = base.loop.seed + (kind == "fusion_other_seed")
        changes = {
            "events": base.events.model_copy(update={"events": str(folder / "events"), "seed": seed}),
            "loop": base.loop.model_copy(update={"seed": seed}),
            "markets": tuple(dict.fromkeys((*base.markets, *sorted({one.event.market for one in taught})))),
            "name": f"{base.name}-{kind}",
            "export": False,
        }
        settings = base.model_copy(update=changes)
        train_model(settings, self.trainer, self.run, output=folder / "model", cache_dir=self.cache_dir)
        judge = NetworkJudge(_load_trained(folder / "model" / TRAINED_FOLDER))
        return lambda events: judge.judge(events).probabilities

    def out_of_fold(self, kind: Kind, examples: Sequence[Example]) -> np.ndarray:
        """Judge each example by a model that was taught on none of its seller's, (n, 3).

        Raises:
            ValueError: If a class is missing in a fold, or a language model did not judge all examples.
        """
        if kind == "llm":
            return _said_by_llm(self.settings.llm, examples, self.policy)
        folds = np.array([fold_of(one.event.seller_id, self.settings.folds) for one in examples])
        found = np.zeros((len(examples), len(VERDICTS)))
        for fold in range(self.settings.folds):
            judged = np.flatnonzero(folds == fold)
            if len(judged):
                taught = [one for one, of in zip(examples, folds, strict=True) if of != fold]
                found[judged] = self.teach(kind, taught, f"fold{fold}")([examples[place].event for place in judged])
        return found


def fold_of(seller_id: str, folds: int) -> int:
    """Give a seller's fold, the same in every run."""
    digest = hashlib.sha256(f"fold/{seller_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") % folds


def _inputs(events: Sequence[Event]) -> np.ndarray:
    return feature_table(events)


def _load_trained(folder: Path) -> VerdictModel:
    import torch

    model, tokenizer = load_fusion_model(folder)
    encoder = EventEncoder(tokenizer, max_tokens=model.spec.max_tokens, left_out=model.spec.left_out)
    network = TorchNetwork(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return VerdictModel(network, model.spec, encoder, version="", temperature=1.0, max_batch_tokens=_MAX_BATCH_TOKENS)


def _said_by_llm(url: str | None, examples: Sequence[Example], policy: Policy) -> np.ndarray:
    assert url is not None
    rows = read_judged(url)
    rows = rows.filter(pc.is_null(rows["error"]))
    said: Mapping[str, list[float]] = dict(zip(rows["event_id"].to_pylist(), rows["logits"].to_pylist(), strict=True))
    missing = sum(one.event.event_id not in said for one in examples)
    if missing:
        raise ValueError(f"judges.llm {url}: {missing:,} of {len(examples):,} events have no verdict; label them too")
    events = [one.event for one in examples]
    probabilities = class_probabilities(np.array([said[event.event_id] for event in events], np.float64), 1.0)
    return market_probabilities(probabilities, events, policy)


@dataclass(frozen=True)
class Suspicion:
    """How far judges doubt n labels."""

    quality: np.ndarray
    """In [0, 1], (n,); low is doubtful."""

    contradicted: np.ndarray
    """How many judges hold another verdict for likelier, (n,)."""

    def order(self) -> np.ndarray:
        """Places of the contradicted labels, the most doubtful first."""
        places = np.flatnonzero(self.contradicted)
        return places[np.argsort(self.quality[places], kind="stable")]


def doubt_labels(labels: np.ndarray, opinions: Sequence[np.ndarray]) -> Suspicion:
    """Hold labels against what judges say who were taught without them.

    Args:
        labels: Class numbers, (n,).
        opinions: Probabilities of the classes, (n, 3), one array a judge.
    """
    from cleanlab.rank import get_label_quality_ensemble_scores

    # A class that no label is of is none in these markets: judges' chances of it go to the others.
    present, places = np.unique(labels, return_inverse=True)
    given = [np.asarray(opinion, np.float64)[:, present] + _LEAST for opinion in opinions]
    given = [opinion / opinion.sum(axis=1, keepdims=True) for opinion in given]
    quality = get_label_quality_ensemble_scores(
        places, given, method="self_confidence", weight_ensemble_members_by="log_loss_search", verbose=False
    )
    contradicted = np.sum([opinion.argmax(axis=1) != places for opinion in given], axis=0)
    return Suspicion(np.asarray(quality, np.float64), contradicted)
