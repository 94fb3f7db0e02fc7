"""HTTP as the endpoint speaks it: bodies read within limits, answers and refusals as JSON. Plain ASGI.

Written out instead of taken from a framework, because a request has a few milliseconds, and because a body that is
too large has to be refused before anything has read it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from cancellation.serving.settings import LimitSettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DRAIN_BYTES = 2**24
_DRAIN_SECONDS = 2.0
_TOO_SLOW = (
    "expected the body within {pace.body_seconds:g} s and one more for each {pace.body_bytes_per_second} bytes of it, "
    "found it to come more slowly"
)


class Problem(Exception):  # noqa: N818
    """A request that is refused. None of its parts may hold a value from the request's body."""

    def __init__(
        self, status: int, code: str, message: str, *, path: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.path = path
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        """Give the answer's JSON."""
        return {"error": {"code": self.code, "field": self.path, "message": self.message}}


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body may not have been read yet."""

    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    receive: Receive

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Request:
        """Take the request out of an ASGI scope."""
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]):
            # Lines of one name are one list (RFC 9110, 5.3): where one value is expected none of them must win unseen.
            headers = {name: b", ".join(value for one, value in scope["headers"] if one == name) for name in headers}
        return cls(scope["method"], scope["path"], scope.get("query_string", b""), headers, receive)

    def header(self, name: bytes) -> str | None:
        """Give a header's value."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def parameters(self, *names: str) -> dict[str, str]:
        """Give the query's parameters; a misspelt or repeated one must not mean that there was none.

        Raises:
            Problem: 422 if there is one beside `names`, or one several times.
        """
        given = parse_qs(self.query.decode("latin-1"), keep_blank_values=True)
        if given.keys() - set(names):
            raise Problem(422, "invalid", f"expected no query parameter but {', '.join(names)}, found another")
        for name, values in given.items():
            if len(values) > 1:
                raise Problem(422, "invalid", "expected one value, found several", path=name)
        return {name: values[0] for name, values in given.items()}

    async def json_body(self, limit: int, pace: LimitSettings) -> bytes:
        """Read the body of a JSON request, for as long as it keeps pace.

        Raises:
            Problem: 415 if it is of another type, 413 if it is longer than the limit: then it is not kept; 408 if it
                comes more slowly than `pace` allows.
        """
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            await self._drain(int(length))
            raise _too_large(limit)
        kind = self.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        encoding = self.headers.get(b"content-encoding", b"").strip().lower()
        if kind != b"application/json" or encoding not in (b"", b"identity"):
            await self._drain(int(length) if length.isdigit() else 0)
            raise Problem(415, "content_type", "expected Content-Type: application/json without an encoding")
        try:
            async with asyncio.timeout(pace.body_seconds) as patience:
                body = await self._read(limit, pace, patience)
        except TimeoutError:
            # Nobody knows where the next request would begin on this connection.
            raise Problem(408, "too_slow", _TOO_SLOW.format(pace=pace), headers={"Connection": "close"}) from None
        if body is None:
            await self._drain(_DRAIN_BYTES)
            raise _too_large(limit)
        return body

    async def _read(self, limit: int, pace: LimitSettings, patience: asyncio.Timeout) -> bytes | None:
        """Collect the parts, each of which buys time for the next; None if they are too many."""
        parts, size = [], 0
        start = patience.when() or 0.0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "disconnected", "expected a whole body, found its end before")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            patience.reschedule(start + size / pace.body_bytes_per_second)

    async def _drain(self, expected: int) -> None:
        """Let a moderate body run out unread: an answer in the midst of it looks like a broken connection."""
        if expected > _DRAIN_BYTES:
            return
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                seen = 0
                while seen <= _DRAIN_BYTES:
                    message = await self.receive()
                    seen += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; to HEAD without the body whose length it names."""
        headers = [
            (b"content-type", self.content_type.encode()),
            (b"content-length", str(len(self.body)).encode()),
            # A cache between would go on telling of a case, a policy or a machine's health as they were.
            *([] if "Cache-Control" in self.headers else [(b"cache-control", b"no-store")]),
            *((name.lower().encode(), value.encode()) for name, value in self.headers.items()),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(body, status, headers=headers or {})


def _too_large(limit: int) -> Problem:
    return Problem(413, "too_large", f"expected a body of at most {limit} bytes, found a longer one")
