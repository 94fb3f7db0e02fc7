"""LoRA on people's labels: cross-entropy on the label token alone, in the prompt of scoring, by Ray Train."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.model_selection import GroupShuffleSplit

from cluster.models.files import ModelFiles
from cluster.provenance import digest_of
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings, train
from relevance.evaluation.pairs import TIED, EvaluationPairs
from relevance.finetuning.pairs import LabelledPairs, WeakPairs
from relevance.finetuning.taught_pairs import TaughtPairs, TeachingSettings
from relevance.labels import LABELS
from relevance.prompting.prompts import PromptEncoder, save_prompt_settings
from relevance.training.examples import ExampleSource, ProductExample, tokenize_texts
from relevance.training.loop import ALPHA, TrainingSettings, TrainingTask, ValidationPairs, train_worker
from relevance.training.state import ADAPTER
from relevance.weights.adapters import LoraSettings
from relevance.weights.loading import TRAINING_FILE

_QUERIES_PER_ROW = 16


class FinetuningSettings(Settings):
    """LoRA on the label token."""

    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    epochs: int = Field(default=2, ge=1)
    """Passes over the labelled pairs."""

    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: the rarer a label, the more its pairs count, all labels alike in sum."""

    allow_missing_labels: bool = False
    """Train although one of the four labels has no pair: the model will hardly ever give it."""

    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the queries kept back to choose the best checkpoint by alpha, and to stop early; 0: the last counts."""

    teaching: TeachingSettings = TeachingSettings()
    """Only used together with weakly labelled pairs."""


@dataclass(frozen=True)
class FinetunedAdapter:
    """An adapter and how it came about."""

    folder: Path
    losses: list[float]
    """Of every step."""
    alphas: list[float]
    """Of every validation."""
    training: EvaluationPairs
    validation: EvaluationPairs | None


class LabelledExamples:
    """People's pairs as they are, grouped by product; every epoch is the same."""

    def __init__(self, pairs: EvaluationPairs, targets: np.ndarray) -> None:
        """Group the pairs; `targets` (n, 4) are their smoothed and weighed labels."""
        products, queries = pairs.rows["product_text"].to_pylist(), pairs.queries
        order = sorted(range(len(pairs)), key=products.__getitem__)
        self._products: list[str] = []
        self._queries: list[list[str]] = []
        self._targets: list[np.ndarray] = []
        for product, some in groupby(order, key=products.__getitem__):
            rows = list(some)
            for start in range(0, len(rows), _QUERIES_PER_ROW):
                taken = rows[start : start + _QUERIES_PER_ROW]
                self._products.append(product)
                self._queries.append([queries[i] for i in taken])
                self._targets.append(targets[taken])

    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        return tokenize_texts(encoder, self._products, self._queries, self._targets)


