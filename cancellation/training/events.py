"""Events made ready for training: drawn or read, encoded in parallel, kept as Arrow files that workers share.

They lie in a folder named by everything that they depend on, so that networks that learn from the same events share
them; a file that is there already is not made again, and a run broken off here goes on here.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from pydantic import Field
from tokenizers import Tokenizer

from cancellation.events.examples import Example, example_files, read_examples
from cancellation.events.labelled import LabelledEvent
from cancellation.events.markets import require_languages
from cancellation.model.spec import ModelSpec
from cancellation.simulation.simulator import SimulationSettings
from cancellation.text.encoding import EventEncoder
from cancellation.training.data import encode_examples, read_columns, write_encoded
from cancellation.training.labelled_source import simulated_examples
from cancellation.written.dialogue import Dialogue, written_dialogues
from cancellation.written.staging import stage
from cluster.places import InputUrl
from cluster.provenance import digest_of
from cluster.settings import Settings
from cluster.storage import exists, join_url, list_files

_EVENTS_PER_FILE = 4000
_PROBED = 8
_FOLDS = 1_000_003
_WRITTEN = "written"
_VALIDATION_STAGINGS = 3


class TrainingEventsSettings(Settings):
    """Which events to learn from, and which to stop by."""

    events: InputUrl | None = None
    """Labelled events: a .jsonl or .parquet file or a folder of them, local or s3://. None: simulated ones."""

    simulation: SimulationSettings = SimulationSettings(num_events=20_000)
    """What to draw where `events` is null."""

    stagings: int = Field(default=0, ge=0)
    """How often each written dialogue is shown beside the simulated events, in other circumstances each time."""

    held_out_writers: tuple[str, ...] = ()
    """Writers whose dialogues are not learned from; training stops by them, in place of simulated events."""

    unseen_writers: tuple[str, ...] = ()
    """Writers from whom nothing is learned and by whom nothing stops: they judge what came out."""

    left_out_languages: tuple[str, ...] = ()
    """Codes such as `th`: no dialogue in them is learned from or stopped by, to see what another language taught.
    Leave the markets where they are typed out of `simulation.markets` too."""

    num_validation: int = Field(default=2000, ge=1)
    """Simulated events kept apart to stop by."""

    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the sellers of `events` whose events are kept apart instead, chosen by a digest of the seller's id."""

    piece_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Chance that two word pieces stay apart in a training text (BPE dropout), so that a word never seen is made
    of pieces that were; byte-pair tokenisers only."""

    seed: int = Field(default=0, ge=0)


def encode_events(
    settings: TrainingEventsSettings, tokenizer: Tokenizer, spec: ModelSpec, folder: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Encode training and validation events into Arrow files below a folder; give their locations.

    Raises:
        ValueError: If events or labels are refused, an event has two labels, or there are too few sellers.
    """
    units = encoding_units(settings, tokenizer, spec, folder)
    urls = [unit[-1] for unit in units]
    validation = tuple(url for url in urls if "/validation-" in url)
    missing = [unit for unit in units if not exists(unit[-1])]
    if missing:
        import ray

        encode = ray.remote(encode_unit)
        try:
            ray.get([encode.remote(*unit) for unit in missing])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
    training = tuple(url for url in urls if url not in validation)
    if settings.events is not None:
        _check_labelled(settings.events, training, validation)
    return training, validation


def _check_labelled(source: str, training: Sequence[str], validation: Sequence[str]) -> None:
    """Refuse events with two labels, and too few sellers: nothing would stop a training, or nothing teach."""
    columns = ["market", "event_id", "label"]
    parts = [read_columns(urls, columns) for urls in (training, validation)]
    if not all(map(len, parts)):
        raise ValueError(
            f"{source}: events of sellers to learn from and of others to stop by are expected, found {len(parts[0]):,} "
            f"and {len(parts[1]):,} (validation_fraction); give events of more sellers"
        )
    labels: dict[tuple[str, str], int] = {}
    rows = zip(*(pa.concat_tables(parts)[name].to_pylist() for name in columns), strict=True)
    twice = [name for market, name, label in rows if labels.setdefault((market, name), label) != label]
    if twice:
        raise ValueError(
            f"{source}: {len(twice):,} events have two different labels, such as {twice[0]}; keep one of their rows"
        )


Unit = tuple[TrainingEventsSettings, str, ModelSpec, tuple[str, str | None, int, int], str]
"""What `encode_unit` takes: settings, tokeniser (JSON), description, (file name, source, first, end), location."""


def encoding_units(settings: TrainingEventsSettings, tokenizer: Tokenizer, spec: ModelSpec, folder: str) -> list[Unit]:
    """Cut the encoding into units that can be done apart, each one file; the folder's name is a digest of all of it."""
    place = join_url(folder, _digest(settings, tokenizer, spec))
    text = tokenizer.to_str()
    return [(settings, text, spec, unit, join_url(place, unit[0])) for unit in _units(settings)]


