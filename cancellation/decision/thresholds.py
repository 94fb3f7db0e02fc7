"""Penalty thresholds with proof: precision of at least 0.90, shown per market at 95 % confidence.

A threshold is proven by an exact binomial test (Clopper and Pearson 1934) on labelled cases above it, and several
are tried by fixed-sequence testing (Angelopoulos et al., Learn then Test, 2021): from strict to loose along a grid
fixed beforehand, up to the first that fails; what passed may be used, without paying for having tried many. Cases of
one seller are alike, and count for as many as they are worth together (`clustered_lower_bound`). Each market is proven
for itself: that all of them hold at once is less sure.

MAPIE's BinaryClassificationController(risk="precision", fwer_method="fixed_sequence") is the same test: for a
binary loss its Hoeffding-Bentkus p-value is the binomial's tail (1.6 rounds cases x risk up as a float and so at
times counts one error more). These thirty lines were kept because they also say how many cases are missing, begin
where there are cases at all, and need no further package in the jobs; a test holds them against MAPIE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator
from scipy.stats import binom

from cancellation.decision.policy import INVESTIGATE, MIN_PRECISION
from cluster.settings import Settings
from cluster.statistics.shares import clustered_lower_bound, lower_bound, upper_bound

_MOST_CASES = 200_000


class ThresholdSettings(Settings):
    """What a penalty threshold has to prove, and where it is looked for."""

    min_precision: float = Field(default=MIN_PRECISION, gt=0.5, lt=1)
    """Lower bound of precision that a penalty threshold must reach."""

    confidence: float = Field(default=0.95, ge=0.95, lt=1)
    """Confidence of that bound, one-sided: at least the 95 % that evidence and model card speak of."""

    investigate: float = Field(default=INVESTIGATE, ge=0, le=1)
    """Threshold above which people look; nothing is proven of it."""

    penalty_grid: tuple[float, ...] = (0.995, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.90)
    """Candidates from strict to loose around 0.95. None below 0.90: nobody is punished whom the calibrated model
    itself holds for innocent in one case of ten."""

    induced_grid: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    """Scores from loose to strict above which a verdict may say induced (`induced_thresholds`); empty: wherever it is
    the likeliest."""

    min_cases: int = Field(default=180, ge=29)
    """Flagged labelled cases from which on a threshold is tested: 179 prove 0.90 with 80 % power where precision is
    0.95. A market without a threshold of so many is pooled with the others like it."""

    min_sellers: int = Field(default=30, ge=2)
    """Different sellers among the flagged cases from which on a threshold is tested: how much cases of one seller are
    alike is seen between sellers alone."""

    power: float = Field(default=0.80, gt=0, lt=1)
    """Chance of success that the number of missing cases is counted for."""

    @field_validator("induced_grid")
    @classmethod
    def _loose_to_strict(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= value <= 1 for value in grid) or list(grid) != sorted(set(grid)):
            raise ValueError("expected different numbers from 0 to 1, the smallest first")
        return grid

    @field_validator("penalty_grid")
    @classmethod
    def _strict_to_loose(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if not grid or any(not 0 <= value <= 1 for value in grid) or list(grid) != sorted(set(grid), reverse=True):
            raise ValueError("expected different numbers from 0 to 1, the largest first")
        return grid


@dataclass(frozen=True)
class Proof:
    """Flagged labelled cases at one threshold."""

    threshold: float
    cases: int
    correct: int
    lower_bound: float
    sellers: int | None = None
    """Different sellers of them; None: each case was taken for one of its own."""
    effective: float | None = None
    """Independent cases that they are worth, as those of one seller are alike, or count unlike; None: all."""
    weighted_precision: float | None = None
    """Where cases stand for unlike numbers of others."""

    @property
    def precision(self) -> float | None:
        """Share of the flagged that were induced; None without any."""
        if self.weighted_precision is not None:
            return self.weighted_precision
        return self.correct / self.cases if self.cases else None


@dataclass(frozen=True)
class MarketThreshold:
    """What the labelled cases say of one market's penalty threshold."""

    proven: Proof | None
    """The loosest threshold that is proven; None: no automatic penalty."""
    nearest: Proof
    """The cases at the threshold that decided: the proven one, or the first that failed."""
    pooled: tuple[str, ...]
    """Markets whose cases were counted together; empty: its own."""
    cases_missing: int | None
    """Further flagged cases that a proof is expected to need; None: none, or precision is too low for any number."""
    events_missing: int | None
    """Cancellations to label for that, at the present share of flagged ones."""
    note: str


