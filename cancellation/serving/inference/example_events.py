"""Events that a replica tries itself on before anybody asks, and that its OpenAPI page shows: no simulator is at hand.

The first of `example_events.json` was written by hand. The others were drawn once from the simulation (split `all`,
seed 11, indices 0, 15, 31, 34, 39, 43 and 45): seven markets, one without a chat, three that fill the model's window.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def example_events() -> list[dict[str, Any]]:
    """Read them in the contract's form; the first is the one to show."""
    text = (resources.files(__package__) / "example_events.json").read_text(encoding="utf-8")
    events: list[dict[str, Any]] = json.loads(text)
    return events
