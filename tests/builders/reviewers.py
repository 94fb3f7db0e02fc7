"""People who label a round of relabelling, as Label Studio exports what they did."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cancellation.events.factors import VERDICTS
from cancellation.events.labelled import LabelledEvent

AT = "2026-11-28T10:00:00.000000Z"


def chosen(label: str, factors: tuple[str, ...] = (), why: str = "the lines say so") -> list[dict[str, Any]]:
    """What Label Studio exports of one answer."""
    results = [{"from_name": "category", "type": "choices", "value": {"choices": [label]}}]
    if factors:
        results.append({"from_name": "factors", "type": "choices", "value": {"choices": list(factors)}})
    return [*results, {"from_name": "reasoning", "type": "textarea", "value": {"text": [why]}}]


def answer_round(
    folder: Path, truth: Mapping[str, LabelledEvent], exports: Path, *, wrong: float = 0.0, seed: int = 0
) -> int:
    """Label every task of a round as it truly was, but for a share; give the number of tasks.

    Args:
        folder: Of the round.
        truth: By event.
        exports: Folder for a project's export of each person.
        wrong: Share of the answers that are another category, as tired people give them.
        seed: Of the mistakes.
    """
    rng, count = random.Random(seed), 0
    exports.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((folder / "label_studio").glob("*.json")), 1):
        exported = []
        for task in json.loads(path.read_text()):
            event = truth[task["data"]["event_id"]]
            label, factors = event.true_label, event.factors[:3]
            if rng.random() < wrong:
                label, factors = rng.choice([other for other in VERDICTS if other != label]), ()
            annotation = {"completed_by": number, "updated_at": AT, "result": chosen(label, factors)}
            exported.append({**task, "annotations": [annotation]})
            count += 1
        (exports / path.name).write_text(json.dumps(exported))
    return count
