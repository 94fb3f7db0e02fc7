"""The cases of a round: what was asked and why, for the lead alone, as a table beside the tasks."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.events.event import Event, event_mapping, parse_event
from cancellation.events.examples import Example, example_files, read_labelled_rows
from cancellation.serving.records.people import PersonKey, one_id
from cluster import storage
from cluster.commit import SUCCESS, read_job_manifest

Why = Literal["contradicted", "test", "rejected", "first"]
"""contradicted: judges hold another verdict for likelier; test: drawn by chance, whatever anybody said; rejected: a
verdict in service that people rejected; first: of a market without labels."""

CASES = "cases.parquet"
FORGOTTEN = "forgotten"
"""In a round and in a report: cases, or labels, that were removed since; every other figure counts them still."""
HISTORY = "label_history"
"""Column of a labelled row: every label it had, oldest first, each with who, when and why."""

_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
        pa.field("why", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("quality", pa.float64()),
        pa.field("contradicted", pa.int64()),
        pa.field("opinions", pa.map_(pa.string(), pa.list_(pa.float64()))),
        pa.field("sampling_weight", pa.float64()),
        pa.field("labelled_by", pa.string()),
        pa.field("event", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Case:
    """One event that people are asked about."""

    event: Event
    why: Why
    rank: int
    """Among those of its kind, from 1: the most doubtful first; of tests and first labels by chance."""
    label: str | None
    """As it was; of a rejected verdict the verdict."""
    quality: float | None = None
    """Of the label, in [0, 1]."""
    contradicted: int | None = None
    """Judges that hold another verdict for likelier."""
    opinions: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Probabilities of the verdicts, by judge."""
    sampling_weight: float | None = None
    labelled_by: str | None = None
    """Who gave `label`, as far as it is known."""


@dataclass(frozen=True)
class LabelledRow:
    """An example as it lies in a labelled set, with what else its row says."""

    example: Example
    others: Mapping[str, Any]

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """Labels it had before, its own among them; empty where nobody looked twice."""
        return tuple(self.others.get(HISTORY) or ())


def read_labelled(url: str) -> list[LabelledRow]:
    """Read a labelled set.

    Raises:
        ValueError: If a row is refused, or an event is labelled twice: files and lines are named, or the event.
    """
    rows = [LabelledRow(*row) for file in example_files(url) for row in read_labelled_rows(file)]
    seen: set[str] = set()
    for row in rows:
        if (name := row.example.event.event_id) in seen:
            raise ValueError(f"{url}: event {name} is labelled twice; keep one of its rows")
        seen.add(name)
    return rows


def one_identity(
    rows: Sequence[LabelledRow], cases: Sequence[Case], key: PersonKey | None
) -> tuple[list[LabelledRow], list[Case]]:
    """Give labelled rows and cases in which every seller, buyer and order has one id.

    An archive has keyed digests where a labelled set has ids, and which of the two an id is, it does not say. With the
    endpoint's key the digest of every id is known; where that stands among the ids it is the same person. The id stays,
    so that a set's test sellers stay theirs. People of whom only a digest is known keep it.

    Raises:
        ValueError: If some ids are digests, others are not, and there is no key to bring them together.
    """
    events = [*(row.example.event for row in rows), *(case.event for case in cases)]
    sellers = one_id("seller", [event.seller_id for event in events], key)
    buyers = one_id("buyer", [event.buyer_id for event in events], key)
    others = [order.order_id for event in events for order in event.concurrent_orders]
    orders = one_id("order", [*(event.order_id for event in events), *others], key)

    def told(event: Event) -> Event:
        return replace(
            event,
            seller_id=sellers.get(event.seller_id, event.seller_id),
            buyer_id=buyers.get(event.buyer_id, event.buyer_id),
            order_id=orders.get(event.order_id, event.order_id),
            concurrent_orders=tuple(
                replace(one, order_id=orders.get(one.order_id, one.order_id)) for one in event.concurrent_orders
            ),
        )

    return (
        [replace(row, example=replace(row.example, event=told(row.example.event))) for row in rows],
        [replace(case, event=told(case.event)) for case in cases],
    )


def write_cases(cases: Sequence[Case]) -> bytes:
    """Write cases as parquet."""
    rows = [
        {
            **{name: getattr(case, name) for name in _SCHEMA.names if name not in ("event_id", "market", "event")},
            "event_id": case.event.event_id,
            "market": case.event.market,
            "opinions": {name: list(map(float, opinion)) for name, opinion in case.opinions.items()},
            "event": json.dumps(event_mapping(case.event), ensure_ascii=False),
        }
        for case in cases
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def read_cases(url: str) -> tuple[dict[str, Any], dict[str, Case]]:
    """Read a round back: its manifest, and its cases by event.

    Raises:
        ValueError: If the folder holds no finished round.
    """
    manifest = read_job_manifest(url)
    if manifest is None or not storage.exists(storage.join_url(url, CASES)):
        raise ValueError(f"{url}: expected a finished round ({SUCCESS}, {CASES}), found none; ask first")
    table = pq.read_table(io.BytesIO(storage.read_bytes(storage.join_url(url, CASES))))
    cases = [
        Case(
            event=parse_event(row.pop("event")),
            opinions=dict(row.pop("opinions") or ()),
            **{name: value for name, value in row.items() if name not in ("event_id", "market")},
        )
        for row in table.to_pylist()
    ]
    return manifest, {case.event.event_id: case for case in cases}
