"""What was asked and answered, written down around every request, so that no crash makes anybody pay twice.

Two small files for each request: one before it is sent, one with its answer. A request that has the first and not the
second was on its way when its process died. Nobody can know whether it was paid, so it is not sent again unless that
is asked for. A third file, where there is one, says what was paid in vain for a request that may be sent again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from cluster import storage

_BEGUN, _DONE, _PAID = ".begun", ".json", ".paid"


class UnsureRequestError(RuntimeError):
    """A request that an earlier process had sent and not written down the answer of."""


class RequestLedger:
    """The requests of one unit of work, in a folder on any storage."""

    def __init__(self, url: str, *, ask_again: bool = False) -> None:
        """Read what earlier processes wrote.

        Args:
            url: A folder of this unit's own.
            ask_again: Send requests again of which nobody knows whether they were answered.
        """
        self._url, self._ask_again, self._mark = url, ask_again, uuid.uuid4().hex.encode()
        self.records = _read(url, _DONE)
        """Finished requests, by key."""
        self.paid = {key: record for key, record in _read(url, _PAID).items() if key not in self.records}
        """What was paid in vain so far for requests that are not finished, by key."""
        self._begun = {_key(file.url) for file in storage.list_files(url, suffix=_BEGUN)}

    @property
    def spent_usd(self) -> float:
        """What all requests are known to have cost, those that were paid in vain among them."""
        return sum(record.get("cost_usd") or 0.0 for record in (*self.records.values(), *self.paid.values()))

    @property
    def num_unsure(self) -> int:
        """Requests that were on their way when their process died."""
        return len(self._begun - self.records.keys())

    def begin(self, key: str) -> dict[str, Any] | None:
        """Note that a request is about to be sent; give its record instead if it was answered before.

        Raises:
            UnsureRequestError: If it was sent before, and nobody knows what came of it.
        """
        if key in self.records:
            return self.records[key]
        first = storage.create_exclusive(storage.join_url(self._url, key + _BEGUN), self._mark)
        if not first and not self._ask_again:
            raise UnsureRequestError(
                "was on its way when its process died, so it may have been paid: ask_again=true asks once more"
            )
        return None

    def finish(self, key: str, record: Mapping[str, Any]) -> None:
        """Write the answer down, with all that was paid for it."""
        self._write(key + _DONE, record)
        self.records[key] = dict(record)
        self.paid.pop(key, None)

    def abandon(self, key: str, *, paid: Mapping[str, Any] | None = None) -> None:
        """Note that a request was not sent after all, or surely not paid, so that another process may send it.

        `paid` is what was paid in vain until then. It is written down first: a process that dies in between leaves
        the request finished, or unsure, never free.
        """
        if paid is not None:
            self._write(key + _PAID, paid)
            self.paid[key] = dict(paid)
        storage.remove(storage.join_url(self._url, key + _BEGUN))
        if self.records.pop(key, None) is not None:
            storage.remove(storage.join_url(self._url, key + _DONE))

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        storage.write_bytes(storage.join_url(self._url, name), json.dumps(record).encode())


def _read(url: str, suffix: str) -> dict[str, dict[str, Any]]:
    files = storage.list_files(url, suffix=suffix)
    contents = storage.read_ranges([file.url for file in files], [0] * len(files), [f.size_bytes for f in files])
    return {_key(file.url): json.loads(content) for file, content in zip(files, contents, strict=True)}


def _key(url: str) -> str:
    return url.rpartition("/")[2].rpartition(".")[0]
