"""The guidelines as annotators see them: a page of their own, and a fragment for inside an annotation tool."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from relevance.guidelines import Guidelines
from relevance.labels import LABELS

_TEMPLATE = Path(__file__).with_name("guidelines_page.html")


def render_guidelines(guidelines: Guidelines) -> bytes:
    """Render one self-contained page, UTF-8."""
    return _render(guidelines, whole=True).encode()


def guidelines_fragment(guidelines: Guidelines) -> str:
    """Render the same content without head, style or script, to stand inside another page."""
    return _render(guidelines, whole=False)


def _render(guidelines: Guidelines, *, whole: bool) -> str:
    return _template().render(guidelines=guidelines, labels=LABELS, whole=whole).strip() + "\n"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
