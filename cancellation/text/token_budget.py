"""A timeline that fits a model: which segments keep their tokens when not all can, and a count of the rest.

Texts are shortened before segments are dropped, longest first, so that one padded message cannot push the
others out. What is dropped goes in a fixed order of worth: the end of the chat and the buyer's reason stay
longest, then the seller's messages, then what was done, then the buyer's messages, then the background,
whose facts the 68 features hold too. Many padded messages cannot push the others out either: of messages far longer
than people type only the newest counts as the end of the chat, the others come after the seller's shorter ones.
Nor can a flood of short ones: of many messages in a row by one side the first and the newest few keep their worth, the
others come last of what was said, like messages that are said again later in the same letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from cancellation.text.timeline import (
    BUYER,
    CALL,
    CUT,
    FULFILMENT,
    HISTORY,
    ORDER,
    OTHER_ORDER,
    REASON,
    SELLER,
    SYSTEM,
    Segment,
    Timeline,
)

_STRUCTURE_TOKENS = 2  # kind and time
_SHORTEST_TEXT = 16  # tokens a text keeps before its segment counts as too many
_END_OF_CHAT = 6
_LONG_MESSAGE = 300  # characters; in 15,000 simulated messages none is longer, the longest by hand has 118
_MAX_CHARACTERS = 1200  # more are never tokenised: no text may keep so many tokens anyway
_WORTH = {SELLER: 1, FULFILMENT: 2, CALL: 2, BUYER: 3, ORDER: 4, SYSTEM: 5, OTHER_ORDER: 6, HISTORY: 7}
_WORTH_OF_LONG, _WORTH_OF_REPEATED = 2, 5
_ORDINARY_LONG = 1
_RUN_START, _RUN_END = 3, 5  # messages in a row by one side that are read; people answer within eight

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""Texts to token ids, without special tokens; for a Hugging Face tokeniser
`lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]`."""

TokenId = Callable[[str], int]
"""A special token to its id; for a Hugging Face tokeniser `tokenizer.convert_tokens_to_ids`."""


@dataclass(frozen=True, slots=True)
class FittedTimeline:
    """A timeline as token ids, and what was left out of it.

    `token_ids` hold no frame tokens ([CLS], [SEP]): leave room for them in the budget. `positions` are the
    kept segments' places in the timeline; `num_dropped` counts the others by kind; `num_cut_tokens` counts
    tokens left out of the middle of kept texts (of what was tokenised).
    """

    token_ids: list[int]
    positions: tuple[int, ...]
    num_dropped: dict[str, int]
    num_cut_tokens: int


def fit_timeline(timeline: Timeline, encode: Encode, token_id: TokenId, *, max_tokens: int) -> FittedTimeline:
    """Fit a timeline into a number of tokens.

    Raises:
        ValueError: If the budget does not hold one segment.
    """
    if max_tokens < _STRUCTURE_TOKENS + _SHORTEST_TEXT:
        raise ValueError(
            f"a budget of at least {_STRUCTURE_TOKENS + _SHORTEST_TEXT} tokens is expected, found {max_tokens}"
        )
    segments = timeline.segments
    # More segments than this cannot fit even with one token each, so they are not worth tokenising.
    worthiest = _by_worth(segments)[: max_tokens // (_STRUCTURE_TOKENS + 1)]
    encoded = dict(zip(worthiest, encode([_shorten(segments[i].text) for i in worthiest]), strict=True))
    kept, spent = [], 0
    for position in worthiest:
        cost = _STRUCTURE_TOKENS + min(len(encoded[position]), _SHORTEST_TEXT)
        if spent + cost > max_tokens:
            break
        kept.append(position)
        spent += cost
    kept.sort()
    limit = _longest_text([len(encoded[position]) for position in kept], max_tokens - _STRUCTURE_TOKENS * len(kept))
    token_ids: list[int] = []
    num_cut = 0
    for position in kept:
        text = _cut_middle(encoded[position], limit, token_id)
        num_cut += len(encoded[position]) - len(text)
        token_ids += [token_id(segments[position].kind), token_id(segments[position].time_token), *text]
    remaining = set(range(len(segments))).difference(kept)
    num_dropped = dict(Counter(segments[position].kind for position in sorted(remaining)))
    return FittedTimeline(token_ids, tuple(kept), num_dropped, num_cut)


def _by_worth(segments: Sequence[Segment]) -> list[int]:
    """Positions from the one that must stay to the one that may go first; the newest of equals stays longest."""
    demoted = _demoted(segments)
    spoken = [p for p, segment in enumerate(segments) if segment.kind in (BUYER, SELLER) and p not in demoted]
    end_of_chat = set(spoken[-_END_OF_CHAT:])

    def worth(position: int) -> tuple[int, int]:
        kind = segments[position].kind
        if position in demoted:
            return demoted[position], -position
        return (0 if position in end_of_chat or kind == REASON else _WORTH[kind]), -position

    return sorted(range(len(segments)), key=worth)


def _demoted(segments: Sequence[Segment]) -> dict[int, int]:
    """Messages that may be padding, and what they are worth."""
    demoted: dict[int, int] = {}
    said: set[tuple[str, str]] = set()
    num_long = 0
    for position in range(len(segments) - 1, -1, -1):
        segment = segments[position]
        if segment.kind not in (BUYER, SELLER):
            continue
        long = len(segment.text) > _LONG_MESSAGE
        num_long += long
        letters = "".join(filter(str.isalpha, segment.text[:_MAX_CHARACTERS].casefold())) or segment.text
        if (segment.kind, letters) in said:
            demoted[position] = _WORTH_OF_REPEATED
        elif long and num_long > _ORDINARY_LONG:
            demoted[position] = max(_WORTH_OF_LONG, _WORTH[segment.kind])
        said.add((segment.kind, letters))
    for run in _runs(segments, demoted):
        demoted |= dict.fromkeys(run[_RUN_START:-_RUN_END], _WORTH_OF_REPEATED)
    return demoted


def _runs(segments: Sequence[Segment], left_out: Collection[int]) -> Iterator[list[int]]:
    """Positions of messages in a row by one side."""
    spoken = [p for p, segment in enumerate(segments) if segment.kind in (BUYER, SELLER) and p not in left_out]
    for _, run in groupby(spoken, lambda position: segments[position].kind):
        yield list(run)


def _longest_text(lengths: Sequence[int], available: int) -> int:
    """The largest length to which texts can be cut so that all fit together."""
    shared, longest = available, len(lengths)
    for rank, length in enumerate(sorted(lengths)):
        if length * (longest - rank) > shared:
            return shared // (longest - rank)
        shared -= length
    return max(lengths, default=0)


def _cut_middle(tokens: Sequence[int], limit: int, token_id: TokenId) -> list[int]:
    if len(tokens) <= limit:
        return list(tokens)
    tail = (limit - 1) // 3
    head = limit - 1 - tail
    return [*tokens[:head], token_id(CUT), *tokens[len(tokens) - tail :]]


def _shorten(text: str) -> str:
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[: _MAX_CHARACTERS * 2 // 3]} … {text[-(_MAX_CHARACTERS // 3) :]}"
