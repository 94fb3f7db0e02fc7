"""Train a verdict model by Ray Train, and write it twice: as it was trained, and as it will score.

OUTPUT/trained    weights in half precision, to go on from: a new market, a comparison; digests of what they learnt from
OUTPUT            the export that `load_verdict_model` loads; profile.json: what features and texts looked like
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from cancellation.events.examples import example_files, read_examples
from cancellation.events.markets import MARKETS
from cancellation.features.profile import fit_profile, save_profile
from cancellation.model.averaging import average_models, require_alike
from cancellation.model.exporting import export_model
from cancellation.model.fusion import FUSION_FILE, FusionModel, FusionSettings, load_fusion_model, save_fusion_model
from cancellation.model.learnt import read_learnt, write_learnt
from cancellation.model.spec import ModelSpec
from cancellation.model.text_encoder import (
    EncoderShape,
    adopt_vocabulary,
    keep_first_layers,
    load_encoder,
    new_encoder,
    prune_encoder,
    require_positions,
    start_embeddings,
)
from cancellation.model.verdict_model import TRAINED_FOLDER
from cancellation.text.timeline import timeline
from cancellation.text.tokenizer import load_tokenizer, train_tokenizer
from cancellation.training.data import EncodedSet, read_columns, read_encoded, read_features
from cancellation.training.events import TrainingEventsSettings, encode_events, taught_dialogues
from cancellation.training.labelled_source import simulated_examples
from cancellation.training.loop import BEST, SCORE, LoopSettings, TrainingTask, train_worker
from cancellation.training.text_profile import profile_texts
from cancellation.written.staging import stage
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.storage import absolute_url, exists, fetch_folder, join_url, list_files, write_bytes
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings, train

logger = logging.getLogger(__name__)

_ROOMS = ("events", "features", "text", "model", "simulation", "written", "training")
_CODE = ("cluster.training", *(f"cancellation.{room}" for room in _ROOMS))
"""What decides the weights, given the settings: a run that other code has begun is not gone on with."""

_TOKENIZER_EVENTS = 10_000
_CALIBRATION_BATCHES, _CALIBRATION_BATCH = 80, 16
_PROFILE_EVENTS = 200_000


class TrainingSettings(Settings):
    """What model, from what, on what."""

    name: str = "small"
    """What people call the model."""

    start: ModelName | None = None
    """A trained model (its `trained` folder) to go on from: its tokeniser, shapes and weights are kept, markets
    that it does not know are added."""

    encoder: ModelName | None = None
    """A text encoder: folder, s3:// URI, registry or hub id (mDeBERTa-v3, mmBERT, XLM-R …), what
    `jobs.cancellation_pretrain` wrote, or a trained model (its `trained` folder), whose text encoder is taken. None: a
    new one of `shape`, with a tokeniser trained on the events."""

    prune_to: int | None = Field(default=None, ge=1000)
    """Cut a pre-trained encoder's vocabulary to about so many pieces, those that the training texts and the markets'
    scripts need; null keeps it whole."""

    vocabulary_of: ModelName | None = None
    """A trained model (its `trained` folder) whose tokeniser a pre-trained encoder gets in place of `prune_to`, so that
    one can teach the other."""

    keep_layers: int | None = Field(default=None, ge=1)
    """Cut a pre-trained encoder to its first so many layers; null keeps all."""

    teacher: ModelName | None = None
    """A trained model (its `trained` folder): the new encoder of `shape` takes its tokeniser and, projected, its
    embeddings, and learns its scores beside the labels (`loop.teacher_share`)."""

    embeddings: ModelName | None = None
    """A pre-trained encoder (a name as `encoder` takes it) whose tokeniser, cut to `prune_to`, and whose embeddings,
    projected to its width, the new encoder of `shape` begins with."""

    shape: EncoderShape = EncoderShape()
    vocab_size: int = Field(default=16_384, ge=400)
    """Of a new tokeniser."""

    max_tokens: int = Field(default=128, ge=32, le=8192)
    """Tokens per event. One of 12 messages has 140 on average with the small tokeniser; 128 lose nothing measurable
    against 144 and cost a fifth less."""

    markets: tuple[str, ...] = tuple(MARKETS)
    """Markets that get an embedding."""

    fusion: FusionSettings = FusionSettings()
    events: TrainingEventsSettings = TrainingEventsSettings()
    loop: LoopSettings = LoopSettings()
    averaged_with: tuple[ModelName, ...] = ()
    """Trained models (`trained` folders) that went on from the same `start`: what is written is the mean of their
    weights and of those that this training found. No part of the training: a finished one is not done again."""

    export: bool = True
    """Write what serves on a CPU too; without, only `trained` is written."""

    int8: bool = False
    """Export with 8-bit matrix products. On the small encoder they gain a twentieth and move scores by up to 0.024."""

    export_tolerance: float = Field(default=0.007, gt=0, lt=1)
    """How far rounding may move a score of the validation events; layers that move it further stay unrounded. Below
    the 0.01 that is promised, as the worst of other events is a little worse."""

    @model_validator(mode="after")
    def _refuse_cuts_of_nothing(self) -> Self:
        """Refuse what only an encoder that is read can be: settings that would do nothing."""
        for name in ("prune_to", "vocabulary_of", "keep_layers"):
            unused = self.start is not None or (self.encoder or self.embeddings) is None
            if getattr(self, name) is not None and unused:
                raise ValueError(
                    f"{name} is of an encoder that is read: name one in encoder, without start, or drop it"
                )
        return self


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and how it got there."""

    folder: Path
    history: list[dict[str, float]]
    """Reports of the validations, in order."""


