"""What weights say of their own origin: training.json beside an adapter, and beside a model it was merged into."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TRAINING_FILE = "training.json"
_QUERIES = "training_queries"


def read_origin(folder: Path) -> dict[str, Any]:
    """Read what is known of the training; empty where nothing is."""
    path = folder / TRAINING_FILE
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def learnt_queries(folder: Path) -> frozenset[str] | None:
    """Digests of the queries that weights have learnt from; None where the folder does not say."""
    found = read_origin(folder).get(_QUERIES)
    return None if found is None else frozenset(found)


def learnt_together(base: Path, adapter: Path | None) -> frozenset[str] | None:
    """What an adapter and, if it says so, its base have learnt from; a base alone has to say it itself."""
    own = learnt_queries(base)
    if adapter is None:
        return own
    added = learnt_queries(adapter)
    return None if added is None else added | (own or frozenset())


def write_learnt_queries(queries: Iterable[str], folder: Path) -> None:
    """Leave the digests beside a merged model, so that who trains or publishes it further knows them."""
    (folder / TRAINING_FILE).write_text(json.dumps({_QUERIES: sorted(queries)}) + "\n", encoding="utf-8")
