"""How good a judge is: figures over labelled events, each with a bootstrap interval over the events.

Recall at a precision is the largest share of the induced that a threshold finds while that share of what it flags
is right: the figure that decides how much a penalty threshold is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cancellation.events.factors import FACTORS, VERDICTS
from cluster.statistics.bootstrap import Figure, GroupBootstrap, interval, summarise

INDUCED = VERDICTS.index("induced")


@dataclass(frozen=True)
class Judgements:
    """What a judge says of n events."""

    probabilities: np.ndarray
    """Of the classes, (n, 3)."""
    factors: np.ndarray
    """Probabilities of the decision factors, (n, 18)."""
    ranked: bool = True
    """False: `probabilities` say only which verdict was given, so neither thresholds nor AUC can be had of them."""
    answered: np.ndarray | None = None
    """False where the judge gave no verdict, (n,), and `inconclusive` stands for it; None: it always did."""
    thresholds: np.ndarray | None = None
    """Scores above which alone a policy says *induced*, (n,); None: wherever it is the likeliest class."""

    @property
    def verdicts(self) -> np.ndarray:
        """Numbers of the classes that are said, (n,)."""
        found = self.probabilities.argmax(axis=1)
        if self.thresholds is None:
            return found
        others = np.delete(self.probabilities, INDUCED, axis=1).argmax(axis=1)
        accused = (found == INDUCED) & (self.probabilities[:, INDUCED] > self.thresholds)
        return np.where(accused | (found != INDUCED), found, others + (others >= INDUCED))

    @property
    def num_unanswered(self) -> int:
        """Events without a verdict."""
        return 0 if self.answered is None else int((~self.answered).sum())


@dataclass(frozen=True)
class Truth:
    """What is so of the same events."""

    labels: np.ndarray
    """Class numbers, (n,)."""
    factors: np.ndarray
    """True where a code supports the label, (n, 18)."""
    markets: tuple[str, ...]
    factors_known: np.ndarray | None = None
    """False where nobody looked for factors, (n,); None: somebody always did."""
    weights: np.ndarray | None = None
    """How many cancellations each stands for, (n,), in a weighted sample; None: all alike."""

    @staticmethod
    def of(
        labels: Sequence[str],
        factors: Sequence[Sequence[str] | None],
        markets: Sequence[str],
        weights: np.ndarray | None = None,
    ) -> Truth:
        """Collect it from labels and codes as the contract writes them."""
        rows = [[code in (codes or ()) for code in FACTORS] for codes in factors]
        table = np.array(rows, bool).reshape(-1, len(FACTORS))
        known = np.array([codes is not None for codes in factors], bool)
        return Truth(np.array([VERDICTS.index(label) for label in labels]), table, tuple(markets), known, weights)


@dataclass(frozen=True)
class Resampled(Figure):
    """A figure with what the draws made of it."""

    samples: tuple[float, ...] = ()
    """In the order of the draws; NaN where one does not define the figure."""

    def as_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def compare(found: Judgements, truth: Truth, *, resamples: int, seed: int = 0) -> dict[str, Resampled]:
    """Measure one judge: every metric, and accuracy and precision by market (`accuracy.TH`).

    Args:
        found: Of the judge.
        truth: Of the same events.
        resamples: Bootstrap samples; the same events for every judge of the same seed, so that judges can be compared.
        seed: Of the bootstrap.
    """
    weights = GroupBootstrap(np.arange(len(truth.labels)), samples=resamples, seed=seed).weights()
    weights = weights if truth.weights is None else weights * truth.weights
    of_factors = weights if truth.factors_known is None else weights * truth.factors_known
    ranking = _ranking_figures(found.probabilities[:, INDUCED], truth.labels == INDUCED, weights)
    if not found.ranked:
        ranking = {name: np.full_like(values, np.nan) for name, values in ranking.items()}
    parts = {
        **_verdict_figures(found.verdicts, truth.labels, weights),
        **ranking,
        "factor_f1": _factor_f1(found.factors >= 0.5, truth.factors, of_factors),
    }
    for market in sorted(set(truth.markets)):
        inside = weights * (np.array(truth.markets) == market)
        figures = _verdict_figures(found.verdicts, truth.labels, inside)
        parts |= {f"{name}.{market}": figures[name] for name in ("accuracy", "precision", "recall")}
    return {name: _figure(samples) for name, samples in parts.items()}


def _verdict_figures(verdicts: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    hit = weights @ ((verdicts == INDUCED) & (labels == INDUCED))
    precision = _ratio(hit, weights @ (verdicts == INDUCED))
    recall = _ratio(hit, weights @ (labels == INDUCED))
    return {
        "accuracy": _ratio(weights @ (verdicts == labels), weights.sum(axis=1)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * hit, weights @ (verdicts == INDUCED) + weights @ (labels == INDUCED)),
    }


def _ranking_figures(scores: np.ndarray, induced: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are flagged together
    hits = np.cumsum(weights[:, order] * induced[order], axis=1)[:, ends]
    flagged = np.cumsum(weights[:, order], axis=1)[:, ends]
    total = hits[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / flagged, hits / total[:, None]
    figures = {
        f"recall_at_precision_{round(100 * least)}": np.where(
            total > 0, np.where(precision >= least, recall, 0.0).max(axis=1), np.nan
        )
        for least in (0.90, 0.95)
    }
    misses = flagged - hits
    steps = np.diff(misses, axis=1, prepend=0.0)
    means = (hits + np.concatenate([np.zeros((len(hits), 1)), hits[:, :-1]], axis=1)) / 2
    figures["auc"] = _ratio((steps * means).sum(axis=1), misses[:, -1] * total)
    return figures


def _factor_f1(found: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Micro-averaged over codes and events."""
    hits = weights @ (found & truth).sum(axis=1)
    return _ratio(2 * hits, weights @ found.sum(axis=1) + weights @ truth.sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan, np.float64), where=whole > 0)


def _figure(values: np.ndarray) -> Resampled:
    found = summarise(values, missing="undefined on these events", too_few="too few events for an interval")
    samples = () if found.value is None else tuple(values[1:].tolist())
    return Resampled(found.value, found.low, found.high, found.missing, samples)


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a figure's difference between two judges, from their bootstrap over the same events."""
    return interval(np.asarray(first) - np.asarray(second))