def train_model(
    settings: TrainingSettings, trainer: TrainerSettings, run: TrackedRun | None, *, output: Path, cache_dir: str
) -> TrainedModel:
    """Train and write a model; a run that was broken off goes on from its last checkpoint.

    Raises:
        ValueError: If events, labels, the encoder or the model to start from are refused.
        RuntimeError: If training failed.
    """
    models = _Models(cache_dir, run.address.uri if run else None)
    content = [
        settings.model_dump(mode="json", exclude={"averaged_with"}),
        contents_read(settings.model_copy(update={"averaged_with": ()}), models.registry_uri),
    ]
    name = f"cancellation-{digest_of(content)}"
    place = join_url(absolute_url(trainer.checkpoints), name)
    start = join_url(place, "start")
    begun = exists(join_url(start, "model.json"))
    if begun:  # by a run that was broken off: a tokeniser trained anew might not be the same
        model, tokenizer = load_fusion_model(Path(fetch_folder(start, cache_dir)))
    else:
        model, tokenizer = _starting_model(settings, models)
    others = [models.load(name) for name in settings.averaged_with]
    for name, other in zip(settings.averaged_with, others, strict=True):
        require_alike((model, tokenizer), other, what=f"training.averaged_with={name}")
    encoded = join_url(absolute_url(trainer.checkpoints), "cancellation-events")
    training, validation = encode_events(settings.events, tokenizer, model.spec, encoded)
    if not begun:
        if settings.start is None and settings.fusion.variant != "text":
            model.feature_layer.fit(read_encoded(training, model.spec, tokenizer).features)
        _upload_model(model, tokenizer, start)
    teacher = str(models.fetch(settings.teacher)) if settings.teacher else None
    task = TrainingTask(start, training, validation, settings.loop, cache_dir, teacher)
    outcome = train(
        train_worker, {"task": task}, trainer, name=f"{name}-run", score=SCORE, curves=run.address if run else None
    )
    with tempfile.TemporaryDirectory() as folder:
        best, tokenizer = load_fusion_model(outcome.fetch_checkpoint(Path(folder)) / BEST)
    if others:
        best = average_models([best, *(other for other, _ in others)])
    _write(best, tokenizer, settings, training, validation, output)
    taught_before = (settings.start, settings.encoder, settings.teacher, *settings.averaged_with)
    learnt = [read_learnt(models.fetch(name)) for name in taught_before if name is not None]
    contents = read_columns((*training, *validation), ["content"])["content"].to_numpy()
    write_learnt(output / TRAINED_FOLDER, np.concatenate([contents, *(one for one in learnt if one is not None)]))
    return TrainedModel(output, outcome.returned["history"])


