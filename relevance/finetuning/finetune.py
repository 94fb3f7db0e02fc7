"""LoRA on people's labels: cross-entropy on the label token alone, in the prompt of scoring, by Ray Train."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.model_selection import GroupShuffleSplit

from cluster import storage
from cluster.models.files import ModelFiles, resolve_model
from cluster.provenance import code_digest, digest_of
from cluster.tracking import TrackedRun
from cluster.training.train import train
from relevance.engines.label_model import LabelModel
from relevance.evaluation.pairs import TIED, EvaluationPairs, query_digests
from relevance.finetuning.pairs import LabelledTexts
from relevance.finetuning.recipe import FinetuneInputs, FinetuningSettings, Recipe
from relevance.finetuning.taught_pairs import TaughtPairs
from relevance.finetuning.teacher import weights_as_in
from relevance.labels import LABELS
from relevance.prompting.prompts import PromptEncoder, query_texts, save_prompt_settings
from relevance.training.examples import ExampleSource, ProductExample, tokenize_texts
from relevance.training.loop import ALPHA, TrainingTask, ValidationPairs, train_worker
from relevance.training.state import ADAPTER
from relevance.weights.adapters import halve_adapter
from relevance.weights.origin import TRAINING_FILE

logger = logging.getLogger(__name__)

_QUERIES_PER_ROW = 16
_CODE = ("relevance.prompting", "relevance.weights", "relevance.training", "relevance.finetuning", "cluster.training")
"""What decides the weights, given the data: a run that other code has begun is not gone on with."""


@dataclass(frozen=True)
class FinetunedAdapter:
    """An adapter and how it came about."""

    model: LabelModel
    """The base with the adapter, to be judged."""
    losses: list[float]
    """Of every step."""
    alphas: list[float]
    """Of every validation."""
    training: EvaluationPairs
    """What it learnt from."""
    validation: EvaluationPairs | None
    """What chose its checkpoint."""
    num_over_budget: int
    """Pairs, of whichever source, of which nothing was learnt and that chose nothing: scoring would refuse them too."""


class GroupedExamples:
    """Pairs as they are, grouped by product; every epoch is the same."""

    def __init__(self, products: Sequence[str], queries: Sequence[str], targets: np.ndarray) -> None:
        """Group n pairs of product segments and queries; `targets` (n, 4) are their labels' shares, weighed."""
        order = sorted(range(len(products)), key=products.__getitem__)
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


@dataclass(frozen=True)
class StagedExamples:
    """Pairs of other sources beside one's own in the first epochs, one's own alone afterwards."""

    own: ExampleSource
    others: Sequence[tuple[ExampleSource, int]]
    """Each with the number of epochs that it takes part in."""

    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        examples = list(self.own.epoch(encoder, number))
        for source, epochs in self.others:
            if number < epochs:
                examples += source.epoch(encoder, number)
        return examples


