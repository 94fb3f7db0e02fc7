"""Event to what a model reads: token ids within a budget and the 68 features. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from cancellation.events.event import Event
from cancellation.features.vector import features
from cancellation.text.timeline import CUT, HISTORY, KIND_TOKENS, ORDER, Timeline, timeline
from cancellation.text.token_budget import fit_timeline
from cancellation.text.tokenizer import END, START_TOKENS, token_of

BACKGROUND = (ORDER, HISTORY)
"""Segments left out of the text: the features hold the same numbers, and tokens cost time."""

_MAX_FEATURE = 1e9  # beyond it a feature says nothing more, and float32 squares of it stay finite


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """One event as numbers.

    `token_ids` start with the tokeniser's start token and end with its end token, if it has one; `positions` are the
    kept segments' places in the timeline, in the order of their tokens; `features` has shape (68,), float32, NaN where
    missing.
    """

    event_id: str
    market: str
    token_ids: list[int]
    positions: tuple[int, ...]
    features: np.ndarray


class EventEncoder:
    """Encodes events for one model: its tokeniser, its budget of tokens, the segments it leaves out."""

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int, left_out: Sequence[str] = BACKGROUND) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._left_out = frozenset(left_out)
        self._ids = tokenizer.get_vocab(with_added_tokens=True)
        self._start = token_of(tokenizer, START_TOKENS)
        self._end = [self._ids[END]] if END in self._ids else []
        self._cut = self._ids[CUT]
        self.kind_ids = frozenset(self._ids[kind] for kind in KIND_TOKENS)
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, event: Event) -> EncodedEvent:
        """Encode an event."""
        return self.encode_timeline(event, timeline(event))

    def encode_timeline(self, event: Event, whole: Timeline) -> EncodedEvent:
        """Encode an event with a timeline that need not be its own: an erased one, say."""
        token_ids, positions = self.fit(whole)
        numbers = np.clip(features(event), -_MAX_FEATURE, _MAX_FEATURE).astype(np.float32)
        return EncodedEvent(event.event_id, event.market, token_ids, positions, numbers)

    def fit(self, whole: Timeline) -> tuple[list[int], tuple[int, ...]]:
        """A timeline's token ids within the budget, and the places in it of the segments that are kept."""
        places = [place for place, segment in enumerate(whole.segments) if segment.kind not in self._left_out]
        told = Timeline(tuple(whole.segments[place] for place in places))
        budget = self.max_tokens - 1 - len(self._end)
        fitted = fit_timeline(told, self._tokenize, self._ids.__getitem__, max_tokens=budget)
        return [self._start, *fitted.token_ids, *self._end], tuple(places[position] for position in fitted.positions)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """All texts in one call, apart by a token that no cleaned text can contain: half the time of a batch."""
        if not texts:
            return []
        ids = self.tokenizer.encode(CUT.join(texts), add_special_tokens=False).ids
        parts, start = [], 0
        for _ in texts[1:]:
            end = ids.index(self._cut, start)
            parts.append(ids[start:end])
            start = end + 1
        return [*parts, ids[start:]]
