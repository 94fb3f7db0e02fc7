"""What each chat message is (asks to cancel, chases, thanks): a teacher that only a simulation has.

A text encoder that learns from verdicts alone has one label per hundred tokens. Naming the act of each message,
the same in nine languages, teaches what sentences mean across languages; no act is an input or an output of
the shipped model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cancellation.simulation.wording import LANGUAGES, wording
from cancellation.text.encoding import EncodedEvent, EventEncoder
from cancellation.text.timeline import BUYER, SELLER, SYSTEM, Timeline

_SPOKEN = frozenset((BUYER, SELLER, SYSTEM))


@cache
def act_names() -> tuple[str, ...]:
    """Name all acts (`side.name`) of all grammars, sorted."""
    names = {act for language in LANGUAGES for act in wording(language).shared}
    return tuple(sorted(act for act in names if not act.startswith("reasons.")))


@cache
def _act_rows() -> dict[str, int]:
    return {name: row for row, name in enumerate(act_names())}


def act_positions(
    encoded: EncodedEvent, whole: Timeline, message_acts: Sequence[str], encoder: EventEncoder
) -> tuple[list[int], list[int]]:
    """Places of speaker tokens and the act of each; a message of several acts has its place several times."""
    if not message_acts:
        return [], []
    kinds = encoder.kind_ids
    starts = [place for place, token in enumerate(encoded.token_ids) if token in kinds]
    places, acts = [], []
    for start, position in zip(starts, encoded.positions, strict=True):
        segment = whole.segments[position]
        if segment.kind not in _SPOKEN or segment.index is None:
            continue
        for act in message_acts[segment.index].split():
            row = _act_rows().get(act)
            if row is not None:
                places.append(start)
                acts.append(row)
    return places, acts
