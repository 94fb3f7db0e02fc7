"""Events made ready for training: drawn or read, encoded in parallel, kept as Arrow files that workers share.

They lie in a folder named by everything that they depend on, so that networks that learn from the same events share
them; a file that is there already is not made again, and a run broken off here goes on here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice

from pydantic import Field
from tokenizers import Tokenizer

from cancellation.model.spec import ModelSpec
from cancellation.simulation.simulator import SimulationSettings
from cancellation.text.encoding import EventEncoder
from cancellation.training.data import encode_examples, write_encoded
from cancellation.training.labelled_source import Example, example_files, read_examples, simulated_examples
from cluster.provenance import digest_of
from cluster.settings import Settings
from cluster.storage import exists, join_url, list_files

_EVENTS_PER_FILE = 4000
_PROBED = 8
_FOLDS = 1_000_003


class TrainingEventsSettings(Settings):
    """Which events to learn from, and which to stop by."""

    events: str | None = None
    """Labelled events: a .jsonl or .parquet file or a folder of them, local or s3://. None: simulated ones."""

    simulation: SimulationSettings = SimulationSettings(num_events=20_000)
    """What to draw where `events` is null."""

    num_validation: int = Field(default=2000, ge=1)
    """Simulated events kept apart to stop by."""

    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of `events` kept apart instead, chosen by a digest of the event's id."""

    piece_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Chance that two word pieces stay apart in a training text (BPE dropout), so that a word never seen is made
    of pieces that were; byte-pair tokenisers only."""

    seed: int = Field(default=0, ge=0)


def encode_events(
    settings: TrainingEventsSettings, tokenizer: Tokenizer, spec: ModelSpec, folder: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Encode training and validation events into Arrow files below a folder; give their locations.

    Raises:
        ValueError: If events or labels are refused.
    """
    import ray

    units = list(_units(settings))
    place = join_url(folder, _digest(settings, tokenizer, spec))
    urls = [join_url(place, name) for name, *_ in units]
    encode = ray.remote(_encode_unit)
    pending = [
        encode.remote(settings, tokenizer.to_str(), spec, unit, url)
        for unit, url in zip(units, urls, strict=True)
        if not exists(url)
    ]
    try:
        ray.get(pending)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    validation = tuple(url for url in urls if "/validation-" in url)
    return tuple(url for url in urls if url not in validation), validation


def _digest(settings: TrainingEventsSettings, tokenizer: Tokenizer, spec: ModelSpec) -> str:
    """Of what the encoded events depend on; a few of them stand for the code that makes them."""
    if settings.events is None:
        files = []
        probe = simulated_examples(settings.simulation, 2 * settings.seed, range(_PROBED))
    else:
        names = example_files(settings.events)
        files = [[file.url, file.size_bytes, file.version] for name in names for file in list_files(name)]
        probe = islice(read_examples(names[0]), _PROBED)
    encoder = EventEncoder(tokenizer, max_tokens=spec.max_tokens, left_out=spec.left_out)
    encoded = repr(encode_examples(probe, encoder).to_pylist())
    return digest_of([settings.model_dump(mode="json"), files, tokenizer.to_str(), encoded])


def _units(settings: TrainingEventsSettings) -> Iterator[tuple[str, str | None, int, int]]:
    """(file name, source file, first index, end index), one for each file to write."""
    if settings.events is not None:
        for number, url in enumerate(example_files(settings.events)):
            yield f"training-{number:05d}.arrow", url, 0, 0
            yield f"validation-{number:05d}.arrow", url, 0, 0
        return
    for name, count in (("training", settings.simulation.num_events), ("validation", settings.num_validation)):
        for number, start in enumerate(range(0, count, _EVENTS_PER_FILE)):
            yield f"{name}-{number:05d}.arrow", None, start, min(start + _EVENTS_PER_FILE, count)


def _encode_unit(
    settings: TrainingEventsSettings,
    tokenizer_json: str,
    spec: ModelSpec,
    unit: tuple[str, str | None, int, int],
    target: str,
) -> None:
    name, source, start, end = unit
    training = name.startswith("training")
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if training and settings.piece_dropout and hasattr(tokenizer.model, "dropout"):
        tokenizer.model.dropout = settings.piece_dropout
    encoder = EventEncoder(tokenizer, max_tokens=spec.max_tokens, left_out=spec.left_out)
    if source is not None:
        examples: Iterator[Example] = (
            example
            for example in read_examples(source)
            if _kept_back(example.event.event_id, settings.validation_fraction) != training
        )
    else:
        # A training event never has the seed of a validation event.
        seed = 2 * settings.seed + (0 if training else _FOLDS)
        examples = simulated_examples(settings.simulation, seed, range(start, end))
    write_encoded(target, encode_examples(examples, encoder))


def _kept_back(event_id: str, fraction: float) -> bool:
    return zlib.crc32(event_id.encode("utf-8", "surrogatepass")) / 2**32 < fraction
