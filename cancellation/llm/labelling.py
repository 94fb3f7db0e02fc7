"""A shard of events to labelled events: every row comes out, with verdict, reasoning and cost, or with its error.

Requests are written down around their sending (`cluster/endpoint/ledger.py`), so that what an actor had got before it
died is found by the next one, and nothing is asked twice that may have been paid.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from cancellation.decision.policy import Policy
from cancellation.decision.verdicts import verdict_probabilities
from cancellation.events.event import Event
from cancellation.events.factors import VERDICTS
from cancellation.events.files import EventRow, error_kind
from cancellation.events.table import EVENT_SCHEMA, event_row
from cancellation.llm.backend import Backend, BackendError, OutOfBudgetError, Usage
from cancellation.llm.judging import Judged, JudgingSettings, judge
from cancellation.llm.prompt import Prompt, PromptSettings, build_prompt
from cancellation.llm.retrieval import ExampleIndex, RetrievalSettings
from cancellation.model.learnt import are_learnt
from cluster.endpoint.ledger import RequestLedger, UnsureRequestError
from cluster.settings import Settings

LABELLED_SCHEMA = pa.schema(
    [
        *(pa.field(one.name, one.type) for one in EVENT_SCHEMA),
        pa.field("label", pa.string()),
        pa.field("label_factors", pa.list_(pa.string())),
        pa.field("label_weight", pa.float32()),
        pa.field("probability", pa.float32()),
        pa.field("logits", pa.list_(pa.float32())),
        pa.field("first_verdict", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("cached_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("cost_estimated", pa.bool_()),
        pa.field("seconds_to_verdict", pa.float32()),
        pa.field("seconds", pa.float32()),
        pa.field("given_label", pa.string()),
        pa.field("learnt", pa.bool_()),
        pa.field("place", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""The event; the model's label with what training takes of it; its probability and logits, null where the server gave
no distribution; the verdict before reflection; what it took; the label that the input had; whether the model's adapter
learnt from the event, null where nobody knows; where the row comes from; and what is wrong with it, label and event
then being null and the cost what was paid in vain."""

_IN_A_ROW = 10
"""Failed requests behind one another after which it is the server, not the events."""


class OutageError(RuntimeError):
    """The backend gives no answers any more; what is done stays done."""


class LabellingSettings(Settings):
    """How events are labelled by a language model."""

    prompt: PromptSettings = PromptSettings()
    judging: JudgingSettings = JudgingSettings()
    retrieval: RetrievalSettings = RetrievalSettings()

    tries: int = Field(default=2, ge=1)
    """How often a run asks about an event whose answer broke off or was not of the form. Each may be paid."""

    label_weight: float = Field(default=0.3, gt=0, le=1)
    """What a label counts in training beside one of people, times its own probability where the server gives one."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides the verdict's log-probabilities: what `jobs.cancellation_calibrate model=null` found for this model."""

    ask_again: bool = False
    """Ask once more about events that may have been paid without an answer: their request was on its way when its
    process died (a local model is always asked again then), or earlier runs' answers broke off."""


@dataclass
class LabellingCounts:
    """What came of some rows; sums of shards are the figures of the whole."""

    read: int = 0
    labelled: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    confusion: Counter[str] = field(default_factory=Counter)
    """`given>label`, over rows that had a label."""
    learnt: int = 0
    """Labelled, of which the model's adapter learnt: they prove nothing of it."""
    without_probability: int = 0
    """Labelled, of which the server gave no distribution."""
    usage: Usage = field(default_factory=Usage)
    passed_over: list[str] = field(default_factory=list)
    """Files of the input that are no events by their names."""

    def as_dict(self) -> dict[str, Any]:
        """Give the counts as JSON types."""
        plain = {"read": self.read, "labelled": self.labelled, "failed": self.failed, "usage": asdict(self.usage)}
        plain |= {"without_probability": self.without_probability, "learnt": self.learnt}
        plain |= {"passed_over": self.passed_over} if self.passed_over else {}
        return plain | {name: dict(getattr(self, name)) for name in ("errors", "labels", "confusion")}

    @staticmethod
    def sum(parts: Iterable[Mapping[str, Any]]) -> LabellingCounts:
        """Add up parts in the form of `as_dict`."""
        total = LabellingCounts()
        for part in parts:
            for name in ("read", "labelled", "failed"):
                setattr(total, name, getattr(total, name) + part[name])
            for name in ("errors", "labels", "confusion"):
                getattr(total, name).update(part[name])
            total.usage += Usage(**part["usage"])
            total.passed_over += part.get("passed_over", ())
            for name in ("without_probability", "learnt"):  # older manifests have no such counts
                setattr(total, name, getattr(total, name) + part.get(name, 0))
        return total


