"""Whether a score means what it says: a temperature, and the calibration error that it leaves.

Label smoothing of 0.1 alone puts the best probability of a sure class at 0.93, so that a threshold of 0.95 would
never be passed: calibration comes first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cancellation.events.factors import VERDICTS
from cluster.statistics.calibration import expected_calibration_error, fill_bins, reliability_bins
from cluster.statistics.temperature import class_probabilities, find_temperature, negative_log_likelihood

INDUCED, NOT_INDUCED = VERDICTS.index("induced"), VERDICTS.index("not_induced")
_NUM_BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Events with scores in a range: how many, their mean score, and the share that was induced."""

    start: float
    stop: float
    events: int
    score: float | None
    induced: float | None


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature and what it does to the score, on events that it was not fitted on."""

    temperature: float
    fitted_events: int
    judged_events: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    before: tuple[ReliabilityBin, ...]
    after: tuple[ReliabilityBin, ...]


def market_class_probabilities(logits: np.ndarray, temperature: float, *, two_classes: np.ndarray) -> np.ndarray:
    """Give the calibrated probabilities of many events, (n, 3), as `verdicts.verdict_probabilities` does for one.

    Args:
        logits: Raw, (n, 3), in the order of `VERDICTS`.
        temperature: Divides the logits.
        two_classes: True where the market knows no `inconclusive`, (n,).
    """
    return class_probabilities(_market_logits(logits, two_classes), temperature)


def _market_logits(logits: np.ndarray, two_classes: np.ndarray) -> np.ndarray:
    """Leave out what an event's market does not know, (n, 3)."""
    masked = np.array(logits, np.float64)
    masked[two_classes, 2:] = -np.inf
    return masked


def choose_events(event_ids: Sequence[str], fraction: float, *, purpose: str) -> np.ndarray:
    """Choose about a fraction of the events by a hash of their ids, bool (n,): the same in every run and order.

    Choices for different purposes have nothing to do with each other, so that one may be made within the other.
    """
    digests = (hashlib.sha256(f"{purpose}/{name}".encode("utf-8", "surrogatepass")).digest() for name in event_ids)
    return np.array([int.from_bytes(digest[:4], "big") < fraction * 2**32 for digest in digests], bool)


def split_events(cancelled_at: np.ndarray, sellers: Sequence[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut events into earlier ones to fit on and later ones to prove with, no seller on both sides; bool (n,) each.

    A seller who is seen before and after the cut goes whole to one side, chosen by its id; the events that it has on
    the other side are in neither.

    Args:
        cancelled_at: Instants, (n,).
        sellers: Each event's, (n,).
        fraction: Share of the events before the cut.
    """
    early = cancelled_at < np.quantile(cancelled_at, fraction)
    both = set(np.asarray(sellers)[early]) & set(np.asarray(sellers)[~early])
    on_both_sides = np.array([seller in both for seller in sellers], bool)
    fits = choose_events(sellers, fraction, purpose="temperature")
    return early & (~on_both_sides | fits), ~early & (~on_both_sides | ~fits)


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    two_classes: np.ndarray,
    fit: np.ndarray,
    weights: np.ndarray | None = None,
) -> Calibration:
    """Fit a temperature on some events and judge it on the others, all by the classes that their markets know.

    Args:
        logits: Raw, (n, 3).
        labels: Class numbers, (n,); one that its market does not know counts as not induced, as for the thresholds.
        two_classes: True where the event's market has two classes, (n,).
        fit: True for the events to fit on, (n,); the others are kept for judging and for thresholds.
        weights: How many events each stands for, (n,); None: all alike.

    Raises:
        ValueError: If either part is empty.
    """
    judged = ~fit
    if not fit.any() or not judged.any():
        raise ValueError(f"events to fit on and others to judge by are expected, found {fit.sum()} and {judged.sum()}")
    fitting, judging = (None, None) if weights is None else (weights[fit], weights[judged])
    known = _market_logits(logits, two_classes)
    labels = np.where(two_classes & (labels > NOT_INDUCED), NOT_INDUCED, labels)
    temperature = find_temperature(known[fit], labels[fit], fitting)
    induced = labels[judged] == INDUCED
    before, after = (
        fill_bins(
            class_probabilities(known[judged], one)[:, INDUCED],
            induced,
            num_bins=_NUM_BINS,
            weights=judging,
        )
        for one in (1.0, temperature)
    )
    return Calibration(
        temperature=temperature,
        fitted_events=int(fit.sum()),
        judged_events=int(judged.sum()),
        ece_before=float(expected_calibration_error(before)),
        ece_after=float(expected_calibration_error(after)),
        nll_before=negative_log_likelihood(known[judged], labels[judged], 1.0, judging),
        nll_after=negative_log_likelihood(known[judged], labels[judged], temperature, judging),
        before=reliability_bins(before, ReliabilityBin),
        after=reliability_bins(after, ReliabilityBin),
    )
