"""What a fine-tuned model is worth on pairs that no stage of it has seen, beside what costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count

import numpy as np
from sklearn.metrics import f1_score
from transformers import PreTrainedModel

from relevance.agreement import alpha_interval, nominal_alpha
from relevance.finetuning import FinetuningSettings, TaughtPairs, finetune, num_steps, predict
from relevance.overlap import OverlapFeatures, fit_baseline, predict_baseline
from relevance.prompts import PromptEncoder
from relevance.training_pairs import LabelledPairs, WeakPairs, split_folds

logger = logging.getLogger(__name__)


def cross_validate(
    load_base: Callable[[], PreTrainedModel],
    encoder: PromptEncoder,
    labelled: LabelledPairs,
    weak: WeakPairs,
    settings: FinetuningSettings,
    *,
    num_folds: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Label every pair by models that did not see its query or title.

    `load_base` must give a base that was pre-trained without these queries and titles; weak pairs that
    share one with any labelled pair are left out.

    Returns:
        Label numbers (n,) by `model`, `teacher`, `word overlap` (logistic regression) and `majority`, and
        `probabilities` (n, 4) of the model.
    """
    weak = weak.without(labelled)
    n = len(labelled.labels)
    found = {name: np.zeros(n, dtype=int) for name in ("model", "teacher", "word overlap", "majority")}
    found["probabilities"] = np.zeros((n, 4))
    for number, (training, judged) in enumerate(split_folds(labelled, num_folds, seed=seed)):
        own, other = labelled.take(training), labelled.take(judged)
        taught = TaughtPairs(own, weak, settings)
        epochs = (taught.epoch(encoder, epoch) for epoch in count())
        tuned = finetune(load_base(), encoder, epochs, settings, steps=num_steps(taught, encoder, settings))
        found["probabilities"][judged] = predict(tuned.base_model.model, encoder, other.queries, other.titles)
        found["model"][judged] = found["probabilities"][judged].argmax(axis=1)
        found["teacher"][judged] = taught.probabilities(other.queries, other.titles).argmax(axis=1)
        features = OverlapFeatures(own.titles)
        baseline = fit_baseline(features(own.queries, own.titles), own.labels)
        found["word overlap"][judged] = predict_baseline(baseline, features(other.queries, other.titles))
        found["majority"][judged] = np.bincount(own.labels).argmax()
        done = nominal_alpha(np.stack([other.labels, found["model"][judged]]))
        logger.info("fold %d of %d: alpha %.3f over %d pairs", number + 1, num_folds, done, len(judged))
    return found


def figures(labelled: LabelledPairs, found: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Alpha with its 95 % interval over queries, accuracy and F1 of each way of labelling."""
    table = {}
    for name, labels in found.items():
        if name == "probabilities":
            continue
        ratings = np.stack([labelled.labels, labels])
        low, high = alpha_interval(ratings, np.array(labelled.queries))
        table[name] = {
            "alpha": nominal_alpha(ratings),
            "alpha_low": low,
            "alpha_high": high,
            "accuracy": float((labels == labelled.labels).mean()),
            "f1_exact": float(f1_score(labelled.labels == 0, labels == 0)),
            "f1_macro": float(f1_score(labelled.labels, labels, average="macro", zero_division=0)),
        }
    return table


def figures_table(table: dict[str, dict[str, float]]) -> str:
    """Render `figures` as Markdown."""
    lines = [
        "| labelled by | alpha | 95 % interval | accuracy | F1 exact-vs-rest | macro-F1 |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        interval = f"{row['alpha_low']:.3f} to {row['alpha_high']:.3f}"
        numbers = f"{row['accuracy']:.3f} | {row['f1_exact']:.3f} | {row['f1_macro']:.3f}"
        lines.append(f"| {name} | {row['alpha']:.3f} | {interval} | {numbers} |")
    return "\n".join(lines)
