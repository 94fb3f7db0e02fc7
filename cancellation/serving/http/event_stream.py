"""An answer in parts, as server-sent events: each is sent when it is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from cancellation.serving.http.asgi import Receive, Send

Named = tuple[str, dict[str, Any]]
_BEAT_SECONDS = 1.0
_BEAT = {"type": "http.response.body", "body": b":\n\n", "more_body": True}
"""A comment. A proxy notices that a caller has gone away only when it writes to them."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep parts back
]


class EventStream:
    """A 200 whose first event is known, and whose others come."""

    status = 200

    def __init__(self, first: Named, others: AsyncGenerator[Named]) -> None:
        self._first, self._others = first, others

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send the events; whatever ends the sending ends their making."""
        async with aclosing(self._others), aclosing(_with_beats(self._others)) as events:
            await send({"type": "http.response.start", "status": self.status, "headers": _HEADERS})
            await send(_part(self._first))
            async for event in events:
                await send(_BEAT if event is None else _part(event))
            await send({"type": "http.response.body", "body": b""})


async def _with_beats(events: AsyncGenerator[Named]) -> AsyncGenerator[Named | None]:
    """Give events as they come, and None while none does."""
    coming: asyncio.Task[Named] = asyncio.ensure_future(anext(events))
    try:
        while True:
            if not (await asyncio.wait((coming,), timeout=_BEAT_SECONDS))[0]:
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            yield event
            coming = asyncio.ensure_future(anext(events))
    finally:
        coming.cancel()
        await asyncio.wait((coming,))


async def gone_away(receive: Receive) -> None:
    """Return when the caller of a request whose body is read has gone away."""
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


def _part(event: Named) -> dict[str, Any]:
    name, data = event
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    body = f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
    return {"type": "http.response.body", "body": body, "more_body": True}
