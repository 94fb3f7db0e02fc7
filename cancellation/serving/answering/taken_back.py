"""Penalties that were taken back on appeal: the same event, when it is judged again, does not get another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cancellation.serving.answering.recording import Lane
from cancellation.serving.answering.request import NotRecorded
from cancellation.serving.appeals.case import OVERTURNED
from cancellation.serving.appeals.store import AppealStore
from cancellation.serving.observability.metrics import Metrics


class TakenBack:
    """Looks among the cases. Its store's database is another's to close."""

    def __init__(self, store: AppealStore, metrics: Metrics) -> None:
        self._store = store
        # Not with those who read and record decisions: penalties are few, and must not wait for the rest.
        self._lane = Lane("taken-back", 1, store.database.name, metrics, store.can_read)

    @property
    def fails(self) -> bool:
        """Whether the cases cannot be read, so that no penalty is given."""
        return self._lane.failing

    async def __call__(self, event_id: str, people: Mapping[str, str], until: float) -> bool:
        """Tell whether a person took back what followed from an event about these people, by their digests.

        Decisions are remembered for `retention_hours`, cases for good: an event that comes again after that is judged
        anew. Another event that has come by the same id is about another order.

        Waits until an instant of `time.monotonic`, and a second at most.

        Raises:
            NotRecorded: If the cases cannot be read: then nobody knows.
        """
        try:
            cases = await self._lane.do(partial(self._store.cases_of, event_id), until)
        except OSError:
            raise NotRecorded("the appeals cannot be read, so a penalty is not given; try again") from None
        return any(case.state == OVERTURNED and case.decision["people"] == people for case in cases)

    async def try_again(self) -> None:
        """See whether what failed works again; to be called every second or so."""
        await self._lane.try_again()

    def close(self) -> None:
        """Finish what is under way."""
        self._lane.close()
