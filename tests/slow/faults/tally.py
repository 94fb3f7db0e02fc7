"""What a fault did: counts of strikes and of broken promises, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

PROMISES = ("lost", "twice", "different", "half_written", "unrecorded", "unfinished")
COLUMNS = ("fault", "rounds", "kills", "missed", "checked", *PROMISES)


@dataclass
class Tally:
    """Of one kind of fault; what is in `PROMISES` has to be 0."""

    fault: str
    rounds: int = 0
    kills: int = 0
    """Or other strikes of the fault, that met what they were meant for."""
    missed: int = 0
    """Strikes that met nothing: no proof of anything."""
    checked: int = 0
    """Rows, or answered verdicts, that were looked for afterwards."""
    lost: int = 0
    """Rows of a calm run that are missing."""
    twice: int = 0
    different: int = 0
    """Rows whose content is not that of a calm run."""
    half_written: int = 0
    """Looks at the output at which a reader saw a part of a file, or of a day that is marked as whole."""
    unrecorded: int = 0
    """Verdicts answered and not on record."""
    unfinished: int = 0
    """Days that did not come to their end, however often they were begun again."""
    seconds: list[float] = field(default_factory=list)
    """Lost over calm runs, a round each."""
    victims: Counter[str] = field(default_factory=Counter)
    """Whom it met, where one fault has several kinds of them."""
    untried: str = ""
    """Why this machine has no such fault."""
    remark: str = ""

    @property
    def broken(self) -> int:
        return sum(getattr(self, name) for name in PROMISES)

    @property
    def proves_nothing(self) -> bool:
        """Whether it was to strike and never did, so that its zeros are worth nothing."""
        return not self.kills and not self.untried

    def struck(self, met: bool, victim: str = "") -> None:
        """Count a strike.

        Raises:
            RuntimeError: If strikes keep on meeting nothing.
        """
        self.kills += met
        self.missed += not met
        if met and victim:
            self.victims[victim] += 1
        if self.missed > 8 + 2 * self.kills:
            raise RuntimeError(f"{self.missed} strikes met nothing, {self.kills} something")

    def compare(self, found: Sequence[dict], calm: Sequence[dict]) -> None:
        """Count what rows of a committed day differ in from those of a calm one."""
        self.checked += len(calm)
        known = {_key(row): row for row in calm}
        keys = [_key(row) for row in found]
        self.lost += len(known.keys() - set(keys))
        self.twice += len(keys) - len(set(keys))
        self.different += sum(known.get(_key(row)) != row for row in found)

    def compare_records(self, answered: Iterable[str], found: Sequence[str]) -> None:
        """Count which answered events are not on record, and what is there twice."""
        expected = set(answered)
        self.checked += len(expected)
        self.unrecorded += len(expected - set(found))
        self.twice += len(found) - len(set(found))

    def cells(self) -> list[str]:
        """Of its line in the table."""
        met = ", ".join(f"{name} {times}" for name, times in self.victims.most_common())
        lost = f"{max(0.0, median(self.seconds)):.1f}" if self.seconds else ""
        nothing = "met nothing: proves nothing" if self.proves_nothing else ""
        said = "; ".join(part for part in (nothing, self.untried, met, self.remark) if part)
        return [*(f"{getattr(self, name)}" for name in COLUMNS), lost, said]


def _key(row: dict) -> tuple[str, str]:
    return row["query_id"], row["product_id"]


def table(tallies: Iterable[Tally]) -> str:
    """Markdown, a line per fault and one of sums."""
    tallies = list(tallies)
    total = Tally("all", **{name: sum(getattr(one, name) for one in tallies) for name in COLUMNS[1:]})
    head = [*(name.replace("_", " ") for name in COLUMNS), "median seconds lost a round", "remark"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(one.cells()).rstrip() + " |" for one in (*tallies, total)])