def _digest(settings: TrainingEventsSettings, tokenizer: Tokenizer, spec: ModelSpec) -> str:
    """Of what the encoded events depend on; a few of them stand for the code that makes them."""
    if settings.events is None:
        files = []
        probe = list(simulated_examples(settings.simulation, 2 * settings.seed, range(_PROBED)))
        if settings.stagings:
            probe += _staged(settings, True, range(1))
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
    if settings.stagings:
        for number in range(settings.stagings):
            yield f"training-written-{number:05d}.arrow", _WRITTEN, number, number + 1
        if settings.held_out_writers:
            yield "validation-written-00000.arrow", _WRITTEN, 0, _VALIDATION_STAGINGS
    counts = {"training": settings.simulation.num_events}
    if not (settings.stagings and settings.held_out_writers):
        counts["validation"] = settings.num_validation
    for name, count in counts.items():
        for number, start in enumerate(range(0, count, _EVENTS_PER_FILE)):
            yield f"{name}-{number:05d}.arrow", None, start, min(start + _EVENTS_PER_FILE, count)


def encode_unit(
    settings: TrainingEventsSettings,
    tokenizer_json: str,
    spec: ModelSpec,
    unit: tuple[str, str | None, int, int],
    target: str,
) -> None:
    """Encode one unit's events into its file."""
    name, source, start, end = unit
    training = name.startswith("training")
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if training and settings.piece_dropout and hasattr(tokenizer.model, "dropout"):
        tokenizer.model.dropout = settings.piece_dropout
    encoder = EventEncoder(tokenizer, max_tokens=spec.max_tokens, left_out=spec.left_out)
    examples: Iterator[Example]
    if source == _WRITTEN:
        examples = _staged(settings, training, range(start, end))
    elif source is not None:
        examples = (
            example
            for example in read_examples(source)
            if _kept_back(example.event.seller_id, settings.validation_fraction) != training
        )
    else:
        # A training event never has the seed of a validation event.
        seed = 2 * settings.seed + (0 if training else _FOLDS)
        examples = simulated_examples(settings.simulation, seed, range(start, end))
    write_encoded(target, encode_examples(examples, encoder))


def sample_examples(settings: TrainingEventsSettings, at_most: int) -> list[Example]:
    """Draw some of the examples that training learns from, always the same, of each source its share.

    A written dialogue is drawn in one of its stagings at most: the same words twice say nothing more.
    """
    if settings.events is not None:
        read = (example for url in example_files(settings.events) for example in read_examples(url))
        training = (one for one in read if not _kept_back(one.event.seller_id, settings.validation_fraction))
        return heapq.nsmallest(
            at_most, training, key=lambda one: zlib.crc32(one.event.event_id.encode("utf-8", "surrogatepass"))
        )
    simulated = settings.simulation.num_events
    dialogues = taught_dialogues(settings) if settings.stagings else []
    share = at_most / max(at_most, simulated + len(dialogues) * settings.stagings)
    indices = np.linspace(0, simulated, round(simulated * share), endpoint=False, dtype=int)
    found = list(simulated_examples(settings.simulation, 2 * settings.seed, indices.tolist()))
    chosen = heapq.nsmallest(
        round(len(dialogues) * settings.stagings * share),
        dialogues,
        key=lambda one: zlib.crc32(one.dialogue_id.encode()),
    )
    return found + [
        _example(stage(dialogue, number % settings.stagings, seed=2 * settings.seed))
        for number, dialogue in enumerate(chosen)
    ]


def taught_dialogues(settings: TrainingEventsSettings) -> list[Dialogue]:
    """Read the written dialogues of all writers and languages but those that are kept apart."""
    found = written_dialogues(without=(*settings.held_out_writers, *settings.unseen_writers))
    return _in_taught_languages(settings, found)


def _in_taught_languages(settings: TrainingEventsSettings, dialogues: list[Dialogue]) -> list[Dialogue]:
    require_languages(settings.left_out_languages, setting="left_out_languages")
    return [one for one in dialogues if one.language not in settings.left_out_languages]


def _staged(settings: TrainingEventsSettings, training: bool, numbers: range) -> Iterator[Example]:
    apart = settings.held_out_writers
    dialogues = (
        taught_dialogues(settings) if training else _in_taught_languages(settings, written_dialogues(only=apart))
    )
    if not dialogues:
        raise ValueError(f"held_out_writers {', '.join(apart)}: no dialogue is left on one side; name some writers")
    for number in numbers:
        for dialogue in dialogues:
            yield _example(stage(dialogue, number, seed=2 * settings.seed + (not training)))


def _example(drawn: LabelledEvent) -> Example:
    return Example(drawn.event, drawn.label, drawn.factors, drawn.message_acts)


def _kept_back(seller_id: str, fraction: float) -> bool:
    return zlib.crc32(seller_id.encode("utf-8", "surrogatepass")) / 2**32 < fraction
