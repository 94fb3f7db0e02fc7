"""Labelled events that judge every row alike: each of them once, and none that taught a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cancellation.events.examples import Example, example_files, read_examples, refuse_twice
from cancellation.events.identity import content_number
from cancellation.model.learnt import read_learnt
from cancellation.training.events import TrainingEventsSettings
from cancellation.training.labelled_source import simulated_examples
from cancellation.training.run import TrainingSettings
from cluster.models.files import fetch_model, resolve_model
from cluster.storage import exists, list_files


def read_set(name: str, place: str) -> list[Example]:
    """Read the events of a file or folder.

    Raises:
        ValueError: If there is no such file, nothing in it, or an event twice.
    """
    if not exists(place):
        raise ValueError(f"comparison.sets.{name}: no file {place}; name one, or leave the set out")
    found = [example for url in example_files(place) for example in read_examples(url)]
    if not found:
        raise ValueError(f"comparison.sets.{name}: no labelled event in {place}")
    refuse_twice(found, f"comparison.sets.{name}")
    return found


def taught_by(settings: TrainingSettings, *, cache_dir: str, registry_uri: str | None) -> np.ndarray:
    """Number the labelled events that teach a training, or taught models that it starts from or is averaged with, (n,).

    Those that it simulates are not among them: seeds from 9000 on are no training's.
    """
    named = (settings.start, settings.encoder, settings.teacher, *settings.averaged_with)
    models = [resolve_model(name, registry_uri=registry_uri) for name in named if name is not None]
    before = [read_learnt(fetch_model(model, cache_dir=cache_dir)) for model in models]
    examples = training_examples(settings.events) if settings.events.events is not None else ()
    read = [content_number(example.event) for example in examples]
    return np.concatenate([np.array(read, np.uint64), *(one for one in before if one is not None)])


def training_examples(settings: TrainingEventsSettings) -> Iterator[Example]:
    """The events that the networks learn from, for the trees."""
    if settings.events is None:
        yield from simulated_examples(settings.simulation, 2 * settings.seed, range(settings.simulation.num_events))
        return
    for url in example_files(settings.events):
        yield from read_examples(url)


def versions(place: str) -> list[list[Any]]:
    """Name a place's files by their contents."""
    return [[file.url, file.size_bytes, file.version] for url in example_files(place) for file in list_files(url)]
