"""Continue a text encoder's training on unlabelled chats, or begin it: texts streamed by Ray Data into Ray Train."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer

from cancellation.model.text_encoder import EncoderShape, load_encoder, new_encoder
from cancellation.simulation.simulator import SimulationSettings, simulate_event
from cancellation.text.encoding import EventEncoder
from cancellation.text.timeline import SPECIAL_TOKENS, Timeline, timeline
from cancellation.text.tokenizer import (
    FRAME_TOKENS,
    MASK_TOKENS,
    PAD_TOKENS,
    TOKENIZER_FILE,
    token_of,
    train_tokenizer,
)
from cancellation.training.pretraining_loop import ENCODER, TEXTS, MaskingSettings, PretrainingTask, pretrain_worker
from cancellation.training.unlabelled_chats import chat_files, read_chats
from cluster.models.files import ModelName
from cluster.places import InputUrl
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.storage import absolute_url, join_url, list_files, write_bytes
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings, train

_CODE = ("cluster.training", "cancellation.text", "cancellation.model", "cancellation.training")
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

    shape: EncoderShape = EncoderShape()
    vocab_size: int = Field(default=16_384, ge=400)
    tokenizer_events: int = Field(default=20_000, ge=1)
    """Simulated events that a new tokeniser is trained on, beside all chats."""

    max_tokens: int = Field(default=128, ge=32, le=8192)
    piece_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Chance that two word pieces stay apart (BPE dropout)."""

    masking: MaskingSettings = MaskingSettings()
    seed: int = Field(default=0, ge=0)


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
    name = f"cancellation-chats-{digest_of([settings.model_dump(mode='json'), code_digest(*_CODE)])}"
    start = join_url(absolute_url(trainer.checkpoints), name, "start")
    if settings.encoder is not None:
        encoder, tokenizer = load_encoder(settings.encoder, cache_dir=cache_dir)
    else:
        tokenizer = train_tokenizer(_tokenizer_texts(settings), vocab_size=settings.vocab_size)
        encoder = new_encoder(settings.shape, tokenizer, max_tokens=settings.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        for path in Path(folder).iterdir():
            write_bytes(join_url(start, path.name), path.read_bytes())
    structure = [tokenizer.token_to_id(token) or 0 for token in (*FRAME_TOKENS, *SPECIAL_TOKENS)]
    task = PretrainingTask(
        start=start,
        settings=settings.masking,
        pad_id=token_of(tokenizer, PAD_TOKENS),
        mask_id=token_of(tokenizer, MASK_TOKENS),
        # In a tokeniser of ours structure comes first; in another the few frame tokens do.
        first_id=max(structure) + 1 if max(structure) < len(structure) else 5,
        vocab_size=tokenizer.get_vocab_size(with_added_tokens=True),
        cache_dir=cache_dir,
    )
    dataset = token_stream(settings, tokenizer)
    outcome = train(pretrain_worker, {"task": task}, trainer, name=name, curves=run.address, datasets={TEXTS: dataset})
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(outcome.fetch_checkpoint(Path(folder)) / ENCODER, output, dirs_exist_ok=True)
    tokenizer.save(str(output / TOKENIZER_FILE))
    return outcome.returned["masked_loss"]


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
    urls = [url for place in settings.chats for url in chat_files(absolute_url(place))]
    files = [file for url in urls for file in list_files(url)]
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
