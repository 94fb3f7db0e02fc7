"""Days of calibrated scores, and the precision that NannyML's CBPE estimates of them.

The estimates are kept beside the test that compares them with the monitor's (`cbpe_by_nannyml.json`). They were made by
this file in an environment with nannyml==0.13.1 and statsmodels, which it forgets to ask for:

    cd tests/unit/cancellation/monitoring && python cbpe_days.py > cbpe_by_nannyml.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np

NUM_DAYS = 8
DAY_EVENTS = 1000
THRESHOLD = 0.5


def scored_days(seed: int = 11) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield days, each with less certain scores than the one before: scores and truths, (1000,).

    A case is true as often as its score says, so that the scores are calibrated.
    """
    rng = np.random.default_rng(seed)
    for day in range(NUM_DAYS):
        induced = rng.random(DAY_EVENTS) < 0.35
        score = np.where(induced, rng.beta(12 - day, 1 + day / 3, DAY_EVENTS), rng.beta(1, 8, DAY_EVENTS))
        score = score.astype(np.float32)
        yield score, rng.random(DAY_EVENTS) < score


def _estimates() -> dict[str, object]:
    import nannyml
    import pandas as pd

    def frame(days: list[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
        score = np.concatenate([score for score, _ in days]).astype(np.float64)
        truth = np.concatenate([truth for _, truth in days])
        return pd.DataFrame({"p": score, "y": truth.astype(int), "said": (score > THRESHOLD).astype(int)})

    estimator = nannyml.CBPE(
        y_pred_proba="p",
        y_pred="said",
        y_true="y",
        problem_type="classification_binary",
        metrics=["precision"],
        chunk_size=DAY_EVENTS,
    )
    estimator.fit(frame([day for seed in range(12, 18) for day in scored_days(seed)]))
    found = estimator.estimate(frame(list(scored_days()))).filter(period="analysis").to_df()["precision"]
    days = [
        {"precision": round(float(value), 7), "sampling_error": round(float(error), 7)}
        for value, error in zip(found["value"], found["sampling_error"], strict=True)
    ]
    calibrated = estimator.needs_calibration
    return {"nannyml": nannyml.__version__, "needs_calibration": bool(calibrated), "days": days}


if __name__ == "__main__":
    json.dump(_estimates(), sys.stdout, indent=1)
