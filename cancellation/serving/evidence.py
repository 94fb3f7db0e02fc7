"""The evidence of penalties: made by a batch job while model and event are there, not when somebody appeals.

The decision with evidence goes to the archive's `evidence/` folder, in the form of the decision log: the verdict is
the one that was answered, each of its decision factors with the place in the event, or the features, that it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pyarrow.compute as pc

from cancellation.events.event import parse_event
from cancellation.model.verdict_model import VerdictModel
from cancellation.scoring.explanations import RecordedFeatures, explain_verdict
from cancellation.serving.archive_batches import Recorded, find_due, record_of, write_records

FOLDER = "evidence"


@dataclass(frozen=True, slots=True)
class EvidenceMade:
    """What came of it."""

    explained: int
    done_before: int
    other_model: int
    """Penalties by a model other than the one that is here: run the job with that one."""
    without_event: int
    """Penalties whose chats were logged by reference: there is nothing to point at."""


def make_evidence(archive_url: str, first: date, last: date, *, model: VerdictModel) -> EvidenceMade:
    """Find the evidence of each penalty of some days (UTC, both included). Safe to repeat: each is explained once."""
    due = find_due(archive_url, FOLDER, first, last, pc.field("action") == "penalty")
    explained = 0
    for batch in due.batches():  # each is kept as soon as it is made: a penalty takes a hundred scores
        own = [decision for decision in batch if decision.verdict["model_version"] == model.version]
        write_records(archive_url, FOLDER, [record_of(decision, _explain(decision, model)) for decision in own])
        explained += len(own)
    return EvidenceMade(explained, due.done_before, due.table.num_rows - explained, due.without_event)


def _explain(decision: Recorded, model: VerdictModel) -> dict[str, object]:
    view = RecordedFeatures(model.encoder, model.temperature, decision.row["features"], model.score)
    return explain_verdict(parse_event(decision.row["event"]), decision.verdict, view)