def finetune(
    base: ModelFiles,
    encoder: PromptEncoder,
    pairs: EvaluationPairs,
    weak: WeakPairs | None,
    settings: FinetuningSettings,
    trainer: TrainerSettings,
    run: TrackedRun,
    *,
    output: Path,
    cache_dir: str,
) -> FinetunedAdapter:
    """Train an adapter and write it with its prompt and origin to `output`; the base stays as it is.

    A run that was broken off goes on from its last checkpoint.

    Raises:
        ValueError: If a label has no pair, or no query can be kept back for validation.
        RuntimeError: If training failed.
    """
    pairs = pairs.take(pairs.labels != TIED)
    training, validation = split_validation(pairs, settings)
    targets = label_targets(training.labels, settings, weights=training.weights)
    source: ExampleSource = LabelledExamples(training, targets)
    if weak is not None:
        judged = _texts(validation) if validation else None
        weak = weak.without(judged) if judged else weak
        source = TaughtPairs(_texts(training), targets, weak, settings.teaching, seed=settings.training.seed)
    task = TrainingTask(
        model=base,
        cache_dir=cache_dir,
        prompt=encoder.prompt,
        source=source,
        steps=_num_steps(source, encoder, settings),
        settings=settings.training,
        lora=settings.lora,
        validation=_validation_pairs(validation, encoder) if validation else None,
    )
    origin = {
        "base": base.version,
        "base_digest": base.digest,
        "prompt": encoder.digest,
        "training_data": training.digest,
        "num_training_pairs": len(training),
        "validation_data": validation.digest if validation else None,
        "weak_pairs": len(weak.queries) if weak else 0,
        "finetuning": settings.model_dump(mode="json"),
    }
    name = f"finetune-{digest_of([origin, training.labels.tolist(), training.queries])}"
    outcome = train(
        train_worker,
        {"task": task},
        trainer,
        name=name,
        score=ALPHA if validation else None,
        curves=run.address,
    )
    returned = outcome.returned
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(outcome.fetch_checkpoint(Path(folder)) / ADAPTER, output, dirs_exist_ok=True)
    save_prompt_settings(encoder.prompt, output)
    origin["base_fingerprint"] = returned["base_fingerprint"]
    (output / TRAINING_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return FinetunedAdapter(output, returned["losses"], returned["alphas"], training, validation)


def split_validation(
    pairs: EvaluationPairs, settings: FinetuningSettings
) -> tuple[EvaluationPairs, EvaluationPairs | None]:
    """Keep some queries back, with all their pairs.

    Raises:
        ValueError: If there are too few queries to keep one back.
    """
    if not settings.validation_fraction:
        return pairs, None
    groups = pairs.groups
    if len(set(groups.tolist())) < 2:
        raise ValueError("one query cannot be split for validation: set finetuning.validation_fraction=0")
    splitter = GroupShuffleSplit(1, test_size=settings.validation_fraction, random_state=settings.training.seed)
    _, kept = next(splitter.split(groups, groups=groups))
    back = np.zeros(len(pairs), dtype=bool)
    back[kept] = True
    return pairs.take(~back), pairs.take(back)


def label_targets(labels: np.ndarray, settings: FinetuningSettings, *, weights: np.ndarray) -> np.ndarray:
    """Write labels (n,) as smoothed shares, scaled by the pair's weight and its label's, float32 (n, 4).

    Raises:
        ValueError: If a label does not occur and that is not allowed.
    """
    counts = np.bincount(labels, minlength=len(LABELS))
    missing = [label for label, count in zip(LABELS, counts, strict=True) if not count]
    if missing and not settings.allow_missing_labels:
        raise ValueError(
            f"the {len(labels)} training pairs have none labelled {', '.join(missing)}: label some, or set "
            "finetuning.allow_missing_labels=true"
        )
    shares = np.full((len(labels), len(LABELS)), settings.label_smoothing / len(LABELS))
    shares[np.arange(len(labels)), labels] += 1 - settings.label_smoothing
    if settings.class_weights == "balanced":
        of_label = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        weights = weights * of_label[labels]
    return (shares * weights[:, None]).astype(np.float32)


def _texts(pairs: EvaluationPairs) -> LabelledPairs:
    return LabelledPairs(pairs.queries, pairs.titles, pairs.labels)


def _validation_pairs(pairs: EvaluationPairs, encoder: PromptEncoder) -> ValidationPairs:
    """One query a row; those over the token budget are left out, as in scoring."""
    nothing = np.zeros((1, len(LABELS)), np.float32)
    examples, labels = [], []
    products = pairs.rows["product_text"].to_pylist()
    for product, query, label in zip(products, pairs.queries, pairs.labels, strict=True):
        if found := tokenize_texts(encoder, [product], [[query]], [nothing]):
            examples += found
            labels.append(label)
    return ValidationPairs(examples, np.array(labels))


def _num_steps(source: ExampleSource, encoder: PromptEncoder, settings: FinetuningSettings) -> int:
    pairs = sum(len(example.queries) for example in source.epoch(encoder, 0))
    return max(math.ceil(pairs * settings.epochs / settings.training.pairs_per_step), 1)
