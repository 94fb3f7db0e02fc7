"""What a way of fine-tuning is worth on pairs that no stage of it has seen."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from cluster import storage
from cluster.progress import Progress
from cluster.tracking import TrackedRun
from relevance.agreement import nominal_alpha
from relevance.evaluation.pairs import TIED, EvaluationPairs
from relevance.evaluation.predictions import Predictions, ask_model
from relevance.finetuning.finetune import finetune
from relevance.finetuning.pairs import LabelledTexts, split_folds
from relevance.finetuning.recipe import FinetuneInputs, Recipe

logger = logging.getLogger(__name__)


def cross_validate(
    given: FinetuneInputs,
    recipe: Recipe,
    run: TrackedRun | None,
    *,
    num_folds: int,
    seed: int,
    output: str,
    cache_dir: str,
) -> tuple[EvaluationPairs, Predictions]:
    """Label every pair by the adapter of a fold that saw neither its query nor its title.

    The base must have been pre-trained without them too; weak and further pairs that share one with a judged pair are
    left out. Folds are grouped by query.

    Raises:
        ValueError: If base or adapter say themselves that they saw queries of these pairs, or do not say.

    Returns:
        The pairs with a settled label, and what the models said of them, in their order.
    """
    pairs = given.pairs.take(given.pairs.labels != TIED)
    given.refuse_learnt(pairs)
    texts = LabelledTexts(pairs.queries, pairs.titles, pairs.labels)
    probabilities, labelled = np.zeros((len(pairs), 4)), np.zeros(len(pairs), bool)
    progress = Progress(num_folds, "folds", every_seconds=0)
    for number, (training, judged) in enumerate(split_folds(texts, num_folds, seed=seed)):
        own, other = pairs.take(_mask(training, len(pairs))), pairs.take(_mask(judged, len(pairs)))
        folder = storage.join_url(output, f"fold{number}")
        adapter = finetune(replace(given.without(other), pairs=own), recipe, run, output=folder, cache_dir=cache_dir)
        said = ask_model(other.rows, adapter.model, recipe.engine)
        probabilities[judged], labelled[judged] = said.probabilities, said.labelled
        alpha = nominal_alpha(np.stack([other.labels, said.labels])[:, said.labelled])
        if run is not None:
            run.metrics({"fold_alpha": None if np.isnan(alpha) else alpha}, step=number)
        logger.info("fold %d of %d: alpha %.3f over %d pairs", number + 1, num_folds, alpha, len(other))
        progress.add()
    version = f"{given.base.version}, {num_folds} folds"
    said = replace(said, model_version=version, fingerprint=None, engine_seconds=None)
    return pairs, replace(said, probabilities=probabilities, labelled=labelled)


def _mask(rows: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask
