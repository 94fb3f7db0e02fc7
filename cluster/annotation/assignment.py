"""Who labels which case: several people for each, equal loads, every two of them together about as often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

from pydantic import AfterValidator


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Give people's names back, if each may stand in a file's name.

    Raises:
        ValueError: If one may not, or stands there twice.
    """
    for name in names:
        if not name or not all(character.isalnum() or character in "-_.@" for character in name):
            raise ValueError(f"{name!r}: expected letters, digits, '-', '_', '.', '@': it names files")
    if len({*names}) < len(names):
        raise ValueError(f"a name stands twice in {', '.join(names)}")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(check_names)]
"""Of people who label, as a setting."""


def require_enough(annotators: Sequence[str], per_case: int, *, what: str) -> None:
    """Refuse settings under which a case, which `what` names, would be one person's twice.

    Raises:
        ValueError: If fewer people are named than each case is to have.
    """
    if len(annotators) < per_case:
        raise ValueError(f"{per_case} people per {what} are asked for, {len(annotators)} are named in annotators")


def assign_people(num_cases: int, annotators: Sequence[str], per_case: int, *, seed: int) -> list[tuple[str, ...]]:
    """Choose who labels each case.

    Loads differ by one at most; among equal loads, those who shared the fewest cases so far come together, so that
    agreement can be measured between any two.
    """
    chooser = random.Random(seed)
    load: Counter[str] = Counter(dict.fromkeys(annotators, 0))
    shared: Counter[frozenset[str]] = Counter({frozenset(two): 0 for two in combinations(annotators, 2)})
    assigned = []
    for _ in range(num_cases):
        chosen: list[str] = []
        for _ in range(per_case):
            rest = [name for name in annotators if name not in chosen]
            lowest = min(
                rest, key=lambda name: (load[name], sum(shared[frozenset((name, c))] for c in chosen), chooser.random())
            )
            chosen.append(lowest)
        load.update(chosen)
        shared.update(frozenset(two) for two in combinations(chosen, 2))
        assigned.append(tuple(chosen))
    return assigned
