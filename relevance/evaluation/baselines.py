"""What costs nothing: the majority label, and logistic regression on word overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from relevance.evaluation.overlap import OverlapFeatures, fit_baseline, predict_baseline
from relevance.labels import LABELS

MAJORITY_LABEL, WORD_OVERLAP = "majority label", "word overlap"


@dataclass(frozen=True)
class LabelledTexts:
    """Queries, titles and label numbers, aligned; what a baseline needs of a set."""

    queries: Sequence[str]
    titles: Sequence[str]
    labels: np.ndarray
    groups: np.ndarray
    """The query of each pair as a number, (n,)."""

    def take(self, rows: np.ndarray) -> LabelledTexts:
        """Keep rows by number."""
        kept = [self.queries[i] for i in rows], [self.titles[i] for i in rows]
        return LabelledTexts(*kept, self.labels[rows], self.groups[rows])


def baseline_predictions(
    pairs: LabelledTexts, training: LabelledTexts | None, *, num_folds: int, seed: int
) -> dict[str, np.ndarray]:
    """Label the pairs by each baseline, learnt on the training set, or out of fold by query where there is none.

    Returns:
        Label numbers (n,) by name; nothing where a single query leaves nothing to learn from.
    """
    if training is not None:
        return _learn_and_label(training, pairs)
    num_folds = min(num_folds, len(np.unique(pairs.groups)))
    if num_folds < 2:
        return {}
    found: dict[str, np.ndarray] = {}
    splitter = GroupKFold(num_folds, shuffle=True, random_state=seed)
    for learnt, judged in splitter.split(pairs.labels, groups=pairs.groups):
        for name, said in _learn_and_label(pairs.take(learnt), pairs.take(judged)).items():
            found.setdefault(name, np.zeros(len(pairs.labels), dtype=int))[judged] = said
    return found


def _learn_and_label(training: LabelledTexts, pairs: LabelledTexts) -> dict[str, np.ndarray]:
    commonest = np.bincount(training.labels, minlength=len(LABELS)).argmax()
    majority = np.full(len(pairs.labels), commonest)
    if len(np.unique(training.labels)) < 2:  # nothing to tell apart: a regression has nothing to fit
        return {MAJORITY_LABEL: majority, WORD_OVERLAP: majority}
    features = OverlapFeatures(training.titles)
    model = fit_baseline(features(training.queries, training.titles), training.labels)
    return {
        MAJORITY_LABEL: majority,
        WORD_OVERLAP: predict_baseline(model, features(pairs.queries, pairs.titles)),
    }
