"""The annotation: one person's label for one pair in one round, and what a set of them must satisfy."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

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
            f"{first.round!r}{_why_unknown(first.pair, known)} "
            f"({len(unknown)} such annotations): give the round's folder in `rounds`, or correct the file"
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


def bring_home(annotations: Sequence[Annotation], known: Collection[tuple[str, PairKey]]) -> list[Annotation]:
    """Give annotations back the ids of their round where a program on the way trimmed them or made them numbers.

    `000018` came back as 18 or 18.0, `P24   ` as P24. Only where a single pair of the round can be meant: others stay
    as they are, for `check_annotations` to name.
    """
    meant: dict[tuple[str, PairKey], list[tuple[str, PairKey]]] = defaultdict(list)
    for one in known:
        meant[_bare(*one)].append(one)
    homes = []
    for one in annotations:
        here = one.round, one.pair
        candidates = [here] if here in known else meant[_bare(*here)]
        if len(candidates) == 1:
            name, (query_id, product_id) = candidates[0]
            one = replace(one, round=name, query_id=query_id, product_id=product_id)
        homes.append(one)
    return homes


def pair_at_home(pair: PairKey, known: Collection[PairKey]) -> PairKey:
    """Find the pair that is meant, as `bring_home` does; the pair itself where none or several can be."""
    found = [one for one in known if bare_id(one[0]) == bare_id(pair[0]) and bare_id(one[1]) == bare_id(pair[1])]
    return found[0] if pair not in known and len(found) == 1 else pair


def _bare(name: str, pair: PairKey) -> tuple[str, PairKey]:
    return bare_id(name), (bare_id(pair[0]), bare_id(pair[1]))


def bare_id(text: str) -> str:
    """Write an id without what spreadsheets drop or add: blanks around it, zeros in front, `.0` behind."""
    text = text.strip().removeprefix("'")
    number = re.fullmatch(r"(-?)0*(\d+?)(?:\.0*)?", text)
    return f"{number[1]}{number[2]}" if number else text


def _why_unknown(pair: PairKey, known: Collection[tuple[str, PairKey]]) -> str:
    if any(re.fullmatch(r"-?\d+(\.\d+)?[eE][+-]?\d+", text) for text in pair):
        return ": a spreadsheet wrote an id as a rounded number, its digits are lost"
    alike = any(_bare("", pair) == _bare("", other) for _, other in known)
    return ", where several pairs differ only by blanks and zeros in front" if alike else ""


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
