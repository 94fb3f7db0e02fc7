"""A decision that somebody asks about: of late from what gateways share, of long ago from the archive."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pyarrow.compute as pc

from cancellation.decision.policy import THRESHOLDS
from cancellation.decision.verdicts import verdicts_of_table
from cancellation.serving.answering.gateway import Gateway
from cancellation.serving.answering.request import NotRecorded
from cancellation.serving.records.people import ROLES
from cancellation.serving.records.shipped_log import find_rows
from cluster.logs import LastingFault
from cluster.storage import join_url

logger = logging.getLogger(__name__)

_GRAVITY = {"investigate": 1, "penalty": 2}


class PastDecisions:
    """Finds decision records, their factors with evidence where the archive has it or the model that decided serves."""

    def __init__(self, gateway: Gateway, archive_url: str | None, patience_seconds: float) -> None:
        self._gateway = gateway
        self._archive_url = archive_url
        self._patience_seconds = patience_seconds
        self._fault = LastingFault(logger, f"archive {archive_url}")
        # One at a time: a day of the archive is read file by file, with memory for a few of them.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="archive-reader")

    async def find(self, event_id: str, *, market: str | None, day: date | None) -> dict[str, Any] | None:
        """Find the decision on an event; in the archive only with its market and the day (UTC) it was made on.

        Raises:
            NotRecorded: If it may be among the recent ones, which cannot be told just now.
            OSError: If the archive cannot be read, or not in time.
        """
        recent, untold = None, None
        try:
            recent = await self._gateway.explained(event_id)
        except NotRecorded as error:
            untold = error
        if recent is None and self._archive_url is not None and market is not None and day is not None:
            recent = await self._find_in_archive(self._archive_url, event_id, market, day)
        if recent is None and untold is not None:
            raise untold
        return recent

    async def _find_in_archive(self, url: str, event_id: str, market: str, day: date) -> dict[str, Any] | None:
        where = url, event_id, market, day
        try:
            # Who no longer waits is not looked for any more, unless that has begun.
            async with asyncio.timeout(self._patience_seconds):
                archived, explained = await asyncio.get_running_loop().run_in_executor(self._reader, _archived, *where)
        except TimeoutError:
            self._fault.failed(f"archive {url}: no answer in {self._patience_seconds:g} s; look at the storage")
            raise
        except OSError as error:
            self._fault.failed(str(error))
            raise
        self._fault.works()
        if archived is None or explained or archived["verdict"]["model_version"] != self._gateway.model.version:
            return archived
        return await self._gateway.with_evidence(archived) or archived

    def close(self) -> None:
        """Drop what waits; nothing is lost with what is read."""
        self._reader.shutdown(wait=False, cancel_futures=True)


def _archived(archive_url: str, event_id: str, market: str, day: date) -> tuple[dict[str, Any] | None, bool]:
    """Read a decision as the record that was logged, and whether its evidence is there (`serving/evidence.py`)."""
    try:
        found, made = (
            find_rows(join_url(archive_url, folder), event_id, market=market, day=day)
            for folder in ("decisions", "evidence")
        )
    except Exception as error:  # an edge: storage fails in the classes of four libraries
        said = f"archive {archive_url}: cannot be read ({type(error).__name__}); look at the storage"
        raise OSError(said) from None
    if not found.num_rows:
        return None, False
    # Of several on one event and day, such as the rules' while the database was away, who asks means what followed.
    actions = found["action"].to_pylist()
    place = max(range(len(actions)), key=lambda one: _GRAVITY.get(actions[one], 0))
    made = made.filter(pc.equal(made["received_at"], found["received_at"][place]))
    table = (made if made.num_rows else found.slice(place)).slice(0, 1)
    row, verdict = table.to_pylist()[0], verdicts_of_table(table)[0]
    decision = {
        **{name: row[name] for name in ("event_id", "market", "features", "feature_digest", "state", "policy_version")},
        "received_at": row["received_at"].timestamp(),
        "verdict": verdict,
        "thresholds": {name: row[f"{name}_threshold"] for name in THRESHOLDS},
        "event": None if row["event"] is None else json.loads(row["event"]),
        "people": _people(row),
        "fallback_reason": row["fallback_reason"],
    }
    return decision, made.num_rows > 0


def _people(row: Mapping[str, Any]) -> dict[str, str | None]:
    return {role: row[f"{role}_digest"] for role in ROLES}