def count_flagged(
    scores: np.ndarray,
    induced: np.ndarray,
    threshold: float,
    *,
    confidence: float,
    sellers: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Proof:
    """Count the cases above a threshold and those of them that were induced.

    Args:
        scores: Calibrated, (n,).
        induced: True where the label is induced, (n,).
        threshold: A case is flagged when its score is above it, as in `actions.choose_action`.
        confidence: Of the lower bound.
        sellers: Number of each case's seller, (n,), whose cases may be alike; None: all cases are independent.
        weights: How many cases each stands for, (n,); None: all alike.
    """
    flagged = scores > threshold
    cases, correct = int(flagged.sum()), int(induced[flagged].sum())
    if sellers is None and weights is None:
        return Proof(threshold, cases, correct, lower_bound(correct, cases, confidence=confidence))
    of = np.arange(cases) if sellers is None else sellers[flagged]
    counts = None if weights is None else weights[flagged]
    bound, effective = clustered_lower_bound(induced[flagged], of, confidence=confidence, weights=counts)
    share = None if counts is None or not cases else float(np.average(induced[flagged], weights=counts))
    return Proof(threshold, cases, correct, bound, None if sellers is None else len(np.unique(of)), effective, share)


def prove_threshold(
    scores: np.ndarray,
    induced: np.ndarray,
    settings: ThresholdSettings,
    sellers: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> tuple[Proof | None, Proof | None]:
    """Test the grid in its order; return the loosest proven threshold and the first one that failed.

    Thresholds with fewer flagged cases than `min_cases`, or of fewer sellers than `min_sellers`, are not tried: a
    choice by the scores alone, which the test allows, and else a strict threshold that nobody passes would end the
    sequence at once.
    """
    proven = None
    for threshold in settings.penalty_grid:
        proof = count_flagged(
            scores, induced, threshold, confidence=settings.confidence, sellers=sellers, weights=weights
        )
        if proof.cases < settings.min_cases or _few_sellers(proof, settings):
            continue
        if proof.lower_bound < settings.min_precision:
            return proven, proof
        proven = proof
    return proven, None


def find_thresholds(
    scores: np.ndarray,
    induced: np.ndarray,
    markets: Sequence[str],
    settings: ThresholdSettings,
    sellers: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> dict[str, MarketThreshold]:
    """Find every market's penalty threshold, small markets pooled.

    Which markets are pooled depends on the number of flagged cases only, never on their labels. A pool's proof
    holds for its markets together; one whose own cases speak against it (upper bound below the promise) gets none.

    Args:
        scores: Calibrated induced probabilities, (n,), of events that the temperature was not fitted on.
        induced: True where the label is induced, (n,); an inconclusive case is not.
        markets: Market of each event, (n,).
        settings: What has to be proven.
        sellers: Number of each event's seller, (n,), from 0; None: all events are independent.
        weights: How many cancellations each event stands for, (n,); None: all alike.
    """
    codes = np.asarray(markets)
    small = [
        code for code in sorted(set(markets)) if _most_flagged(scores[codes == code], settings) < settings.min_cases
    ]
    found: dict[str, MarketThreshold] = {}
    for code in sorted(set(markets) - set(small)):
        rows = codes == code
        found[code] = _conclude(scores[rows], induced[rows], settings, _of(sellers, rows), _of(weights, rows))
    if small:
        rows = np.isin(codes, small)
        pooled = tuple(small) if len(small) > 1 else ()
        counts = _of(weights, rows)
        together = _conclude(scores[rows], induced[rows], settings, _of(sellers, rows), counts, pooled=pooled)
        for code in small:
            own = codes == code
            found[code] = _speaks_against(scores[own], induced[own], together, settings, _of(weights, own)) or together
    return dict(sorted(found.items()))


def _most_flagged(scores: np.ndarray, settings: ThresholdSettings) -> int:
    return int((scores > settings.penalty_grid[-1]).sum())


def _of(column: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if column is None else column[rows]


def _few_sellers(proof: Proof, settings: ThresholdSettings) -> bool:
    return proof.sellers is not None and proof.sellers < settings.min_sellers


def _conclude(
    scores: np.ndarray,
    induced: np.ndarray,
    settings: ThresholdSettings,
    sellers: np.ndarray | None,
    weights: np.ndarray | None,
    *,
    pooled: tuple[str, ...] = (),
) -> MarketThreshold:
    proven, failed = prove_threshold(scores, induced, settings, sellers, weights)
    if proven is not None:
        return MarketThreshold(proven, proven, pooled, None, None, "")
    loosest = settings.penalty_grid[-1]
    nearest = failed or count_flagged(
        scores, induced, loosest, confidence=settings.confidence, sellers=sellers, weights=weights
    )
    if nearest.cases >= settings.min_cases and _few_sellers(nearest, settings):
        note = f"{nearest.cases} flagged cases of {nearest.sellers} sellers: at least {settings.min_sellers} are needed"
        return MarketThreshold(None, nearest, pooled, None, None, note)
    missing = missing_cases(nearest, settings)
    if missing is None:
        note = (
            f"precision above {nearest.threshold} is {nearest.precision or 0:.3f}: no number of cases proves "
            f"{settings.min_precision}, a better model would"
            if nearest.cases
            else f"no case above {nearest.threshold}: nothing to go by"
        )
        return MarketThreshold(None, nearest, pooled, None, None, note)
    events = math.ceil(missing * len(scores) / nearest.cases)
    return MarketThreshold(None, nearest, pooled, missing, events, "too few labelled cases for a proof")


def _speaks_against(
    scores: np.ndarray,
    induced: np.ndarray,
    pool: MarketThreshold,
    settings: ThresholdSettings,
    weights: np.ndarray | None,
) -> MarketThreshold | None:
    if pool.proven is None:
        return None
    own = count_flagged(scores, induced, pool.proven.threshold, confidence=settings.confidence, weights=weights)
    cases = own.cases if own.effective is None else own.effective
    correct = cases * (own.precision or 0.0)
    if upper_bound(correct, cases, confidence=settings.confidence) >= settings.min_precision:
        return None
    note = f"its own cases contradict the pool's proof: {own.correct} of {own.cases} above {own.threshold} were induced"
    return MarketThreshold(None, own, pool.pooled, None, None, note)


def missing_cases(found: Proof, settings: ThresholdSettings) -> int | None:
    """Count the further flagged cases with which a proof would succeed with `power`, at the precision seen so far.

    Returns None where that precision is not above what has to be proven, or nothing was flagged.
    """
    if found.precision is None:
        return None
    # One imagined error tempers a perfect record of few cases.
    precision = min(found.precision, found.correct / (found.cases + 1) if found.correct == found.cases else 1.0)
    needed = cases_needed(precision, settings)
    if needed is None:
        return None
    alike = found.cases / found.effective if found.effective else 1.0
    return max(1, math.ceil(needed * alike) - found.cases)


def cases_needed(precision: float, settings: ThresholdSettings) -> int | None:
    """Count the cases from which on the exact test proves `min_precision` with `power` at a true precision.

    None where more than 200,000 would be needed: precision is then too close to what has to be proven.
    """
    if precision <= settings.min_precision:
        return None
    low, high = 1, 64
    while not _has_power(high, precision, settings):
        low, high = high, 2 * high
        if high > _MOST_CASES:
            return None
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _has_power(middle, precision, settings) else (middle, high)
    return high


def _has_power(cases: int, precision: float, settings: ThresholdSettings) -> bool:
    """Is the chance that this many cases suffice at least `power`?

    The test passes with k or fewer errors where P(at most k errors | worst allowed precision) <= 1 - confidence.
    """
    allowed = int(binom.ppf(1.0 - settings.confidence, cases, 1.0 - settings.min_precision))
    while allowed >= 0 and binom.cdf(allowed, cases, 1.0 - settings.min_precision) > 1.0 - settings.confidence:
        allowed -= 1
    return allowed >= 0 and float(binom.cdf(allowed, cases, 1.0 - precision)) >= settings.power
