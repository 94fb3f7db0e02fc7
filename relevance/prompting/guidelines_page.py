"""The guidelines as annotators see them: a page of their own, and a fragment for inside an annotation tool."""

from __future__ import annotations

from functools import cache

from jinja2 import Template

from cluster.pages.templates import load_page
from relevance.labels import LABELS
from relevance.prompting.guidelines import Guidelines


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
    return load_page("relevance/prompting/guidelines_page.html")
