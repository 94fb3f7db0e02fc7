"""Labelled events nearest to a case: of its market first, balanced between labels, never the case or its double.

Search is exact, by FAISS: of 100,000 examples that takes some milliseconds beside a model's answer of hundreds, so no
index of approximate neighbours earns its place, and the same case always finds the same examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Literal

import numpy as np
from pydantic import Field

from cancellation.events.event import Event
from cancellation.events.examples import Example, example_files, read_examples
from cancellation.text.timeline import BUYER, REASON, SELLER, timeline
from cluster.models.files import ModelFiles, ModelName, resolve_model
from cluster.models.sentence_encoder import SentenceEncoder
from cluster.places import AsideUrl
from cluster.settings import Settings

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to unit vectors, float32 (n, d)."""
_SHINGLE = 5
_DOUBLE = 0.8
"""Share of pieces of five characters from which two events are doubles: of those that their texts have together, or of
the shorter chat's that the longer one has too."""
_TELLING = 60
"""Pieces, about fifteen words, from which on a chat is nobody else's: shorter ones stand in many by chance."""


class RetrievalSettings(Settings):
    """Which labelled events a model is shown before a case."""

    examples: AsideUrl | None = None
    """Labelled events: a .jsonl or .parquet file or a folder of them, local or s3://; null: none are shown."""

    num_examples: int = Field(default=10, ge=1, le=40)
    """How many of them."""

    chosen_for: Literal["case", "market"] = "case"
    """`case`: the nearest to each case, so that every prompt goes its own way behind the policy. `market`: the most
    typical ones of the case's market, so that all its prompts begin alike and a prefix cache holds the examples too."""

    encoder: ModelName = "var/pretrained/multilingual-e5-small"
    """Text encoder of sentence vectors (mean over tokens): folder, s3:// folder, models:/name@alias or a hub
    repository."""

    prefix: str = "query: "
    """What the encoder wants before a text; e5 was trained with this."""

    def unused(self) -> set[str]:
        """Without examples nothing is encoded."""
        return {"encoder"} if self.examples is None else set()


class ExampleIndex:
    """Labelled events by the meaning of what was said in them."""

    def __init__(self, examples: Sequence[Example], embed: Embed) -> None:
        if not examples:
            raise ValueError("retrieval.examples: expected labelled events, found none; label some, or set it to null")
        import faiss  # with a BLAS of its own: only where examples are shown

        self._examples = sorted(examples, key=lambda example: example.event.event_id)
        self._embed, events = embed, [example.event for example in self._examples]
        vectors = embed([spoken_text(event) for event in events])
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)
        self._said = [_Said.of(event) for event in events]
        self._markets = np.array([event.market for event in events])
        self._labels = np.array([example.label for example in self._examples])
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
            own = np.flatnonzero(self._markets == event.market)
            vectors = self._index.reconstruct_batch(own if len(own) else np.arange(len(self._examples)))
            self._centres[event.market] = vectors.mean(axis=0)
        return self._choose(event, self._centres[event.market], count)

    def _choose(self, event: Event, vector: np.ndarray, count: int) -> list[Example]:
        said, chosen = _Said.of(event), list[tuple[float, int]]()
        queues = [self._of_label(label, event, said, vector, count) for label in np.unique(self._labels)]
        for turn in zip_longest(*queues):
            chosen += [found for found in turn if found is not None]
            if len(chosen) >= count:
                break
        return [self._examples[place] for _, place in sorted(chosen[:count])]

    def _of_label(
        self, label: str, event: Event, said: _Said, vector: np.ndarray, count: int
    ) -> Iterator[tuple[float, int]]:
        """Give likeness and place of those that are not the case's double, in the order in which they are wanted."""
        own = self._markets == event.market
        for market in (own, ~own):
            for likeness, place in self._nearest(vector, (self._labels == label) & market, count):
                if not _same_case(self._examples[place].event, event) and not said.doubles(self._said[place]):
                    yield likeness, place

    def _nearest(self, vector: np.ndarray, among: np.ndarray, count: int) -> Iterator[tuple[float, int]]:
        """Give likeness and place of all that `among` marks, the nearest first; as many are searched for as are wanted.

        Those as near as the last that a search found wait for the next one: it may have left others out.
        """
        import faiss

        chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(among, bitorder="little")))
        total, given, asked = int(among.sum()), 0, count
        while given < total:
            asked = min(2 * asked, total)
            with _one_thread():
                likeness, places = (found[0] for found in self._index.search(vector[None], asked, params=chosen))
            order = np.lexsort((places, -likeness))
            sure = total if asked == total else int((likeness > likeness[-1]).sum())
            yield from zip(likeness[order][given:sure].tolist(), places[order][given:sure].tolist(), strict=True)
            given = sure


@contextmanager
def _one_thread() -> Iterator[None]:
    """Search on the thread that asks: waking others takes longer, and may be the very ones of torch.

    Libraries that share an OpenMP runtime share its number of threads, so it is put back.
    """
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


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


def pin_encoder(settings: RetrievalSettings, *, registry_uri: str | None = None) -> ModelFiles | None:
    """Find what the encoder's name means now, once for a whole job; None where no examples are to be shown.

    Raises:
        ValueError: If there is no such model.
    """
    return None if settings.examples is None else resolve_model(settings.encoder, registry_uri=registry_uri)


def sentence_embedding(settings: RetrievalSettings, encoder: ModelFiles, *, cache_dir: str) -> Embed:
    """Load the encoder, which puts the settings' prefix before each text."""
    return partial(SentenceEncoder(encoder, cache_dir=cache_dir), prefix=settings.prefix)


def load_index(
    settings: RetrievalSettings, encoder: ModelFiles | None = None, *, cache_dir: str
) -> ExampleIndex | None:
    """Read and embed the examples; None where none are to be shown. Without `encoder` the one that is named now.

    Raises:
        ValueError: If there are none, or one is refused.
    """
    if settings.examples is None:
        return None
    examples = [example for url in example_files(settings.examples) for example in read_examples(url)]
    encoder = encoder or resolve_model(settings.encoder)
    return ExampleIndex(examples, sentence_embedding(settings, encoder, cache_dir=cache_dir))
