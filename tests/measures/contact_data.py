"""Redaction held against labelled texts: how much contact data goes, and what else goes with it.

    python -m tests.measures.contact_data            # both halves; `develop` or `held_out` for one

A line of `contact_data_*.jsonl` has a language, a kind and a text, its secrets between ⟦ and ⟧; a text without any has
to stay as it is. All were written by hand, identity numbers and cards drawn with right check digits. Patterns are tuned
on `develop` alone: `held_out` has other wordings and other numbers, and was written before any pattern was.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cancellation.contact_data.redaction import redact
from cancellation.events.clean_text import INVISIBLE

HALVES = ("develop", "held_out")
_TOKEN = re.compile("<(?:PHONE|EMAIL|CARD|NUMBER|LINK|HANDLE)>")
Span = tuple[int, int]


@dataclass(frozen=True)
class Labelled:
    """A text, and the places in it that have to go."""

    lang: str
    kind: str
    text: str
    secrets: tuple[Span, ...]


@dataclass
class Count:
    """What came of texts of one kind or language."""

    secrets: int = 0
    gone: int = 0
    """Secrets of which no letter and no digit is left."""
    taken: int = 0
    """Stretches that were replaced."""
    rightly: int = 0
    """Of these, the ones that took no letter and no digit from outside a secret."""
    harmless: int = 0
    """Texts without a secret."""
    touched: int = 0
    """Of these, the ones that did not stay as they were."""
    wrong: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.gone / self.secrets if self.secrets else 1.0

    @property
    def precision(self) -> float:
        return self.rightly / self.taken if self.taken else 1.0


def labelled_texts(half: str) -> list[Labelled]:
    """Read one half."""
    path = Path(__file__).with_name(f"contact_data_{half}.jsonl")
    return [_read(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _read(row: Mapping[str, str]) -> Labelled:
    text, secrets = "", []
    for place, piece in enumerate(re.split("[⟦⟧]", row["text"])):
        if place % 2:
            secrets.append((len(text), len(text) + len(piece)))
        text += piece
    return Labelled(row["lang"], row["kind"], text, tuple(secrets))


def count(texts: Iterable[Labelled], by: str) -> dict[str, Count]:
    """Count what redaction does to texts, by `kind` or `lang`."""
    counts: dict[str, Count] = defaultdict(Count)
    for one in texts:
        found = counts[getattr(one, by)]
        redacted = redact(one.text)
        taken = replaced(one.text, redacted)
        gone = sum(not _left(one.text, secret, taken) for secret in one.secrets)
        rightly = sum(not _left(one.text, stretch, one.secrets) for stretch in taken)
        found.secrets += len(one.secrets)
        found.gone += gone
        found.taken += len(taken)
        found.rightly += rightly
        found.harmless += not one.secrets
        found.touched += not one.secrets and redacted != one.text
        if gone < len(one.secrets) or rightly < len(taken):
            found.wrong.append(f"{one.text} -> {redacted}")
    return dict(counts)


def replaced(text: str, redacted: str) -> list[Span]:
    """Name the stretches of a text in whose place tokens stand; the text must have nothing invisible in it.

    Raises:
        ValueError: If what was not replaced is not all there.
    """
    kept = _TOKEN.split(redacted)
    pattern = "(.+?)".join(re.escape(piece) for piece in kept)
    found = re.fullmatch(pattern, INVISIBLE.sub("", text), re.DOTALL)
    if found is None:
        raise ValueError(f"{redacted!r}: expected what is left of {text!r}")
    return [found.span(place) for place in range(1, len(kept))]


def _left(text: str, span: Span, covers: Sequence[Span]) -> bool:
    """Say whether a letter or a digit of a span is in no cover."""
    places = (place for place in range(*span) if text[place].isalnum())
    return any(not any(start <= place < end for start, end in covers) for place in places)


def total(counts: Iterable[Count]) -> Count:
    """Add counts up."""
    whole = Count()
    for one in counts:
        for name in ("secrets", "gone", "taken", "rightly", "harmless", "touched", "wrong"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
    return whole


def microseconds(texts: Sequence[Labelled], rounds: int = 20) -> float:
    """Measure how long a text takes; the fastest of some rounds."""
    durations = []
    for _ in range(rounds):
        started = time.process_time()
        for one in texts:
            redact(one.text)
        durations.append(time.process_time() - started)
    return min(durations) / len(texts) * 1e6


def _line(name: str, one: Count) -> str:
    secrets = f"{one.gone:4} of {one.secrets:4} gone, recall {one.recall:.3f}, precision {one.precision:.3f}"
    stays = f"{one.touched:4} of {one.harmless:4} touched"
    return f"  {name:16} {secrets if one.secrets else '':52} {stays if one.harmless else ''}".rstrip()


def main(halves: Sequence[str], *, verbose: bool) -> None:
    """Print the figures; the texts that went wrong, where asked to, of `develop` alone."""
    for half in halves:
        texts = labelled_texts(half)
        print(f"{half}: {len(texts)} texts, {microseconds(texts):.1f} µs each")
        for by in ("kind", "lang"):
            counts = count(texts, by)
            for name, one in counts.items():
                print(_line(name, one))
        print(_line("all", whole := total(counts.values())))
        if verbose and half == "develop":
            print(*whole.wrong, sep="\n")


if __name__ == "__main__":
    given = [name for name in sys.argv[1:] if not name.startswith("-")]
    main(given or HALVES, verbose="--wrong" in sys.argv)
