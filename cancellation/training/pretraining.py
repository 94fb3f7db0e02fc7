"""Continue a text encoder's training on unlabelled chats, or begin it: texts streamed by Ray Data into Ray Train."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator
from tokenizers import Tokenizer

from cancellation.model.text_encoder import (
    EncoderShape,
    keep_first_layers,
    load_encoder,
    new_encoder,
    prune_encoder,
    require_positions,
)
from cancellation.simulation.simulator import SimulationSettings, simulate_event
from cancellation.text.encoding import EventEncoder
from cancellation.text.timeline import Timeline, timeline
from cancellation.text.tokenizer import (
    MASK_TOKENS,
    PAD_TOKENS,
    TOKENIZER_FILE,
    load_tokenizer,
    token_of,
    train_tokenizer,
)
from cancellation.training.pretraining_loop import ENCODER, TEXTS, MaskingSettings, PretrainingTask, pretrain_worker
from cancellation.training.unlabelled_chats import chat_files, read_chats
from cluster.models.files import ModelName, resolve_model
from cluster.places import InputUrl
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.storage import StoredFile, absolute_url, exists, fetch_folder, join_url, list_files, write_bytes
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings, train

_ROOMS = ("events", "text", "model", "simulation", "training")
_CODE = ("cluster.training", *(f"cancellation.{room}" for room in _ROOMS))
"""What decides the weights, given the settings: a run that other code has begun is not gone on with."""

if TYPE_CHECKING:
    import ray.data

_SEQUENCES_PER_UNIT = 500
_BYTES_PER_PART, _MAX_PARTS = 200_000, 20


class PretrainingSettings(Settings):
    """Which texts, what encoder."""

    chats: tuple[InputUrl, ...] = ()
    """Files or folders of unlabelled chats, local or s3:// (`unlabelled_chats` says in which forms)."""

    simulation: SimulationSettings = SimulationSettings(num_events=20_000)
    """Events whose texts are learnt from too; `num_simulated` says how many."""

    num_simulated: int = Field(default=20_000, ge=0)

    encoder: ModelName | None = None
    """An encoder to continue: folder, s3:// URI, registry or hub id. None: a new one of `shape`, with a tokeniser
    of its own."""

    keep_layers: int | None = Field(default=None, ge=1)
    """Continue the first so many layers of `encoder` alone, those that a training of the same `keep_layers` takes; null
    keeps all."""

    prune_to: int | None = Field(default=None, ge=1000)
    """Cut the vocabulary of `encoder` to about so many pieces, those that chats and simulated events use: scores over
    all of a multilingual one cost most of a step. A training after it takes the encoder with `prune_to=null`."""

    shape: EncoderShape = EncoderShape()
    vocab_size: int = Field(default=16_384, ge=400)
    tokenizer_events: int = Field(default=20_000, ge=1)
    """Simulated events that a new tokeniser is trained on, beside all chats."""

    max_tokens: int = Field(default=128, ge=32, le=8192)
    piece_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Chance that two word pieces stay apart (BPE dropout)."""

    masking: MaskingSettings = MaskingSettings()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _refuse_cuts_of_nothing(self) -> Self:
        for name in ("prune_to", "keep_layers"):
            if getattr(self, name) is not None and self.encoder is None:
                raise ValueError(f"{name} is of an encoder that is read: name one in encoder, or drop it")
        return self


@dataclass(frozen=True)
class _Unit:
    """A part of a file, or some simulated events."""

    url: str | None
    start: int
    end: int


def pretrain_encoder(
    settings: PretrainingSettings, trainer: TrainerSettings, run: TrackedRun, *, output: Path, cache_dir: str
) -> float:
    """Train an encoder and write it with its tokeniser to `output`; gives the last masked loss, in nats per token.

    A run that was broken off goes on from its last checkpoint.

    Raises:
        ValueError: If there are no chats, or a line is refused.
        RuntimeError: If training failed.
    """
    content = [settings.model_dump(mode="json"), _contents_read(settings, run.address.uri), code_digest(*_CODE)]
    name = f"cancellation-chats-{digest_of(content)}"
    start = join_url(absolute_url(trainer.checkpoints), name, "start")
    if not exists(join_url(start, TOKENIZER_FILE)):
        _write_start(settings, start, cache_dir=cache_dir, registry_uri=run.address.uri)
    # Read back by the first run too: of the same texts another run would train another tokeniser, of equal pieces.
    tokenizer = load_tokenizer(Path(fetch_folder(start, cache_dir)))
    task = PretrainingTask(
        start=start,
        settings=settings.masking,
        pad_id=token_of(tokenizer, PAD_TOKENS),
        mask_id=token_of(tokenizer, MASK_TOKENS),
        structure=tuple(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special),
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        cache_dir=cache_dir,
    )
    dataset = token_stream(settings, tokenizer)
    outcome = train(pretrain_worker, {"task": task}, trainer, name=name, curves=run.address, datasets={TEXTS: dataset})
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(outcome.fetch_checkpoint(Path(folder)) / ENCODER, output, dirs_exist_ok=True)
    tokenizer.save(str(output / TOKENIZER_FILE))
    return outcome.returned["masked_loss"]


def _write_start(settings: PretrainingSettings, url: str, *, cache_dir: str, registry_uri: str | None) -> None:
    """Write the encoder to begin with and its tokeniser, that one last: a folder that has it is whole."""
    if settings.encoder is not None:
        encoder, tokenizer = load_encoder(settings.encoder, cache_dir=cache_dir, registry_uri=registry_uri)
        if settings.keep_layers:
            keep_first_layers(encoder, settings.keep_layers)
        if settings.prune_to:
            encoder, tokenizer = prune_encoder(encoder, tokenizer, _tokenizer_texts(settings), size=settings.prune_to)
        require_positions(encoder, settings.max_tokens, setting="pretraining.max_tokens")
    else:
        tokenizer = train_tokenizer(_tokenizer_texts(settings), vocab_size=settings.vocab_size)
        encoder = new_encoder(settings.shape, tokenizer, max_tokens=settings.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        for path in Path(folder).iterdir():
            write_bytes(join_url(url, path.name), path.read_bytes())
    write_bytes(join_url(url, TOKENIZER_FILE), tokenizer.to_str(pretty=True).encode())


def _contents_read(settings: PretrainingSettings, registry_uri: str | None) -> list[Any]:
    """Name chats and encoder by their contents: others in the same place begin another run."""
    files = [[file.url, file.size_bytes, file.version] for file in _chat_files(settings)]
    return [files, settings.encoder and resolve_model(settings.encoder, registry_uri=registry_uri).digest]


def _chat_files(settings: PretrainingSettings) -> list[StoredFile]:
    urls = [url for place in settings.chats for url in chat_files(absolute_url(place))]
    return [file for url in urls for file in list_files(url)]


def token_stream(settings: PretrainingSettings, tokenizer: Tokenizer) -> ray.data.Dataset:
    """Make a dataset of `token_ids`, tokenised as it is read, in one random order of its parts."""
    import ray.data

    units = _units(settings)
    random.Random(settings.seed).shuffle(units)
    rows = [{"url": unit.url or "", "start": unit.start, "end": unit.end} for unit in units]
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Tokenize(settings, tokenizer.to_str()), batch_size=1, batch_format="numpy"
    )


class _Tokenize:
    """Turns units into sequences; called in Ray Data's tasks."""

    def __init__(self, settings: PretrainingSettings, tokenizer_json: str) -> None:
        self._settings = settings
        self._tokenizer_json = tokenizer_json

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        settings = self._settings
        tokenizer = Tokenizer.from_str(self._tokenizer_json)
        if settings.piece_dropout and hasattr(tokenizer.model, "dropout"):
            tokenizer.model.dropout = settings.piece_dropout
        encoder = EventEncoder(tokenizer, max_tokens=settings.max_tokens)
        for url, start, end in zip(batch["url"], batch["start"], batch["end"], strict=True):
            chats = list(_unit_chats(settings, _Unit(str(url) or None, int(start), int(end))))
            sequences = np.empty(len(chats), dtype=object)
            sequences[:] = [np.array(encoder.fit(chat)[0], np.int32) for chat in chats]
            yield {"token_ids": sequences}


def _units(settings: PretrainingSettings) -> list[_Unit]:
    files = _chat_files(settings)
    counts = [min(1 + file.size_bytes // _BYTES_PER_PART, _MAX_PARTS) for file in files]
    parts = [_Unit(file.url, part, count) for file, count in zip(files, counts, strict=True) for part in range(count)]
    count = settings.num_simulated
    step = _SEQUENCES_PER_UNIT
    return parts + [_Unit(None, start, min(start + step, count)) for start in range(0, count, step)]


def _unit_chats(settings: PretrainingSettings, unit: _Unit) -> Iterator[Timeline]:
    if unit.url is not None:
        yield from read_chats(unit.url, part=unit.start, num_parts=unit.end)
        return
    for index in range(unit.start, unit.end):
        yield timeline(simulate_event(settings.simulation, settings.seed, index).event)


def _tokenizer_texts(settings: PretrainingSettings) -> Iterator[str]:
    for place in settings.chats:
        for url in chat_files(absolute_url(place)):
            yield from (segment.text for chat in read_chats(url) for segment in chat.segments)
    for index in range(settings.tokenizer_events):
        told = timeline(simulate_event(settings.simulation, settings.seed, index).event)
        yield from (segment.text for segment in told.segments)
