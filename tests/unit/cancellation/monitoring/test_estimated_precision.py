"""The precision that the monitor estimates without a label, against NannyML's CBPE and against the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cancellation.monitoring.counts import DECISION_COLUMNS, DecisionCounter, merge
from cancellation.monitoring.precision import Precision, measure
from tests.builders.monitored_days import DAY, decisions
from tests.unit.cancellation.monitoring.cbpe_days import NUM_DAYS, THRESHOLD, scored_days

ESTIMATES = Path(__file__).with_name("cbpe_by_nannyml.json")


def _estimated(score: np.ndarray) -> Precision:
    table = decisions(DAY, len(score), fallback=0.0)
    said = np.where(score > THRESHOLD, "induced", "not_induced")
    for name, values in (("score", pa.array(score)), ("verdict", pa.array(said).dictionary_encode())):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values.cast(table.schema.field(place).type))
    counter = DecisionCounter(DAY, None)
    counter.add(table.select(DECISION_COLUMNS))
    return measure(merge(list(counter.counts.markets.values())).expected["induced"], [])


def test_the_estimate_is_nannymls_and_near_the_truth() -> None:
    """NannyML calibrates the scores once more, by isotonic regression on its reference: hence not to the last digit."""
    record = json.loads(ESTIMATES.read_text())
    assert (record["nannyml"], len(record["days"])) == ("0.13.1", NUM_DAYS)
    ours = []
    for (score, truth), theirs in zip(scored_days(), record["days"], strict=True):
        found = _estimated(score)
        induced = score > THRESHOLD
        assert found.flagged == int(induced.sum())
        assert found.expected == pytest.approx(float(score[induced].mean()), abs=1e-6)
        assert found.expected == pytest.approx(theirs["precision"], abs=0.005)
        assert abs(found.expected - truth[induced].mean()) < 3 * theirs["sampling_error"]
        ours.append(found.expected)
    assert ours[0] > 0.92
    assert ours[-1] < 0.69, "days on which the model is less and less sure"
    assert ours == sorted(ours, reverse=True)
