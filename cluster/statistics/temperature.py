"""One number that makes a classifier's probabilities mean what they say.

Source: Guo et al., On Calibration of Modern Neural Networks (2017): Platt scaling with one parameter, fitted by
maximum likelihood on cases that it is not judged on. No verdict changes, only how sure it is.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

_TEMPERATURES = (0.05, 20.0)


def find_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Find the temperature of the highest likelihood, within 0.05 to 20.

    Args:
        logits: Raw, (n, classes), n >= 1; log-probabilities will do.
        labels: Class numbers, (n,).
        weights: What each row counts, (n,); None: all alike.
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, float(np.exp(log_temperature)), weights)

    bounds = tuple(np.log(_TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x))


def class_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of logits divided by a temperature, (n, classes), float64."""
    scaled = logits.astype(np.float64) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))


def negative_log_likelihood(
    logits: np.ndarray, labels: np.ndarray, temperature: float, weights: np.ndarray | None = None
) -> float:
    """Mean surprise at the labels, in nats; weighted where there are weights, (n,)."""
    scaled = logits.astype(np.float64) / temperature
    surprise = np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]
    return float(np.average(surprise, weights=weights))
