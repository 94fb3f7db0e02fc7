"""Labelled events nearest to a case: of its market first, balanced between labels, never the case or its double.

Search is exact, by one matrix product: of 100,000 examples that takes a few milliseconds beside a model's answer of
hundreds, so no index of approximate neighbours earns its place, and the same case always finds the same examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from cancellation.events.event import Event
from cancellation.events.examples import Example, example_files, read_examples
from cancellation.text.timeline import BUYER, REASON, SELLER, timeline
from cluster.models.files import fetch_model, resolve_model
from cluster.places import InputUrl
from cluster.provenance import digest_of
from cluster.settings import Settings

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to unit vectors, float32 (n, d)."""
_SHINGLE = 5
_DOUBLE = 0.8
"""Share of pieces of five characters from which two events are doubles: of those that their texts have together, or of
the shorter chat's that the longer one has too."""
_TELLING = 60
"""Pieces, about fifteen words, from which on a chat is nobody else's: shorter ones stand in many by chance."""
_MAX_TOKENS = 256


class RetrievalSettings(Settings):
    """Which labelled events a model is shown before a case."""

    examples: InputUrl | None = None
    """Labelled events: a .jsonl or .parquet file or a folder of them, local or s3://; null: none are shown."""

    num_examples: int = Field(default=10, ge=1, le=40)
    """How many of them."""

    chosen_for: Literal["case", "market"] = "case"
    """`case`: the nearest to each case, so that every prompt goes its own way behind the policy. `market`: the most
    typical ones of the case's market, so that all its prompts begin alike and a prefix cache holds the examples too."""

    encoder: str = "var/pretrained/multilingual-e5-small"
    """Text encoder of sentence vectors (mean over tokens): folder, s3:// folder or hub repository."""

    prefix: str = "query: "
    """What the encoder wants before a text; e5 was trained with this."""


class ExampleIndex:
    """Labelled events by the meaning of what was said in them."""

    def __init__(self, examples: Sequence[Example], embed: Embed) -> None:
        if not examples:
            raise ValueError("retrieval.examples: expected labelled events, found none; label some, or set it to null")
        self._examples, self._embed = list(examples), embed
        texts = [spoken_text(example.event) for example in examples]
        self._vectors = embed(texts)
        self._said = [_Said.of(example.event) for example in examples]
        self._markets = np.array([example.event.market for example in examples])
        self._ids = np.array([example.event.event_id for example in examples])
        self._centres: dict[str, np.ndarray] = {}

    def nearest(self, event: Event, count: int) -> list[Example]:
        """Find examples for a case, the nearest last; fewer where doubles leave no more.

        Labels take turns, so that none is missing that the examples have; of one label the case's own market comes
        first, then the nearest. Equally near ones come in the order of their ids.
        """
        return self._choose(event, self._embed([spoken_text(event)])[0], count)

    def typical(self, event: Event, count: int) -> list[Example]:
        """Find the same examples for every case of a market: the nearest to what its examples are in the mean.

        In the order of `nearest`. Only a case that has a double among them sees another one in its place.
        """
        if event.market not in self._centres:
            own = self._vectors[self._markets == event.market]
            self._centres[event.market] = (own if len(own) else self._vectors).mean(axis=0)
        return self._choose(event, self._centres[event.market], count)

    def _choose(self, event: Event, vector: np.ndarray, count: int) -> list[Example]:
        likeness, said = self._vectors @ vector, _Said.of(event)
        order = np.lexsort((self._ids, -likeness, self._markets != event.market))
        queues: dict[str, list[int]] = {}
        for place in order.tolist():
            queues.setdefault(self._examples[place].label, []).append(place)
        chosen: list[int] = []
        labels = sorted(queues)
        while len(chosen) < count and any(queues.values()):
            for label in labels:
                if len(chosen) < count and (found := self._next(queues[label], event, said)) is not None:
                    chosen.append(found)
        chosen.sort(key=lambda place: (float(likeness[place]), self._ids[place]))
        return [self._examples[place] for place in chosen]

    def _next(self, queue: list[int], event: Event, said: _Said) -> int | None:
        """Take the first of a queue that is not the case's double."""
        while queue:
            place = queue.pop(0)
            other = self._examples[place].event
            if not _same_case(other, event) and not said.doubles(self._said[place]):
                return place
        return None


