"""Who labels which pair: at least two people per pair, equal loads, gold pairs among the rest."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from cluster.annotation.assignment import Names, assign_people, require_enough
from cluster.settings import Settings
from relevance.annotation.annotation import PairKey


class TaskSettings(Settings):
    """A round of annotation."""

    annotators: Names = ("ann", "bob", "cid")
    """Names as they shall stand in files and figures."""

    annotators_per_pair: int = Field(default=2, ge=2)
    """How many people label each pair, none of them twice. Two show where people differ, three settle it."""

    gold_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of gold pairs among a person's tasks, as far as there are enough; nothing in a task shows which."""

    projects: Literal["annotator", "shared"] = "annotator"
    """`annotator`: a Label Studio project and a CSV for each person. `shared`: one project for all, in which Label
    Studio hands each task to as many people as its setting "annotations per task" says."""

    seed: int = Field(default=0, ge=0)
    """The same seed gives the same tasks to the same people in the same order."""

    @model_validator(mode="after")
    def _enough_people(self) -> TaskSettings:
        require_enough(self.annotators, self.annotators_per_pair, what="pair")
        return self


@dataclass(frozen=True)
class Assignment:
    """What each project gets, in the order in which it is shown."""

    tasks: Mapping[str, tuple[PairKey, ...]]
    """Pairs by project: an annotator's name, or `shared`."""
    gold: frozenset[PairKey]
    """Those of the pairs that are gold."""


def assign_tasks(pairs: Sequence[PairKey], gold: Sequence[PairKey], settings: TaskSettings) -> Assignment:
    """Give out pairs and gold pairs.

    All people get the same gold pairs, as far as their shares are equal, so that their figures can be compared.

    Args:
        pairs: To be labelled.
        gold: With a settled label, none of them in `pairs`; a seeded choice of them is used.
        settings: Who, how many, how much gold.
    """
    chooser = random.Random(settings.seed)
    people = assign_people(len(pairs), settings.annotators, settings.annotators_per_pair, seed=settings.seed)
    given: dict[str, list[PairKey]] = {name: [] for name in settings.annotators}
    if settings.projects == "shared":
        given = {"shared": list(pairs)}
    else:
        for pair, names in zip(pairs, people, strict=True):
            for name in names:
                given[name].append(pair)
    candidates = chooser.sample(sorted(gold), len(gold))
    ratio = settings.gold_fraction / (1 - settings.gold_fraction)
    tasks, used = {}, set()
    for name, own in given.items():
        seeded = candidates[: round(ratio * len(own))]
        used.update(seeded)
        mixed = [*own, *seeded]
        random.Random(f"{settings.seed} {name}").shuffle(mixed)  # text seeds are hashed alike everywhere
        tasks[name] = tuple(mixed)
    return Assignment(tasks, frozenset(used))