class Labeller:
    """A backend with what is asked of it."""

    def __init__(
        self, backend: Backend, settings: LabellingSettings, policy: Policy, index: ExampleIndex | None = None
    ) -> None:
        self.backend, self.settings, self._policy, self._index = backend, settings, policy, index

    def seeded(self, seed: int) -> Labeller:
        """Give one that asks the same with another seed of the draw."""
        judging = self.settings.judging
        sampling = judging.sampling.model_copy(update={"seed": seed})
        judging = judging.model_copy(update={"sampling": sampling})
        settings = self.settings.model_copy(update={"judging": judging})
        return Labeller(self.backend, settings, self._policy, self._index)

    def prompt(self, event: Event) -> Prompt:
        """Write what is asked about an event."""
        classes = self._policy.market(event.market).classes
        shown: Sequence[Any] = ()
        if self._index is not None:
            retrieval = self.settings.retrieval
            find = self._index.typical if retrieval.chosen_for == "market" else self._index.nearest
            found = find(event, retrieval.num_examples)
            shown = [example for example in found if VERDICTS.index(example.label) < classes]
        return build_prompt(event, self.settings.prompt, classes=classes, examples=shown)

    def label(self, event: Event) -> dict[str, Any]:
        """Label an event; the answer's columns of a row.

        Raises:
            BackendError: If the request was refused, or none of the tries gave a usable answer; with what they took.
            OutOfBudgetError: If the budget does not hold the next try; with what those before took.
        """
        started = time.monotonic()
        prompt, spent = self.prompt(event), Usage()
        # Examples are embedded and searched for before anything is asked, and what broke off was waited for: who waits
        # for a verdict waits for that too.
        before = time.monotonic() - started
        for left in range(self.settings.tries - 1, -1, -1):
            try:
                judged = judge(self.backend, prompt, self.settings.judging)
                break
            except BackendError as error:
                spent, before = spent + error.usage, before + error.seconds
                if error.refused or not left:
                    raise BackendError(str(error), spent, refused=error.refused) from None
            except OutOfBudgetError as error:
                raise OutOfBudgetError(str(error), spent + error.usage) from None
        found = self._columns(judged, spent + judged.usage, prompt.form.classes)
        return found | {name: found[name] + before for name in ("seconds_to_verdict", "seconds")}

    def _columns(self, judged: Judged, usage: Usage, classes: int) -> dict[str, Any]:
        answer, shares = judged.answer, None
        if (logits := answer.log_probabilities) is not None:
            shares = verdict_probabilities(logits, temperature=self.settings.temperature, classes=classes)
        return {
            "label": answer.verdict,
            "label_factors": list(answer.factors) if self.settings.judging.after_verdict == "read" else None,
            "label_weight": self.settings.label_weight * (shares[answer.verdict] if shares else 1.0),
            "probability": shares["induced"] if shares else None,
            "logits": list(logits) if logits else None,
            "first_verdict": judged.first_verdict,
            "reasoning": answer.reasoning,
            "model_version": self.backend.version,
            "seconds_to_verdict": judged.seconds_to_verdict,
            "seconds": judged.seconds,
            **_usage_columns(usage),
        }


