"""Traffic: simulated events sent at a chosen rate, whatever the endpoint makes of it (an open loop).

Requests start at random instants of the chosen mean rate and never wait for each other; an answer's latency counts
from the instant at which its request was due, so that a sender that falls behind cannot flatter the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from cancellation.events.event import event_mapping
from cancellation.simulation.simulator import SimulationSettings, simulate_event

_PLACEHOLDER = "#event-id#"
_MAX_CONNECTIONS = 512
_GIVE_UP_SECONDS = 90.0
"""An answer that takes longer is a failure: the endpoint itself ends its requests before."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one request. `status` 0 is a connection that failed; latency in milliseconds."""

    event_id: str
    due_at: float
    latency_ms: float
    status: int
    body: bytes
    market: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A simulated event as JSON, with room for an id of its own."""

    market: str
    before: bytes
    after: bytes

    def body(self, event_id: str) -> bytes:
        """Give the event under an id."""
        return self.before + event_id.encode() + self.after


def draw_samples(count: int, *, seed: int = 0, markets: Sequence[str] = ()) -> list[Sample]:
    """Draw events to send."""
    chosen = {"markets": tuple(markets)} if markets else {}
    settings = SimulationSettings(num_events=count, split="all", **chosen)
    samples = []
    for index in range(count):
        drawn = simulate_event(settings, seed, index)
        mapping = {**event_mapping(drawn.event, drawn.utc_offset_hours), "event_id": _PLACEHOLDER}
        before, _, after = json.dumps(mapping, ensure_ascii=False).encode().partition(_PLACEHOLDER.encode())
        samples.append(Sample(drawn.event.market, before, after))
    return samples


def first_token(path: Path) -> str:
    """Read the first token of a tokens file.

    Raises:
        ValueError: If there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        problem = f"cannot be read ({type(error).__name__}); is the endpoint running, and is this its file?"
        raise ValueError(f"tokens file {path}: {problem}") from None
    tokens = [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not tokens:
        raise ValueError(f"tokens file {path}: expected a line with a token, found none")
    return tokens[0]


class Sender:
    """Keeps connections to one address and posts events over them; HTTP/1.1, as lean as can be."""

    def __init__(self, url: str, token: str, *, path: str = "/v1/verdicts", headers: str = "") -> None:
        """Take the address and a token.

        Raises:
            ValueError: If it is no http://host[:port]: the token would go where, or how, nobody meant.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or "@" in parts.netloc:
            raise ValueError(f"url {parts.scheme}://{parts.hostname or ''}: expected http://host:port, found another")
        self._host, self._port = parts.hostname, parts.port or 80
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\n{headers}Content-Length: "
        ).encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Post an event; give status and body, status 0 if the connection failed."""
        async with self._places:
            writer: asyncio.StreamWriter | None = None
            try:
                reader, writer = await self._connection()
                writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
                async with asyncio.timeout(_GIVE_UP_SECONDS):
                    status, answer, keep = await _read_answer(reader)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                status, answer, keep = 0, b"", False
            if keep and writer is not None:
                self._idle.append((reader, writer))
            elif writer is not None:
                writer.close()
            return status, answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the other side has closed it meanwhile
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


async def send_at_rate(
    sender: Sender,
    samples: Sequence[Sample],
    *,
    rate: float,
    seconds: float,
    ids: Iterable[str],
    on_answer: Callable[[Sent], None],
    seed: int = 0,
    stop: Event | None = None,
) -> None:
    """Send events at a mean rate per second for a time, under `ids`, which are to be new ones.

    `stop` ends the sending before its time; what is under way is waited for.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def one(sample: Sample, event_id: str, due_at: float) -> None:
        status, body = await sender.post(sample.body(event_id))
        on_answer(Sent(event_id, due_at, (time.perf_counter() - due_at) * 1e3, status, body, sample.market))

    for due_at, event_id, sample in zip(_instants(rate, seconds, seed), ids, cycle(samples), strict=False):
        wait = due_at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if stop is not None and stop.is_set():
            break
        task = asyncio.create_task(one(sample, event_id, due_at))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


def new_ids(run: str) -> Iterator[str]:
    """Number events without end; a `run` of its own makes the ids new."""
    return (f"{run}-{number}" for number in count())


def _instants(rate: float, seconds: float, seed: int) -> Iterator[float]:
    rng, start = random.Random(seed), time.perf_counter()
    due_at = start + rng.expovariate(rate)
    while due_at < start + seconds:
        yield due_at
        due_at += rng.expovariate(rate)


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return status, await reader.readexactly(length), b"connection: close" not in head
