"""How often an induced verdict is right: estimated from the scores without a label, measured where people looked.

The alarm is a Shiryaev-Roberts detector over reviews in the order they came in. Each review multiplies the evidence by
how much likelier it is under the precision that is feared than under the one that is promised. While the promise
holds, whatever the true precision is at or above it, the expected number of reviews until a false alarm is at least
`reviews_per_false_alarm`: evidence minus number of reviews is then a supermartingale (Shin, Ramdas and Rinaldo 2024).
Looking daily costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from cancellation.decision.policy import MIN_PRECISION
from cancellation.monitoring.feedback import FeedbackDay, Review
from cluster.settings import Settings
from cluster.statistics.shares import lower_bound, upper_bound

_EACH_SIDE = 0.975


class PrecisionSettings(Settings):
    """What is promised, and what is feared."""

    promised: float = Field(default=MIN_PRECISION, gt=0.5, lt=1)
    """Precision of induced verdicts at or above which there is nothing to say."""

    feared: float = Field(default=0.80, gt=0, lt=1)
    """Precision that shall be noticed soon: after some 210 reviews, and one of 0.5 after some 35."""

    reviews_per_false_alarm: int = Field(default=10_000, ge=100)
    """Reviews, on average and at least, until an alarm though the promise is kept; for each market and for all of them
    together."""

    @model_validator(mode="after")
    def _in_order(self) -> PrecisionSettings:
        if self.feared >= self.promised:
            raise ValueError(f"feared: expected less than promised = {self.promised}, found {self.feared}")
        return self


@dataclass(frozen=True)
class Precision:
    """Estimated and measured precision of the model's induced verdicts."""

    flagged: int
    expected: float | None
    """Mean calibrated score of the verdicts of the day; as true as the calibration is."""
    reviewed: int
    right: int
    low: float
    high: float
    """Of the measured one, 95 %; as true as the reviewed cases are typical of all."""

    @property
    def measured(self) -> float | None:
        """Share of the reviewed that were right; None without a review."""
        return self.right / self.reviewed if self.reviewed else None


@dataclass(frozen=True)
class PrecisionAlarm:
    """One detector at the end of the day."""

    market: str
    """Empty: all together."""
    reviews: int
    evidence: float
    """Alarm at `limit`."""
    limit: float
    since: str | None
    """Day on which the alarm that stands was raised; None: there is none."""


def measure(expected: Sequence[float], reviews: Sequence[Review]) -> Precision:
    """Estimate and measure; `expected` is the number of verdicts and the sum of their scores."""
    flagged, total = int(expected[0]), expected[1]
    right, cases = sum(review.right for review in reviews), len(reviews)
    low = lower_bound(right, cases, confidence=_EACH_SIDE)
    high = upper_bound(right, cases, confidence=_EACH_SIDE)
    return Precision(flagged, total / flagged if flagged else None, cases, right, low, high)


def induced_reviews(day: FeedbackDay, market: str = "") -> list[Review]:
    """Give the reviews that speak of the model's induced verdicts, of one market or of all."""
    return [
        review
        for review in day.reviews
        if review.verdict == "induced" and review.source == "model" and market in ("", review.market)
    ]


def detect(days: Sequence[FeedbackDay], market: str, settings: PrecisionSettings) -> PrecisionAlarm:
    """Run the detector over the reviews of some days, oldest first, from nothing.

    One that began earlier would have no less evidence: beginning with the window makes no further false alarm.
    """
    right_factor = settings.feared / settings.promised
    wrong_factor = (1 - settings.feared) / (1 - settings.promised)
    limit = float(settings.reviews_per_false_alarm)
    evidence, reviews, since = 0.0, 0, None
    for day in days:
        for review in induced_reviews(day, market):
            evidence = min((1.0 + evidence) * (right_factor if review.right else wrong_factor), 1e300)
            reviews += 1
            if evidence < limit:
                since = None
            elif since is None:
                since = day.day
    return PrecisionAlarm(market, reviews, evidence, limit, since)


def strength(alarm: PrecisionAlarm) -> float:
    """Place the evidence between nothing (0) and an alarm (1 and more), on the scale on which reviews add up."""
    return max(0.0, math.log1p(alarm.evidence) / math.log1p(alarm.limit))