def _write(
    best: FusionModel,
    tokenizer: Tokenizer,
    settings: TrainingSettings,
    training: Sequence[str],
    validation: Sequence[str],
    output: Path,
) -> None:
    """Write a model as it was trained and, unless it is to teach alone, as it will score."""
    save_fusion_model(best, tokenizer, output / TRAINED_FOLDER, half=True)
    save_profile(fit_profile(read_features(training, at_most=_PROFILE_EVENTS)), output)
    if not settings.export:
        return
    kept_back = read_encoded(validation, best.spec, tokenizer)
    export_model(
        best,
        tokenizer,
        calibration_batches(kept_back),
        output,
        int8=settings.int8,
        judged=all_batches(kept_back),
        tolerance=settings.export_tolerance,
    )
    profile_texts(settings.events, output)


def contents_read(settings: TrainingSettings, registry_uri: str | None) -> list[Any]:
    """Name by its content what a run reads, and what is done with it: other events, another teacher in the same place
    or other code begin another run.

    `registry_uri` as in `tracking.tracking_uri`.
    """
    named = (settings.start, settings.encoder, settings.teacher, settings.embeddings, settings.vocabulary_of)
    named += settings.averaged_with
    events = example_files(settings.events.events) if settings.events.events is not None else []
    files = [[file.url, file.size_bytes, file.version] for url in events for file in list_files(url)]
    return [
        files,
        [name and resolve_model(name, registry_uri=registry_uri).digest for name in named],
        code_digest(*_CODE),
    ]


