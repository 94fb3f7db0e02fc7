"""The annotators' rules: versioned, rendered for people and for the prompt."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from cluster.annotation.versions import check_version
from relevance.labels import LABELS

GUIDELINES_PATH = Path(__file__).with_suffix(".toml")

_FIELDS = {
    "decision": ("question", "yes", "no"),
    "rule": ("name", "text"),
    "ambiguous": ("query", "counts", "does_not_count"),
    "example": ("query", "product", "label", "reason"),
    "borderline": ("date", "query", "product", "decision", "reason"),
    "history": ("version", "digest", "change"),
}
"""What each entry of each list has, all of it required."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Guidelines:
    """One version of the rules; `definitions` has one sentence per label, in the order of `LABELS`."""

    version: str
    definitions: Mapping[str, str]
    decisions: tuple[Entry, ...]
    """Questions in the order in which they are asked; `yes` and `no` say what follows."""
    rules: tuple[Entry, ...]
    ambiguous: tuple[Entry, ...]
    """Queries of several meanings: the readings that count, and those that do not."""
    examples: tuple[Entry, ...]
    """Gold examples: pairs that nobody argues about."""
    borderline: tuple[Entry, ...]
    """Pairs that people argued about: what was decided, when and why."""
    history: tuple[Entry, ...]
    """Every version up to this one, with the digest of its text and what changed."""

    def brief(self) -> str:
        """Render the four definitions alone, for models too small to use more."""
        return "\n".join(f"{label}: {self.definitions[label]}." for label in LABELS)

    def full(self) -> str:
        """Render all that annotators read except the history, as plain text for the prompt."""
        tree = [
            f"{number}. {step['question']} yes: {step['yes']}. no: {step['no']}."
            for number, step in enumerate(self.decisions, start=1)
        ]
        rules = [f"{rule['name']}: {rule['text']}" for rule in self.rules]
        readings = [
            f"{entry['query']}: counts: {'; '.join(entry['counts'])}. does not count: "
            f"{'; '.join(entry['does_not_count'])}."
            for entry in self.ambiguous
        ]
        decided = [{**entry, "label": entry["decision"]} for entry in self.borderline]
        pairs = [f"{e['query']} / {e['product']}: {e['label']}, {e['reason']}" for e in (*self.examples, *decided)]
        return "\n".join([self.brief(), *tree, *rules, *readings, *pairs])


@cache
def load_guidelines(path: Path = GUIDELINES_PATH) -> Guidelines:
    """Read and check a guidelines file.

    Raises:
        ValueError: If something is missing or a label is unknown, naming the entry; or if the text is not the one
            that its version stands for.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    missing = [label for label in LABELS if not content.get("definitions", {}).get(label, "").strip()]
    if missing or not content.get("version", "").strip():
        raise ValueError(
            f"{path.name}: needs a version and a definition for each label; missing: {missing or 'version'}"
        )
    entries = {kind: _read_entries(path, kind, content.get(kind, [])) for kind in _FIELDS}
    _check_labels(path, entries)
    check_version(path.name, content)
    return Guidelines(
        version=content["version"],
        definitions={label: content["definitions"][label] for label in LABELS},
        decisions=entries["decision"],
        rules=entries["rule"],
        ambiguous=entries["ambiguous"],
        examples=entries["example"],
        borderline=entries["borderline"],
        history=entries["history"],
    )


def _read_entries(path: Path, kind: str, entries: list[Entry]) -> tuple[Entry, ...]:
    for number, entry in enumerate(entries, start=1):
        different = sorted({*entry} ^ {*_FIELDS[kind]}) or [name for name, value in entry.items() if value in ("", [])]
        if different:
            raise ValueError(
                f"{path.name}: [[{kind}]] number {number}: expected {', '.join(_FIELDS[kind])}, none blank; "
                f"missing, blank or unknown: {', '.join(different)}"
            )
    return tuple(entries)


def _check_labels(path: Path, entries: Mapping[str, tuple[Entry, ...]]) -> None:
    for kind, field in (("example", "label"), ("borderline", "decision")):
        for number, entry in enumerate(entries[kind], start=1):
            if entry[field] not in LABELS:
                raise ValueError(
                    f"{path.name}: [[{kind}]] number {number}: {field} is {str(entry[field])[:20]!r}, expected one of "
                    f"{', '.join(LABELS)}"
                )
    for number, entry in enumerate(entries["borderline"], start=1):
        if not isinstance(entry["date"], date):
            raise ValueError(f"{path.name}: [[borderline]] number {number}: date: expected a day such as 2026-11-22")
