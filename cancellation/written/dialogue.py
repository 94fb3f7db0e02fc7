"""The written dialogue: one card's plot as chat, calls and entries, with its label unless a blind reader disagreed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.events.markets import MARKETS

SENDERS = {"b": "buyer", "s": "seller", "y": "system"}
ENTRIES = ("deadline_extended", "deadline_missed", "stock_out_flagged", "handed_to_carrier", "label_printed")


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that happened: a message, a call or a fulfilment entry."""

    kind: str
    """`buyer`, `seller`, `system` (a message), `entry`, or `call`."""
    after_minutes: float
    """Since the turn before; of the first turn since the dialogue's start."""
    text: str
    """The message; the entry's kind; or "seller answered 95", "buyer unanswered"."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One dialogue. `label` and `factors` are what holds after the blind second reading."""

    dialogue_id: str
    writer: str
    market: str
    language: str
    kind: str
    """What it was written to cover (`irony`, `auto_reply` …); no input of any model."""
    label: str
    factors: tuple[str, ...]
    reason: str | None
    placed_hours: float
    """From the order to the first turn."""
    turns: tuple[Turn, ...]
    cancel_minutes: float
    """From the last turn to the cancellation."""

    @property
    def plot(self) -> str:
        """Name what must not be split between training and judging: a writer's plots recur in other languages."""
        return f"{self.writer}-{self.dialogue_id.rpartition('-')[2]}"


def written_dialogues(*, without: Sequence[str] = (), only: Sequence[str] = ()) -> list[Dialogue]:
    """Read the dialogues that ship, without some writers, or of some alone, in the order of their ids.

    Raises:
        ValueError: If a writer is unknown.
    """
    folder = resources.files("cancellation.written") / "dialogues"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".jsonl")), key=lambda file: file.name)
    found = [dialogue for file in files for dialogue in _read(file.read_text(encoding="utf-8"), file.name)]
    unknown = sorted({*without, *only} - {one.writer for one in found})
    if unknown:
        raise ValueError(f"written dialogues: expected known writers, found {', '.join(unknown)}; see their ids")
    chosen = [one for one in found if one.writer not in without and (not only or one.writer in only)]
    return sorted(chosen, key=lambda one: one.dialogue_id)


def _read(text: str, name: str) -> Iterator[Dialogue]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield parse_dialogue(json.loads(line), f"{name} line {number}")


def parse_dialogue(row: dict[str, Any], where: str) -> Dialogue:
    """Check one line's object.

    Raises:
        ValueError: If a code, a sender or an instant is none, naming the place.
    """
    turns = tuple(_turn(entry, where) for entry in row["t"])
    for name, value, allowed in (
        ("label", row["label"], VERDICTS),
        ("market", row["market"], tuple(MARKETS)),
        *(("factors", factor, FACTORS) for factor in row["factors"]),
    ):
        if value not in allowed:
            raise ValueError(f"{where}: expected {name} to be one of {', '.join(allowed)}, found {value!r}")
    return Dialogue(
        dialogue_id=row["id"],
        writer=row["id"].partition("-")[0],
        market=row["market"],
        language=row["lang"],
        kind=row["kind"],
        label=row["label"],
        factors=tuple(row["factors"]),
        reason=row["reason"],
        placed_hours=float(row["placed"]),
        turns=turns,
        cancel_minutes=float(row["cancel"]),
    )


def _turn(entry: Sequence[Any], where: str) -> Turn:
    who, minutes, text = entry
    if who in SENDERS:
        return Turn(SENDERS[who], float(minutes), text)
    if who == "e" and text in ENTRIES:
        return Turn("entry", float(minutes), text)
    if who == "c" and text.split()[0] in ("buyer", "seller") and text.split()[1] in ("answered", "unanswered"):
        return Turn("call", float(minutes), text)
    raise ValueError(f"{where}: expected a message (b, s, y), a known entry (e) or a call (c), found {who!r}")
