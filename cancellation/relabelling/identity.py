"""The same seller under one id: archives have keyed digests where labelled sets have ids.

Which of the two an id is, it does not say. With the endpoint's key the digest of every id is known, and where that
stands among the ids it is the same person: the id of the labelled set stays, so that a set's test sellers stay theirs.
People of whom only a digest is known keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cancellation.events.event import Event
from cancellation.relabelling.cases import Case, LabelledRow
from cancellation.serving.records.people import PersonKey, one_id


def one_identity(
    rows: Sequence[LabelledRow], cases: Sequence[Case], key: PersonKey | None
) -> tuple[list[LabelledRow], list[Case]]:
    """Give labelled rows and cases in which every seller, buyer and order has one id.

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
