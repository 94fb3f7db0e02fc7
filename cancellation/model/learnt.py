"""Which events a model has learnt from: digests of what they say, beside its trained weights.

A proof on events that taught the weights, or chose among them, shows memory. Digests tell such events under whatever
id, in whatever file, and tell nobody what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cancellation.events.event import Event
from cancellation.events.files import find_event_shards, read_event_rows
from cancellation.events.identity import content_number
from cancellation.model.verdict_model import TRAINED_FOLDER

LEARNT_FILE = "learnt_events.npy"
_SHARD_BYTES = 2**24


def write_learnt(folder: Path, numbers: np.ndarray) -> None:
    """Write what `content_number` gives for each event, sorted, each once."""
    np.save(folder / LEARNT_FILE, np.unique(numbers.astype(np.uint64)))


def read_learnt(folder: Path) -> np.ndarray | None:
    """Read them from a `trained` folder; None where it does not say, as of a model of before."""
    path = folder / LEARNT_FILE
    return np.load(path) if path.is_file() else None


def learnt_by(model_folder: Path) -> np.ndarray | None:
    """Read them of an exported model."""
    return read_learnt(model_folder / TRAINED_FOLDER)


def are_learnt(events: Sequence[Event], learnt: np.ndarray | None) -> np.ndarray:
    """Tell which events a model has learnt from, bool (n,); none where it is not known."""
    if learnt is None:
        return np.zeros(len(events), bool)
    return np.isin(np.array([content_number(event) for event in events], np.uint64), learnt)


def refuse_learnt(url: str, model_folder: Path) -> None:
    """Refuse events of which some taught the model, or chose among its weights.

    Raises:
        ValueError: Naming the place of the first, and how many there are.
    """
    learnt = learnt_by(model_folder)
    if learnt is None:
        return
    found: list[str] = []
    read = 0
    for shard in find_event_shards(url, shard_bytes=_SHARD_BYTES):
        rows = [(row.place, row.event) for row in read_event_rows(shard) if row.event is not None]
        known = are_learnt([event for _, event in rows], learnt)
        found += [place for (place, _), one in zip(rows, known, strict=True) if one]
        read += len(rows)
    if found:
        raise ValueError(
            f"{url}: {len(found):,} of {read:,} events taught the model, or chose among its weights, the first at "
            f"{found[0]}; they prove nothing of it: calibrate on others"
        )


def refuse_taught(name: str, events: Sequence[Event], learnt: np.ndarray | None, *, model: str) -> None:
    """Refuse to judge a model by events that it learnt from.

    Raises:
        ValueError: Naming the set and how many there are.
    """
    if known := int(are_learnt(events, learnt).sum()):
        raise ValueError(
            f"{name}: {known:,} of {len(events):,} events taught the model {model}, or chose among its weights; they "
            "show memory: judge by others"
        )
