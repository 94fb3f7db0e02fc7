"""Days of an endpoint that judges simulated events with the model that ships."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from cancellation.decision.policy import Policy, load_policy
from cancellation.decision.verdicts import model_verdict
from cancellation.events.event import Event
from cancellation.model.verdict_model import VerdictModel, load_verdict_model
from cancellation.simulation.simulator import SimulationSettings, Split, simulate
from cancellation.text.encoding import EncodedEvent
from tests.builders.monitored_days import decisions
from tests.conftest import PROJECT

MARKETS = ("BR", "ID", "TH")


def judged_day(
    day: date, num_events: int, *, split: Split = "train", change: Callable[[Event], Event] = lambda event: event
) -> pa.Table:
    """Simulate a day's events, no other day has the same, and let the model that ships judge them by its policy."""
    encoded, rows = _judged(split, num_events, day.toordinal(), change)
    table = decisions(day, num_events, markets=MARKETS, fallback=0.0)
    flat = pa.array(np.concatenate([event.features for event in encoded]).astype(np.float32), from_pandas=True)
    columns = {
        "features": pa.ListArray.from_arrays(np.arange(0, 68 * num_events + 1, 68, dtype=np.int32), flat),
        **{name: pa.array([row[name] for row in rows]) for name in ("market", "verdict", "score", "action")},
        "decision_factors": pa.array([row["decision_factors"] for row in rows]),
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values.cast(table.schema.field(place).type))
    return table


@cache
def _model() -> tuple[VerdictModel, Policy]:
    return load_verdict_model(PROJECT / "cancellation" / "small_model"), load_policy()


def _judged(
    split: Split, num_events: int, seed: int, change: Callable[[Event], Event]
) -> tuple[list[EncodedEvent], list[dict[str, Any]]]:
    model, policy = _model()
    settings = SimulationSettings(num_events=num_events, split=split, markets=MARKETS)
    encoded = [model.encoder.encode(change(one.event)) for one in simulate(settings, seed)]
    scores = model.score(encoded)
    return encoded, [
        model_verdict(event.event_id, event.market, logits, factors, policy=policy, model=model.identity)
        for event, logits, factors in zip(encoded, scores.logits, scores.factor_probabilities, strict=True)
    ]