def label_rows(
    rows: Sequence[EventRow],
    labeller: Labeller,
    ledger: RequestLedger,
    *,
    parallel: int,
    progress: Callable[[Usage], None] = lambda usage: None,
    outage: Outage | None = None,
    learnt: np.ndarray | None = None,
) -> pa.Table:
    """Label events; one row out for every row in, in its order (see `LABELLED_SCHEMA`).

    An `outage` that several calls share notices a backend that fails across them. `learnt` are the events that the
    model's adapter learnt from (see `model.learnt`).

    Raises:
        BudgetSpentError: If the budget holds no further request.
        OutageError: If many requests behind one another failed.
    """
    outage = outage or Outage()

    def one(number: int) -> dict[str, Any]:
        row = rows[number]
        record = {"place": row.place, "given_label": row.label, "error": row.error}
        if row.event is None:
            return record
        found = ask_once(row.event, f"{number:06d}", labeller, ledger, outage)
        progress(Usage(found["prompt_tokens"], found["cached_tokens"], found["completion_tokens"], found["cost_usd"]))
        if learnt is not None:
            record["learnt"] = bool(are_learnt([row.event], learnt)[0])
        return {**record, **(event_row(row.event) if found.get("error") is None else {}), **found}

    with ThreadPoolExecutor(parallel) as pool:
        # Events of one policy behind one another: they share the longest beginning.
        order = sorted(range(len(rows)), key=lambda n: (event.market if (event := rows[n].event) else "", n))
        tasks = {number: pool.submit(one, number) for number in order}
        try:
            records = [tasks[number].result() for number in range(len(rows))]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return pa.Table.from_pylist(records, schema=LABELLED_SCHEMA)


def ask_once(event: Event, key: str, labeller: Labeller, ledger: RequestLedger, outage: Outage) -> dict[str, Any]:
    """Label an event unless the ledger has its answer; the answer's columns, or `error` and what it took.

    Raises:
        BudgetSpentError: If the budget holds no further request.
        OutageError: If many requests behind one another failed.
    """
    known = ledger.records.get(key)
    if known and known.get("error") and labeller.settings.ask_again:
        ledger.abandon(key, paid=known)
    before = _usage_of(ledger.paid.get(key, {}))
    try:
        if (known := ledger.begin(key)) is not None:
            return known
    except UnsureRequestError as error:
        return {"error": f"request: {error}", **_usage_columns(before)}

    def leave(usage: Usage) -> None:
        """Let another run ask, which then knows what was paid in vain."""
        ledger.abandon(key, paid=_usage_columns(usage) if usage != Usage() else None)

    try:
        outage.refuse()
        found = labeller.label(event)
    except BackendError as error:
        outage.failed()
        found = {"error": str(error), **_usage_columns(before + error.usage)}
        if error.refused:
            leave(before + error.usage)
            return found
    except OutOfBudgetError as error:
        leave(before + error.usage)
        raise
    except RuntimeError:
        leave(before)  # no server: it was not sent
        raise
    else:
        outage.over()
        found |= _usage_columns(before + _usage_of(found))
    ledger.finish(key, found)
    return found


class Outage:
    """Notices a backend that answers nothing any more."""

    def __init__(self) -> None:
        self._failed, self._lock = 0, threading.Lock()

    def failed(self) -> None:
        with self._lock:
            self._failed += 1

    def over(self) -> None:
        with self._lock:
            self._failed = 0

    def refuse(self) -> None:
        with self._lock:
            if self._failed >= _IN_A_ROW:
                raise OutageError(
                    f"the last {self._failed} requests all failed, so it is not the events: look at the server, and "
                    "run again; what is labelled stays labelled"
                )


def failed_rows(rows: Sequence[EventRow], reason: str) -> pa.Table:
    """Write rows out that could not be labelled: each with its own error, or the common reason."""
    records = [{"place": row.place, "given_label": row.label, "error": row.error or reason} for row in rows]
    return pa.Table.from_pylist(records, schema=LABELLED_SCHEMA)


def count_rows(table: pa.Table) -> LabellingCounts:
    """Count a table of `LABELLED_SCHEMA`."""
    counts = LabellingCounts(read=len(table))
    columns = ("label", "given_label", "learnt", "probability", "error", "cost_estimated", *_USAGE)
    for row in table.select(columns).to_pylist():
        counts.usage += _usage_of(row)
        if row["error"] is not None:
            counts.failed += 1
            counts.errors[error_kind(row["error"])] += 1
            continue
        counts.labelled += 1
        counts.labels[row["label"]] += 1
        counts.learnt += bool(row["learnt"])
        counts.without_probability += row["probability"] is None
        if row["given_label"] is not None:
            counts.confusion[f"{row['given_label']}>{row['label']}"] += 1
    return counts


_USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")


def _usage_of(record: Mapping[str, Any]) -> Usage:
    taken = {name: record.get(name) or 0 for name in _USAGE}
    return Usage(**taken, estimated=bool(record.get("cost_estimated")))


def _usage_columns(usage: Usage) -> dict[str, Any]:
    return {**{name: getattr(usage, name) for name in _USAGE}, "cost_estimated": usage.estimated}
