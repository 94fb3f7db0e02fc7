"""One evaluation: pairs and predictions in, everything that is known about the model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.statistics.bootstrap import Figure, GroupBootstrap
from relevance.evaluation.baselines import WORD_OVERLAP, LabelledTexts, baseline_predictions
from relevance.evaluation.calibration import CalibrationFigures, measure_calibration
from relevance.evaluation.figures import (
    EvaluationSettings,
    PeopleFigures,
    measure_labels,
    measure_people,
    paired_alpha_difference,
)
from relevance.evaluation.pairs import TIED, EvaluationPairs
from relevance.evaluation.predictions import Predictions
from relevance.evaluation.slices import Slice, measure_slices
from relevance.labels import LABELS

COMPARED = ("alpha", "f1_exact", "f1_macro", "accuracy")
MODEL = "model"


@dataclass(frozen=True)
class Evaluation:
    """A model judged on one set of pairs."""

    model: str
    fingerprint: str | None
    prompt: str
    data_digest: str
    training_digest: str | None
    """None: no training set was given, so neither overlap nor baselines could use one."""
    shared_queries: int | None
    """Queries that the training set has too; None: not checked."""
    counts: dict[str, int]
    """Rows read, repeated, unusable; pairs tied, unlabelled by the model, and judged; queries judged."""
    labels: dict[str, int]
    """Judged pairs by people's label."""
    figures: dict[str, Figure]
    confusion: list[list[int]]
    """People's label by the model's."""
    calibration: CalibrationFigures
    comparison: dict[str, dict[str, Figure]]
    """`COMPARED` figures of the model and of what costs nothing, on the same pairs."""
    advantage: Figure | None
    """Alpha of the model less that of word overlap, paired; None where a single query leaves nothing to learn from."""
    people: PeopleFigures | None
    slices: list[Slice]
    engine_seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON types alone."""
        return asdict(self)

    def metrics(self) -> dict[str, float | None]:
        """Flat numbers for a tracked run; intervals as `name.low` and `name.high`."""
        figures = {**self.figures, "ece_before": self.calibration.ece_before, "ece_after": self.calibration.ece_after}
        for name, row in self.comparison.items():
            if name != MODEL:
                figures[f"{name.replace(' ', '_')}.alpha"] = row["alpha"]
        if self.people:
            figures |= {"people.alpha": self.people.people, "people.model_alpha": self.people.model}
        for part in self.slices:
            key = "".join(c if c.isalnum() else "_" for c in f"{part.kind}_{part.name}")
            if "alpha" in part.figures:
                figures[f"slice.{key}.alpha"] = part.figures["alpha"]
        flat = {name: figure.value for name, figure in figures.items()}
        for end in ("low", "high"):
            flat |= {f"{name}.{end}": getattr(figure, end) for name, figure in figures.items()}
        return {**flat, "temperature": self.calibration.temperature, "pairs": self.counts["judged"]}


def judge(
    pairs: EvaluationPairs,
    predictions: Predictions,
    settings: EvaluationSettings,
    *,
    training: EvaluationPairs | None = None,
    shared_queries: int | None = None,
) -> Evaluation:
    """Measure a model's labels against people's.

    Args:
        pairs: Labelled by people.
        predictions: Of the same pairs, in their order.
        settings: How intervals, bins and slices are made.
        training: What the baselines learn from; None: they learn out of fold, by query.
        shared_queries: Of both sets, as `refuse_overlap` counted them.

    Raises:
        ValueError: If no pair has both a settled label by people and a label by the model.
    """
    judged = _judged(pairs, predictions)
    seen, said, groups = pairs.take(judged), predictions.labels[judged], pairs.groups[judged]
    bootstrap = GroupBootstrap(groups, samples=settings.bootstrap_samples, seed=settings.seed)
    confusion = _confusion(seen.labels, said)
    figures = measure_labels(seen.labels, said, bootstrap)
    free = _free_labels(seen, training, settings)
    return Evaluation(
        model=predictions.model_version,
        fingerprint=predictions.fingerprint,
        prompt=predictions.prompt_version,
        data_digest=pairs.digest,
        training_digest=training.digest if training else None,
        shared_queries=shared_queries,
        counts=_counts(pairs, predictions, judged),
        labels={label: int(count) for label, count in zip(LABELS, confusion.sum(axis=1), strict=True)},
        figures=figures,
        confusion=confusion.tolist(),
        calibration=measure_calibration(
            predictions.probabilities[judged],
            seen.labels,
            groups,
            bootstrap,
            num_bins=settings.calibration_bins,
            fit_fraction=settings.calibration_fit_fraction,
            seed=settings.seed,
        ),
        comparison=_compare(seen, figures, free, bootstrap),
        advantage=_advantage(seen, said, free.get(WORD_OVERLAP), settings),
        people=_people(pairs, predictions, settings),
        slices=measure_slices(seen, said, bootstrap, settings),
        engine_seconds=predictions.engine_seconds,
    )


def _judged(pairs: EvaluationPairs, predictions: Predictions) -> np.ndarray:
    """Which pairs have both labels, bool (n,)."""
    judged = (pairs.labels != TIED) & predictions.labelled
    if not judged.any():
        raise ValueError(
            f"none of {len(pairs)} pairs has both a label by people and one by the model: look at the errors in the "
            "scores, and at ties between annotators"
        )
    return judged


def _confusion(labels: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Count pairs by people's label (rows) and the model's."""
    confusion = np.zeros((len(LABELS), len(LABELS)), dtype=int)
    np.add.at(confusion, (labels, said), 1)
    return confusion


def _people(pairs: EvaluationPairs, predictions: Predictions, settings: EvaluationSettings) -> PeopleFigures | None:
    """Of all pairs that the model labelled, those too on which people are tied."""
    labelled = predictions.labelled
    return measure_people(
        pairs.ratings[:, labelled],
        predictions.labels[labelled],
        pairs.groups[labelled],
        samples=settings.bootstrap_samples,
        seed=settings.seed,
    )


def _counts(pairs: EvaluationPairs, predictions: Predictions, judged: np.ndarray) -> dict[str, int]:
    return {
        **pairs.counts,
        "pairs": len(pairs),
        "unlabelled": int((~predictions.labelled).sum()),
        "judged": int(judged.sum()),
        "queries": len(np.unique(pairs.groups[judged])),
    }


def _free_labels(
    pairs: EvaluationPairs, training: EvaluationPairs | None, settings: EvaluationSettings
) -> dict[str, np.ndarray]:
    """Label numbers (n,) by each baseline."""
    learnt_from = _texts(training.take(training.labels != TIED)) if training else None
    return baseline_predictions(_texts(pairs), learnt_from, num_folds=settings.baseline_folds, seed=settings.seed)


def _advantage(
    pairs: EvaluationPairs, said: np.ndarray, free: np.ndarray | None, settings: EvaluationSettings
) -> Figure | None:
    if free is None:
        return None
    draws = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    return paired_alpha_difference(pairs.labels, said, free, pairs.groups, **draws)


def _compare(
    pairs: EvaluationPairs,
    of_model: Mapping[str, Figure],
    free: Mapping[str, np.ndarray],
    bootstrap: GroupBootstrap,
) -> dict[str, dict[str, Figure]]:
    measured = {name: measure_labels(pairs.labels, labels, bootstrap) for name, labels in free.items()}
    rows = {MODEL: of_model, **measured}
    return {name: {figure: row[figure] for figure in COMPARED} for name, row in rows.items()}


def _texts(pairs: EvaluationPairs) -> LabelledTexts:
    return LabelledTexts(pairs.queries, pairs.titles, pairs.labels, pairs.groups)
