"""The model as the endpoint runs it: loaded by digest, warmed up, asked in batches, one typed answer per event.

`LocalModel` runs in the process that asks; `RemoteModel` (remote_model.py) asks a replica that holds one. Both
answer `Reply` and never raise for what a model does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cancellation.events.event import Event, parse_event
from cancellation.events.fields import EventError
from cancellation.features.vector import FEATURES
from cancellation.model.spec import SPEC_FILE, ModelIdentity, load_spec
from cancellation.model.verdict_model import Scores, load_verdict_model
from cancellation.scoring.explanations import RecordedFeatures, explain_verdict
from cancellation.serving.inference.batcher import MicroBatcher
from cancellation.serving.inference.example_events import example_events
from cancellation.serving.inference.messages import DEAD, LATE, POISON, STALE, Reply, Scored, unpack_event
from cancellation.serving.observability.metrics import POISONED, Metrics
from cancellation.serving.settings import ModelSettings
from cancellation.text.encoding import EncodedEvent, EventEncoder
from cancellation.text.tokenizer import TOKENIZER_FILE, load_tokenizer
from cluster.models.files import fetch_model, keep_model, kept_model, resolve_model

if TYPE_CHECKING:
    from cancellation.model.verdict_model import VerdictModel

logger = logging.getLogger(__name__)

_EXPLAIN_SECONDS = 30.0
_EXPLAIN_AT_ONCE = 32
"""Variants of an event that wait for the model together: enough for its batches, with room left for other bulk work."""


class ModelClient(Protocol):
    """What the gateway asks a model for. Deadlines are instants of `time.monotonic`."""

    @property
    def version(self) -> str: ...

    @property
    def identity(self) -> ModelIdentity: ...

    def encode(self, event: Event) -> EncodedEvent: ...

    async def score(self, encoded: EncodedEvent, body: bytes, deadline: float, *, bulk: bool = False) -> Reply: ...

    async def explain(
        self, event: Mapping[str, Any], features: Sequence[float | None], verdict: Mapping[str, Any], deadline: float
    ) -> dict[str, Any] | None: ...

    def queue_age(self) -> float: ...

    def available(self) -> bool: ...

    async def close(self) -> None: ...


def model_folder(settings: ModelSettings) -> Path:
    """Bring a model's files to this machine.

    Those of a pinned folder are copied, and a replica that comes back later loads the copy: what lies in the folder may
    have been replaced meanwhile, and whoever did that did not ask for a rollout. A copy that is no longer what it was
    is fetched again.

    Raises:
        ValueError: If there are none, or other ones than when the application was built.
    """
    if settings.pin is not None and (kept := kept_model(settings.pin, cache_dir=settings.cache_dir)):
        return kept
    files = resolve_model(settings.source, registry_uri=settings.registry_uri)
    if settings.pin not in (None, files.digest):
        raise ValueError(
            f"model {settings.source}: expected content {settings.pin}, found {files.digest}; deploy it anew"
        )
    if settings.pin is None or files.lasting_name is not None:
        return fetch_model(files, cache_dir=settings.cache_dir)
    try:
        return keep_model(files, cache_dir=settings.cache_dir)
    except OSError as error:
        logger.warning("model.cache_dir %s: no copy of the model is kept (%s)", settings.cache_dir, error.strerror)
        return fetch_model(files, cache_dir=settings.cache_dir)


def pinned(settings: ModelSettings) -> ModelSettings:
    """Hold on to the content that the model's name stands for now: by its version, where the name is an alias that may
    move, so that replicas which come later find it; and by its digest, since a folder may be replaced."""
    files = resolve_model(settings.source, registry_uri=settings.registry_uri)
    return settings.model_copy(update={"source": files.lasting_name or settings.source, "pin": files.digest})


def load_event_encoder(folder: Path) -> tuple[EventEncoder, str]:
    """Load what makes a model's inputs, without its weights, and name it by a digest of its files."""
    spec = load_spec(folder)
    encoder = EventEncoder(load_tokenizer(folder), max_tokens=spec.max_tokens, left_out=spec.left_out)
    digest = hashlib.sha256()
    for name in (SPEC_FILE, TOKENIZER_FILE):
        digest.update((folder / name).read_bytes())
    return encoder, digest.hexdigest()[:16]


def load_model(settings: ModelSettings) -> VerdictModel:
    """Load a model and score a few events with it, so that the first caller does not pay for that.

    Raises:
        ValueError: If the files are incomplete, of another kind, or not those of the expected digest.
    """
    model = load_verdict_model(
        model_folder(settings), num_threads=settings.num_threads, device=settings.device, dtype=settings.dtype
    )
    check_digest(model.version, settings.digest, settings.source)
    encoded = [model.encoder.encode(parse_event(event)) for event in example_events()]
    for count in (1, len(encoded)):
        if not np.isfinite(model.score(encoded[:count]).logits).all():
            remedy = "export it anew" if settings.device == "cpu" else 'set model.dtype to "bfloat16"'
            raise ValueError(f"model {settings.source}: finite scores are expected, found none; {remedy}")
    return model


def check_digest(version: str, expected: str | None, source: str) -> None:
    """Refuse a model other than the expected one."""
    found = version.rpartition("@")[2]
    if expected is not None and found != expected:
        raise ValueError(f"model {source}: expected files of digest {expected}, found {found}; set model.digest anew")


