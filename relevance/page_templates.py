"""How the pages for people are rendered: one set of templates, one look (`page.css`), one way of escaping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

_FOLDER = Path(__file__).parent


def load_page(name: str, **filters: Callable[..., str]) -> Template:
    """Load a template by its path in here (`scoring/report.html`); every value is escaped, a missing one is an error.

    Escaping is switched on by hand: jinja2 leaves it off, and a reason, a market or a person may have any name.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