_SPEAKERS = {BUYER: "buyer", SELLER: "seller"}


def spoken_text(event: Event) -> str:
    """Write what people said and gave as reason, speakers named; what was measured goes by the market."""
    return _lines(event, {**_SPEAKERS, REASON: "reason"})


def _lines(event: Event, kinds: Mapping[str, str]) -> str:
    return " ".join(f"{kinds[one.kind]}: {one.text}" for one in timeline(event).segments if one.kind in kinds)


def _same_case(one: Event, other: Event) -> bool:
    """Whether two events are one cancellation, be it under other ids: the same two people at the same two instants."""
    if one.event_id == other.event_id or one.order_id == other.order_id:
        return True
    return _who_and_when(one) == _who_and_when(other)


def _who_and_when(event: Event) -> tuple[str, str, float, float]:
    return event.seller_id, event.buyer_id, event.order.placed_at, event.cancelled_at


@dataclass(frozen=True, slots=True)
class _Said:
    """What was said in an event, as pieces: with the reason, and in the chat alone."""

    all: frozenset[str]
    chat: frozenset[str]

    @staticmethod
    def of(event: Event) -> _Said:
        return _Said(_shingles(spoken_text(event)), _shingles(_lines(event, _SPEAKERS)))

    def doubles(self, other: _Said) -> bool:
        """Whether the same was said, or one chat is the other with something behind it, whatever the reasons."""
        if _likeness(self.all, other.all) >= _DOUBLE:
            return True
        shorter = min(len(self.chat), len(other.chat))
        return shorter >= _TELLING and len(self.chat & other.chat) >= _DOUBLE * shorter


def _shingles(text: str) -> frozenset[str]:
    letters = "".join(filter(str.isalnum, text.casefold()))
    return frozenset(letters[place : place + _SHINGLE] for place in range(max(len(letters) - _SHINGLE + 1, 0)))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of pieces in common; events in which nothing was said are not alike for that."""
    both = one | other
    return len(one & other) / len(both) if both else 0.0


class SentenceEncoder:
    """A Hugging Face encoder as unit vectors, the mean over its tokens; what it has seen stays on disk."""

    def __init__(self, settings: RetrievalSettings, *, cache_dir: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        files = resolve_model(settings.encoder)
        folder = fetch_model(files, cache_dir=cache_dir)
        self._tokenizer, self._model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
        self._model.float().eval()
        self._prefix, self._digest = settings.prefix, files.digest
        self._cache = Path(cache_dir).expanduser() / "sentence_vectors"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; (n, d)."""
        if len(texts) == 1:
            return self._embed(texts)
        name = digest_of([self._digest, self._prefix, list(texts)])
        path = self._cache / f"{name}.npy"
        if not path.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            vectors = np.concatenate([self._embed(texts[i : i + 32]) for i in range(0, len(texts), 32)])
            temporary = path.with_suffix(f".{os.getpid()}.npy")
            np.save(temporary, vectors)
            temporary.replace(path)
        return np.load(path)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        batch = self._tokenizer(
            [self._prefix + text for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
        )
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()


def load_index(settings: RetrievalSettings, *, cache_dir: str) -> ExampleIndex | None:
    """Read and embed the examples; None where none are to be shown.

    Raises:
        ValueError: If there are none, or one is refused.
    """
    if settings.examples is None:
        return None
    examples = [example for url in example_files(settings.examples) for example in read_examples(url)]
    return ExampleIndex(examples, SentenceEncoder(settings, cache_dir=cache_dir))
