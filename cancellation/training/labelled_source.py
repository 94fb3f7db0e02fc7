"""Labelled events to learn from, simulated by index; those in files are read by `events/examples.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cancellation.events.examples import Example
from cancellation.simulation.simulator import SimulationSettings, simulate_event


def simulated_examples(settings: SimulationSettings, seed: int, indices: Sequence[int]) -> Iterator[Example]:
    """Draw the events of some indices, with the labels as annotated."""
    for index in indices:
        drawn = simulate_event(settings, seed, index)
        yield Example(drawn.event, drawn.label, drawn.factors, drawn.message_acts)