def calibration_batches(data: EncodedSet, *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cut batches of events on which an export measures its scales."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(_CALIBRATION_BATCHES):
        batch = data.batch(rng.permutation(len(data))[:_CALIBRATION_BATCH])
        batches.append((batch.token_ids, batch.features, batch.markets))
    return batches


def all_batches(data: EncodedSet) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cut a set into batches of about one length."""
    order = np.argsort(data.lengths, kind="stable")
    batches = [data.batch(order[i : i + _CALIBRATION_BATCH]) for i in range(0, len(order), _CALIBRATION_BATCH)]
    return [(batch.token_ids, batch.features, batch.markets) for batch in batches]


@dataclass(frozen=True)
class _Models:
    """Finds the models that the settings name."""

    cache_dir: str
    registry_uri: str | None

    def fetch(self, name: str) -> Path:
        folder = fetch_model(resolve_model(name, registry_uri=self.registry_uri), cache_dir=self.cache_dir)
        if (folder / TRAINED_FOLDER / FUSION_FILE).is_file():
            raise ValueError(f"model {name}: exported, and its weights are asked for: name its folder {TRAINED_FOLDER}")
        return folder

    def load(self, name: str) -> tuple[FusionModel, Tokenizer]:
        return load_fusion_model(self.fetch(name))


def _starting_model(settings: TrainingSettings, models: _Models) -> tuple[FusionModel, Tokenizer]:
    if settings.start is not None:
        model, tokenizer = models.load(settings.start)
        return with_markets(model, settings.markets), tokenizer
    torch.manual_seed(settings.loop.seed)
    encoder, tokenizer = _text_encoder(settings, models)
    spec = ModelSpec(
        name=settings.name,
        variant=settings.fusion.variant,
        encoder=settings.encoder or settings.shape.kind,
        max_tokens=settings.max_tokens,
        markets=settings.markets,
    )
    return FusionModel(settings.fusion, spec, encoder), tokenizer


def _text_encoder(settings: TrainingSettings, models: _Models) -> tuple[PreTrainedModel | None, Tokenizer]:
    encoder: PreTrainedModel | None
    if settings.encoder is not None:
        encoder, tokenizer = _pretrained(settings, settings.encoder, models)
    elif settings.embeddings is not None:
        wide, tokenizer = _pretrained(settings, settings.embeddings, models)
        encoder = new_encoder(settings.shape, tokenizer, max_tokens=settings.max_tokens)
        start_embeddings(encoder, wide)
    elif settings.teacher is not None:
        teacher, tokenizer = models.load(settings.teacher)
        encoder = new_encoder(settings.shape, tokenizer, max_tokens=settings.max_tokens)
        if teacher.text_encoder is not None:
            start_embeddings(encoder, teacher.text_encoder)
    else:
        tokenizer = train_tokenizer(tokenizer_texts(settings), vocab_size=settings.vocab_size)
        encoder = new_encoder(settings.shape, tokenizer, max_tokens=settings.max_tokens)
    if encoder is not None:
        require_positions(encoder, settings.max_tokens, setting="training.max_tokens")
    return (None if settings.fusion.variant == "features" else encoder), tokenizer


def _pretrained(settings: TrainingSettings, name: str, models: _Models) -> tuple[PreTrainedModel, Tokenizer]:
    folder = models.fetch(name)
    if (folder / FUSION_FILE).is_file():
        whole, tokenizer = load_fusion_model(folder)
        if whole.text_encoder is None:
            raise ValueError(f"model {name}: expected one that reads text, found features alone; name another encoder")
        encoder = whole.text_encoder
    else:
        encoder, tokenizer = load_encoder(name, cache_dir=models.cache_dir, registry_uri=models.registry_uri)
    if settings.keep_layers:
        keep_first_layers(encoder, settings.keep_layers)
    if settings.vocabulary_of:
        wanted = load_tokenizer(models.fetch(settings.vocabulary_of))
        encoder, tokenizer = adopt_vocabulary(encoder, tokenizer, wanted), wanted
    elif settings.prune_to:
        texts = tokenizer_texts(settings)
        encoder, tokenizer = prune_encoder(encoder, tokenizer, texts, size=settings.prune_to)
    return encoder, tokenizer


def tokenizer_texts(settings: TrainingSettings) -> list[str]:
    """Collect texts that a tokeniser is made, or cut, for."""
    events = settings.events
    if events.events is None:
        indices = range(min(_TOKENIZER_EVENTS, events.simulation.num_events))
        found = [example.event for example in simulated_examples(events.simulation, 2 * events.seed, indices)]
        if events.stagings:
            found += [stage(dialogue, 0).event for dialogue in taught_dialogues(events)]
    else:
        found = [example.event for url in example_files(events.events) for example in read_examples(url)]
    return [segment.text for event in found for segment in timeline(event).segments]


def with_markets(model: FusionModel, markets: Sequence[str]) -> FusionModel:
    """Give a model rows for more markets; each begins as the learned default, the others stay as they are."""
    added = tuple(market for market in markets if market not in model.spec.markets)
    if not added or not model.settings.market_embedding:
        return model
    spec = model.spec.model_copy(update={"markets": model.spec.markets + added})
    wider = FusionModel(model.settings, spec, model.text_encoder)
    state = model.state_dict()
    rows = state["market.weight"]
    state["market.weight"] = torch.cat([rows, rows[:1].expand(len(added), -1)])
    wider.load_state_dict(state)
    return wider


def _upload_model(model: FusionModel, tokenizer: Tokenizer, url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_fusion_model(model, tokenizer, Path(folder))
        # The description last: a folder that has it is whole.
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == "model.json"):
            write_bytes(join_url(url, path.name), path.read_bytes())