class LocalModel:
    """A model in this process, behind a batcher. `encoder_version`: as `load_event_encoder` names the encoder."""

    def __init__(
        self, model: VerdictModel, settings: ModelSettings, metrics: Metrics, *, encoder_version: str = ""
    ) -> None:
        self._model = model
        self._encoder_version = encoder_version
        self._metrics = metrics
        self._batcher = MicroBatcher(model, settings, metrics)
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self._vocabulary = model.encoder.tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def version(self) -> str:
        """Name and digest."""
        return self._model.version

    @property
    def identity(self) -> ModelIdentity:
        """What a proof of its thresholds has to be of."""
        return self._model.identity

    @property
    def encoder(self) -> EventEncoder:
        """Makes the model's inputs."""
        return self._model.encoder

    def encode(self, event: Event) -> EncodedEvent:
        """Make the model's input of an event."""
        return self._model.encoder.encode(event)

    async def score(self, encoded: EncodedEvent, body: bytes, deadline: float, *, bulk: bool = False) -> Reply:
        """Score an encoded event within its deadline or not at all; `body` is for models elsewhere."""
        if not self._fits(encoded):
            self._metrics.count(POISONED)
            return POISON
        if self._batcher.hung:
            return DEAD
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._batcher.score(encoded, deadline, bulk=bulk)
        except TimeoutError:
            return LATE

    async def score_packed(self, data: bytes) -> Reply:
        """Score an event from another process, if it was encoded for this model."""
        encoded, head = unpack_event(data)
        if head["encoder"] != self._encoder_version:
            return STALE
        return await self.score(encoded, b"", time.monotonic() + head["left_ms"] / 1e3, bulk=head["bulk"])

    async def score_body(self, body: bytes, left_ms: float, *, bulk: bool) -> Reply:
        """Parse, encode and score an event that came as JSON: for callers with another encoder, or none."""
        deadline = time.monotonic() + left_ms / 1e3
        try:
            encoded = self.encode(parse_event(body))
        except EventError:
            return POISON
        return await self.score(encoded, body, deadline, bulk=bulk)

    async def explain(
        self, event: Mapping[str, Any], features: Sequence[float | None], verdict: Mapping[str, Any], deadline: float
    ) -> dict[str, Any] | None:
        """Give the verdict with evidence; None if that took too long or another model made it.

        The event may be a redacted one: what the features were is on record, and a placeholder stands where a
        phone number stood. The hundred variants go through the batcher as bulk work.
        """
        if verdict["model_version"] != self.version:
            return None
        loop = asyncio.get_running_loop()

        def score(variants: Sequence[EncodedEvent]) -> Scores:
            return asyncio.run_coroutine_threadsafe(self._score_variants(variants), loop).result()

        view = RecordedFeatures(self._model.encoder, self._model.temperature, features, score)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await loop.run_in_executor(
                    self._explainer, lambda: explain_verdict(parse_event(event), verdict, view)
                )
        except (TimeoutError, ValueError) as error:
            logger.info("no explanation of %s: %s", verdict["event_id"], type(error).__name__)
            return None

    async def _score_variants(self, events: Sequence[EncodedEvent]) -> Scores:
        deadline, room = time.monotonic() + _EXPLAIN_SECONDS, asyncio.Semaphore(_EXPLAIN_AT_ONCE)

        async def score(encoded: EncodedEvent) -> Reply:
            async with room:
                return await self.score(encoded, b"", deadline, bulk=True)

        scored = [reply for reply in await asyncio.gather(*map(score, events)) if isinstance(reply, Scored)]
        if len(scored) != len(events):
            raise ValueError("scores of all variants are expected, some are missing: the model is busy")
        return Scores(
            np.array([reply.logits for reply in scored], np.float32),
            np.array([reply.factors for reply in scored], np.float32),
        )

    def queue_age(self) -> float:
        """Seconds that the oldest event has waited; a hung model has no queue, it has no answers."""
        return 0.0 if self._batcher.hung else self._batcher.queue_age()

    def available(self) -> bool:
        """Whether asking makes sense."""
        return not self._batcher.hung

    def hung_seconds(self) -> float:
        """How long the call under way has taken; 0 if it is within its time."""
        return self._batcher.running_seconds if self._batcher.hung else 0.0

    async def close(self) -> None:
        """Stop."""
        await self._batcher.close()
        self._explainer.shutdown(wait=False, cancel_futures=True)

    def _fits(self, encoded: EncodedEvent) -> bool:
        """Whether the model can take the event at all: checked here, since in a batch it would harm others."""
        tokens = encoded.token_ids
        return (
            0 < len(tokens) <= self._model.spec.max_tokens
            and min(tokens) >= 0
            and max(tokens) < self._vocabulary
            and encoded.features.shape == (len(FEATURES),)
            and not bool(np.isinf(encoded.features).any())
        )


def pack_question(
    event: Mapping[str, Any], features: Sequence[float | None], verdict: Mapping[str, Any], left_ms: float
) -> bytes:
    """Write what an explanation needs, for a model replica."""
    question = {"event": event, "features": list(features), "verdict": verdict, "left_ms": left_ms}
    return json.dumps(question).encode()


async def answer_question(model: LocalModel, data: bytes) -> bytes:
    """Explain what `pack_question` wrote; `null` where that is not possible."""
    question = json.loads(data)
    deadline = time.monotonic() + question["left_ms"] / 1e3
    explained = await model.explain(question["event"], question["features"], question["verdict"], deadline)
    return json.dumps(explained).encode()
