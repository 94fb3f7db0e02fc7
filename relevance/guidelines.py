"""The annotators' rules: versioned, rendered for people and for the prompt."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from relevance.labels import LABELS

GUIDELINES_PATH = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Guidelines:
    """One version of the rules; `definitions` has one sentence per label, in the order of `LABELS`."""

    version: str
    definitions: dict[str, str]
    decisions: tuple[dict[str, str], ...]
    rules: dict[str, str]

    def brief(self) -> str:
        """Render the four definitions alone, for models too small to use more."""
        return "\n".join(f"{label}: {self.definitions[label]}." for label in LABELS)

    def full(self) -> str:
        """Render definitions, decision tree and rules, as annotators read them."""
        tree = [
            f"{number}. {step['question']} yes: {step['yes']}. no: {step['no']}."
            for number, step in enumerate(self.decisions, start=1)
        ]
        return "\n".join([self.brief(), *tree, *self.rules.values()])


@cache
def load_guidelines(path: Path = GUIDELINES_PATH) -> Guidelines:
    """Read and check a guidelines file.

    Raises:
        ValueError: If a definition of one of the four labels is missing or the version is blank.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    missing = [label for label in LABELS if not content.get("definitions", {}).get(label, "").strip()]
    if missing or not content.get("version", "").strip():
        raise ValueError(
            f"{path.name}: needs a version and a definition for each label; missing: {missing or 'version'}"
        )
    return Guidelines(
        version=content["version"],
        definitions={label: content["definitions"][label] for label in LABELS},
        decisions=tuple(content.get("decision", ())),
        rules=content.get("rules", {}),
    )
