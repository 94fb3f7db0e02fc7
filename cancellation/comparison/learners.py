"""Gradient-boosted trees on the 68 features, alone or with a text model's logits beside them."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.ensemble import HistGradientBoostingClassifier

from cancellation.events.factors import FACTORS, VERDICTS
from cluster.settings import Settings

_FEWEST_POSITIVES = 10


class TreeSettings(Settings):
    """Of scikit-learn's HistGradientBoostingClassifier; missing features stay missing."""

    max_iter: int = Field(default=200, ge=1)
    """Trees per class."""

    learning_rate: float = Field(default=0.08, gt=0)
    max_leaf_nodes: int = Field(default=31, ge=2)
    l2_regularization: float = Field(default=1.0, ge=0)
    seed: int = Field(default=0, ge=0)


class TreeLearner:
    """One boosted model of the verdict, and a smaller one for each decision factor."""

    def __init__(self, settings: TreeSettings) -> None:
        self._settings = settings
        self._verdict = self._model(settings.max_iter)
        self._factors: list[HistGradientBoostingClassifier | float] = []

    def fit(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        factors: np.ndarray,
        *,
        known: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> TreeLearner:
        """Learn from inputs (n, d) with NaN where missing, class numbers (n,) and factors (n, 18) where known (n,).

        `weights` are what each counts, (n,); None: all alike.

        Raises:
            ValueError: If a class of the verdict does not occur.
        """
        if len(np.unique(labels)) < len(VERDICTS):
            raise ValueError(f"training events: all of {', '.join(VERDICTS)} are expected among the labels")
        weights = np.ones(len(inputs)) if weights is None else weights
        _fit(self._verdict, inputs, labels, weights)
        known = np.ones(len(inputs), bool) if known is None else known
        some = inputs[known], weights[known]
        self._factors = [self._fit_factor(*some, factors[known, place]) for place in range(len(FACTORS))]
        return self

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Probabilities of the verdicts, (n, 3)."""
        return self._verdict.predict_proba(inputs)

    def factor_probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Probabilities of the decision factors, (n, 18)."""
        columns = [
            np.full(len(inputs), model) if isinstance(model, float) else model.predict_proba(inputs)[:, 1]
            for model in self._factors
        ]
        return np.stack(columns, axis=1)

    def _fit_factor(
        self, inputs: np.ndarray, weights: np.ndarray, present: np.ndarray
    ) -> HistGradientBoostingClassifier | float:
        if min(present.sum(), len(present) - present.sum()) < _FEWEST_POSITIVES:
            return float(np.average(present, weights=weights)) if weights.any() else 0.0  # nothing to learn from
        return _fit(self._model(max(1, self._settings.max_iter // 4)), inputs, present, weights)

    def _model(self, max_iter: int) -> HistGradientBoostingClassifier:
        settings = self._settings
        return HistGradientBoostingClassifier(
            max_iter=max_iter,
            learning_rate=settings.learning_rate,
            max_leaf_nodes=settings.max_leaf_nodes,
            l2_regularization=settings.l2_regularization,
            early_stopping=False,
            random_state=settings.seed,
        )


def _fit(
    model: HistGradientBoostingClassifier, inputs: np.ndarray, classes: np.ndarray, weights: np.ndarray
) -> HistGradientBoostingClassifier:
    """Fit where some features may be missing of every event: scikit-learn finds no bounds between no values."""
    given = None if (weights == 1).all() else weights  # with weights its sums are rounded otherwise
    return model.fit(np.where(np.isnan(inputs).all(axis=0), 0.0, inputs), classes, sample_weight=given)
