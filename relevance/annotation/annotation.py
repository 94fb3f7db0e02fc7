"""The annotation: one person's label for one pair in one round, and what a set of them must satisfy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

PairKey = tuple[str, str]
"""Query id and product id."""


@dataclass(frozen=True)
class Annotation:
    """What a person said of a pair."""

    query_id: str
    product_id: str
    label: str
    annotator: str
    round: str
    guideline_version: str
    annotated_at: str
    """ISO 8601 where the file has it, else empty."""
    comment: str = ""
    source: str = ""
    """The file that it was read from."""

    @property
    def pair(self) -> PairKey:
        return self.query_id, self.product_id


def check_annotations(annotations: Sequence[Annotation], known: Collection[tuple[str, PairKey]]) -> None:
    """Refuse annotations of pairs that no round asked for, and a second one by the same person in a round.

    Args:
        annotations: From all files together.
        known: (round, pair) that were given out.

    Raises:
        ValueError: Naming annotator, key and files of the first, and how many there are.
    """
    unknown = [one for one in annotations if (one.round, one.pair) not in known]
    if unknown:
        first = unknown[0]
        raise ValueError(
            f"{first.source}: pair {show_pair(first.pair)} of annotator {first.annotator!r} is not in round "
            f"{first.round!r} ({len(unknown)} such annotations): give the round's folder in `rounds`, or correct the "
            "file"
        )
    given: dict[tuple[str, str, PairKey], list[Annotation]] = defaultdict(list)
    for one in annotations:
        given[one.round, one.annotator, one.pair].append(one)
    twice = [several for several in given.values() if len(several) > 1]
    if twice:
        first = twice[0]
        files = " and ".join(sorted({one.source for one in first}))
        raise ValueError(
            f"{files}: annotator {first[0].annotator!r} labelled pair {show_pair(first[0].pair)} {len(first)} times in "
            f"round {first[0].round!r} ({len(twice)} such pairs): keep one of them; nothing was written"
        )


def show_pair(pair: PairKey) -> str:
    """Name a pair in a message, by its key alone."""
    return f"{pair[0]}/{pair[1]}"


def latest_per_annotator(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Keep each person's last word on each pair: a later round replaces an earlier one.

    Later is by the round's name, as people count ("10" behind "9"), then by time.
    """
    last: dict[tuple[str, PairKey], Annotation] = {}
    for one in sorted(annotations, key=lambda one: (round_order(one.round), one.annotated_at)):
        last[one.annotator, one.pair] = one
    return list(last.values())


def round_order(name: str) -> tuple[int, str]:
    """Sort rounds as people count them: "2" before "10"."""
    return (int(name), "") if name.isdecimal() else (0, name)
