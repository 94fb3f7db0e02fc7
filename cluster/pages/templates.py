"""How the pages for people are rendered: one frame (`page.html`), one look (`page.css`), one way of escaping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

_FRAME = Path(__file__).parent
_PROJECT = _FRAME.parent.parent


def load_page(name: str, **filters: Callable[..., str]) -> Template:
    """Load a template by its path in the project (`relevance/scoring/report.html`).

    The frame's own parts (`page.html`, `page_made.html`) have no folder. Every value is escaped, a missing one is an
    error. Escaping is switched on by hand: jinja2 leaves it off, and a reason, a market or a person may have any name.
    """
    environment = Environment(
        loader=FileSystemLoader([_PROJECT, _FRAME]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
