"""The labelling procedure: a versioned text that people label by, and a digest of all that they were told."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.llm.prompt import factor_meanings
from cluster.annotation.versions import check_version
from cluster.pages.templates import load_page

PROCEDURE_PATH = Path(__file__).with_suffix(".toml")
MAX_FACTORS = 3
"""Decision factors that a person may name."""


@dataclass(frozen=True)
class Procedure:
    """One version of it."""

    version: str
    digest: str
    """Of what people are told, the factors' meanings among it."""
    task: str
    categories: Mapping[str, str]
    """What each verdict means, in the order of `VERDICTS`."""
    steps: tuple[Mapping[str, str], ...]
    factors: Mapping[str, str]
    """What each code means, in the contract's order."""
    history: tuple[Mapping[str, str], ...]

    def page(self) -> bytes:
        """Render one self-contained page, UTF-8."""
        return self._render(whole=True).encode()

    def fragment(self) -> str:
        """Render the same content to stand inside another page."""
        return self._render(whole=False)

    def _render(self, *, whole: bool) -> str:
        template = load_page("cancellation/relabelling/procedure.html")
        return template.render(procedure=self, most=MAX_FACTORS, whole=whole).strip() + "\n"


@cache
def load_procedure(path: Path = PROCEDURE_PATH) -> Procedure:
    """Read and check a procedure file.

    Raises:
        ValueError: If something is missing, or the text is not the one that its version stands for.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    if missing := [name for name in ("version", "task", "categories", "step") if not content.get(name)]:
        raise ValueError(f"{path.name}: expected {', '.join(missing)}, found none")
    if tuple(content["categories"]) != VERDICTS:
        raise ValueError(f"{path.name} [categories]: expected {', '.join(VERDICTS)}, in this order")
    content["factors"] = factor_meanings()
    digest = check_version(path.name, content)
    return Procedure(
        version=content["version"],
        digest=digest,
        task=content["task"],
        categories=content["categories"],
        steps=tuple(_entry(path, "step", one, ("name", "text")) for one in content["step"]),
        factors={code: content["factors"][code] for code in FACTORS},
        history=tuple(_entry(path, "history", one, ("version", "digest", "change")) for one in content["history"]),
    )


def _entry(path: Path, kind: str, entry: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, str]:
    if {*entry} != {*names} or not all(str(value).strip() for value in entry.values()):
        raise ValueError(f"{path.name}: [[{kind}]]: expected {', '.join(names)}, none blank")
    return entry