def finetune(
    given: FinetuneInputs, recipe: Recipe, run: TrackedRun | None, *, output: str, cache_dir: str
) -> FinetunedAdapter:
    """Train an adapter and write it with its prompt and origin to `output`; the base stays as it is.

    A run that was broken off goes on from its last checkpoint.

    Raises:
        ValueError: If a label has no pair, no query can be kept back for validation, or every query is over the budget.
        RuntimeError: If training failed.
    """
    settings, encoder = recipe.finetuning, given.encoder
    training, validation = split_validation(given.pairs.take(given.pairs.labels != TIED), settings)
    if validation:
        given = given.without(validation)
    over_budget = _count_over_budget(given, training, validation)
    meaning = resolve_encoder(given, settings, run.address.uri if run else None)
    source = _examples(given, training, settings, meaning, cache_dir)
    task = TrainingTask(
        model=given.base,
        cache_dir=cache_dir,
        prompt=encoder.prompt,
        source=source,
        steps=_num_steps(source, encoder, settings),
        settings=settings.training,
        lora=settings.lora,
        adapter=given.adapter,
        validation=_validation_pairs(validation, encoder) if validation else None,
    )
    origin = _origin(given, settings, training, validation)
    origin["teaching_encoder"] = meaning.digest if meaning else None
    name = f"finetune-{digest_of([origin, training.labels.tolist(), training.queries, code_digest(*_CODE)])}"
    outcome = train(
        train_worker,
        {"task": task},
        recipe.trainer,
        name=name,
        score=ALPHA if validation else None,
        curves=run.address if run else None,
    )
    returned = outcome.returned
    with tempfile.TemporaryDirectory() as temporary:
        folder = outcome.fetch_checkpoint(Path(temporary)) / ADAPTER
        if settings.half:
            halve_adapter(folder)
        save_prompt_settings(encoder.prompt, folder)
        origin["base_fingerprint"] = returned["base_fingerprint"]
        (folder / TRAINING_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        storage.send_folder(folder, output)
    model = LabelModel(given.base, resolve_model(output), quantization="none", cache_dir=cache_dir)
    return FinetunedAdapter(model, returned["losses"], returned["alphas"], training, validation, over_budget)


def _count_over_budget(given: FinetuneInputs, training: EvaluationPairs, validation: EvaluationPairs | None) -> int:
    """Count pairs whose query is longer than a prompt may hold, and say so.

    Raises:
        ValueError: If all that are to be learnt from are.
    """
    setting = f"prompt.query_token_budget={given.encoder.prompt.query_token_budget}"
    counts = [
        sum(ids is None for ids in given.encoder.encode_queries(query_texts(pa.array(pairs.queries)).to_pylist()))
        for pairs in _sources(given, training, validation)
    ]
    if counts[0] == len(training):
        raise ValueError(f"each of {len(training):,} pairs has a query over {setting} tokens: raise it, or give others")
    if any(counts):
        logger.warning("%d pairs are left out: their query is over %s tokens, as in scoring", sum(counts), setting)
    return sum(counts)


def _sources(given: FinetuneInputs, training: EvaluationPairs, validation: EvaluationPairs | None) -> list[Any]:
    """All pairs that have a say in the weights, those to be learnt from first."""
    return [
        some
        for some in (training, validation, *given.further, *given.teacher_pairs, given.weak, given.distilled)
        if some is not None
    ]


def _origin(
    given: FinetuneInputs, settings: FinetuningSettings, training: EvaluationPairs, validation: EvaluationPairs | None
) -> dict[str, object]:
    """What an adapter was made of: it names the run, and stays beside the weights."""
    return {
        "base": given.base.version,
        "base_digest": given.base.digest,
        "went_on_from": given.adapter.digest if given.adapter else None,
        "prompt": given.encoder.digest,
        "training_data": training.digest,
        "num_training_pairs": len(training),
        "validation_data": validation.digest if validation else None,
        "weak_pairs": len(given.weak.queries) if given.weak else 0,
        "further_data": [some.digest for some in given.further],
        "further_pairs": sum(map(len, given.further)),
        "teacher_data": [some.digest for some in given.teacher_pairs],
        "weak_data": given.weak.digest if given.weak else None,
        "distilled_data": given.distilled.digest if given.distilled else None,
        "distilled_from": given.distilled.teacher if given.distilled else None,
        "distilled_pairs": len(given.distilled.queries) if given.distilled else 0,
        "training_queries": _learnt_queries(given, training, validation),
        "finetuning": settings.model_dump(mode="json"),
    }


def _learnt_queries(
    given: FinetuneInputs, training: EvaluationPairs, validation: EvaluationPairs | None
) -> list[str] | None:
    """Digest the queries that had a say in the weights: learnt from, by whichever stage, or choosing a checkpoint.

    None where an earlier stage does not say: then nobody knows of all.
    """
    if given.base_queries is None:
        return None
    queries = (query for some in _sources(given, training, validation) for query in some.queries)
    return sorted(given.base_queries.union(query_digests(queries)))


def resolve_encoder(given: FinetuneInputs, settings: FinetuningSettings, registry_uri: str | None) -> ModelFiles | None:
    """Find what the teacher's encoder means now; None where nobody is taught by one."""
    named = settings.teaching.encoder if given.weak else None
    return resolve_model(named, registry_uri=registry_uri) if named else None


def _examples(
    given: FinetuneInputs,
    training: EvaluationPairs,
    settings: FinetuningSettings,
    meaning: ModelFiles | None,
    cache_dir: str,
) -> ExampleSource:
    targets = label_targets(training.labels, settings, weights=training.weights)
    if given.weak is not None:
        own: ExampleSource = TaughtPairs(
            _texts(training),
            targets,
            given.weak,
            settings.teaching,
            seed=settings.training.seed,
            cache_dir=cache_dir,
            encoder=meaning,
            others=[_texts(pairs.take(pairs.labels != TIED)) for pairs in given.teacher_pairs],
        )
    else:
        own = _grouped(training, targets)
    others: list[tuple[ExampleSource, int]] = []
    for pairs in given.further if settings.further_epochs else ():
        further = _further_examples(pairs.take(pairs.labels != TIED), training.labels, settings)
        others.append((further, settings.further_epochs))
    if given.distilled is not None and settings.distilled_epochs:
        taught = given.distilled
        weighed = (settings.distilled_weight * taught.probabilities).astype(np.float32)
        others.append((GroupedExamples(taught.products, taught.queries, weighed), settings.distilled_epochs))
    return StagedExamples(own, others)


def _grouped(pairs: EvaluationPairs, targets: np.ndarray) -> GroupedExamples:
    return GroupedExamples(pairs.rows["product_text"].to_pylist(), pairs.queries, targets)


def _further_examples(pairs: EvaluationPairs, labels: np.ndarray, settings: FinetuningSettings) -> GroupedExamples:
    weights = settings.further_weight * pairs.weights
    if settings.further_match:
        weights = weights * weights_as_in(labels, pairs.labels)
    plain = settings.model_copy(update={"allow_missing_labels": True, "class_weights": "none"})
    return _grouped(pairs, label_targets(pairs.labels, plain, weights=weights))


def split_validation(
    pairs: EvaluationPairs, settings: FinetuningSettings
) -> tuple[EvaluationPairs, EvaluationPairs | None]:
    """Keep some queries back that choose the checkpoint, with all their pairs.

    Raises:
        ValueError: If there are too few queries to keep one back.
    """
    return _keep_back(pairs, settings.validation_fraction, settings, "finetuning.validation_fraction=0")


def split_judged(
    pairs: EvaluationPairs, settings: FinetuningSettings
) -> tuple[EvaluationPairs, EvaluationPairs | None]:
    """Keep some queries back that judge, with all their pairs: neither training nor the checkpoint's choice sees them.

    Raises:
        ValueError: If there are too few queries to keep one back.
    """
    fraction = settings.validation_fraction if settings.judged_fraction is None else settings.judged_fraction
    return _keep_back(pairs, fraction, settings, "finetuning.judged_fraction=0")


def _keep_back(
    pairs: EvaluationPairs, fraction: float, settings: FinetuningSettings, remedy: str
) -> tuple[EvaluationPairs, EvaluationPairs | None]:
    """Split off whole queries; the rest keeps no pair that shares its query or its title with one kept back."""
    if not fraction:
        return pairs, None
    groups = pairs.groups
    if len(set(groups.tolist())) < 2:
        raise ValueError(f"one query cannot be split: give more labelled queries, or set {remedy}")
    splitter = GroupShuffleSplit(1, test_size=fraction, random_state=settings.training.seed)
    _, kept = next(splitter.split(groups, groups=groups))
    back = np.zeros(len(pairs), dtype=bool)
    back[kept] = True
    kept_back = pairs.take(back)
    rest = pairs.take(~back).unseen_by(kept_back)
    if not len(rest):
        raise ValueError(
            f"every pair shares its title with a query that is kept back: give more products, or set {remedy}"
        )
    return rest, kept_back


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
    power = {"none": 0.0, "root": 0.5, "balanced": 1.0}[settings.class_weights]
    of_label = (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))) ** power
    weights = weights * of_label[labels]
    return (shares * weights[:, None]).astype(np.float32)


def _texts(pairs: EvaluationPairs) -> LabelledTexts:
    return LabelledTexts(pairs.queries, pairs.titles, pairs.labels)


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
    """Count the steps of all epochs; those in which the same sources take part are alike."""
    counted: dict[tuple[bool, ...], int] = {}
    pairs, taught = 0, settings.teaching.taught_epochs
    for number in range(settings.epochs):
        limits = settings.further_epochs, settings.distilled_epochs, settings.epochs if taught is None else taught
        taking_part = tuple(number < limit for limit in limits)
        if taking_part not in counted:
            counted[taking_part] = sum(len(example.queries) for example in source.epoch(encoder, number))
        pairs += counted[taking_part]
    return max(math.ceil(pairs / settings.training.pairs_per_step), 1)
