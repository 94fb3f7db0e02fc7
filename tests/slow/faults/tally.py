"""What a fault did: counts of kills and of broken promises, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

PROMISES = ("lost", "twice", "different", "half_written", "unrecorded", "unfinished")


@dataclass
class Tally:
    """Of one kind of fault; what is in `PROMISES` has to be 0."""

    fault: str
    rounds: int = 0
    kills: int = 0
    """Or other strikes of the fault."""
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
    seconds: float = 0.0
    """Lost over calm runs, in all."""
    remark: str = ""

    @property
    def broken(self) -> int:
        return sum(getattr(self, name) for name in PROMISES)

    def compare(self, found: Sequence[dict], calm: Sequence[dict]) -> None:
        """Count what rows of a committed day differ in from those of a calm one."""
        self.checked += len(calm)
        known = {_key(row): row for row in calm}
        keys = [_key(row) for row in found]
        self.lost += len(known.keys() - set(keys))
        self.twice += len(keys) - len(set(keys))
        self.different += sum(known.get(_key(row)) != row for row in found)


def _key(row: dict) -> tuple[str, str]:
    return row["query_id"], row["product_id"]


COLUMNS = ("fault", "rounds", "kills", "checked", *PROMISES)


def table(tallies: Iterable[Tally]) -> str:
    """Markdown, a line per fault and one of sums."""
    tallies = list(tallies)
    numbers = [field.name for field in fields(Tally) if field.name not in ("fault", "remark")]
    total = Tally("all", **{name: sum(getattr(one, name) for one in tallies) for name in numbers})
    head = [*(name.replace("_", " ") for name in COLUMNS), "seconds lost a kill", "remark"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in (*tallies, total):
        cells = asdict(one)
        a_kill = f"{max(0.0, one.seconds) / one.kills:.1f}" if one.kills and one.seconds else ""
        lines.append("| " + " | ".join([*(f"{cells[name]}" for name in COLUMNS), a_kill, one.remark]) + " |")
    return "\n".join(lines)
