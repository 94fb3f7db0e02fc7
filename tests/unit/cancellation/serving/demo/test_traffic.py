"""The load generator: an open loop whose latencies count from when a request was due, and the figures it shows."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from cancellation.events.event import parse_event
from cancellation.serving.demo.live_figures import LiveFigures, show_stream
from cancellation.serving.demo.traffic import Sender, Sent, draw_samples, first_token, new_ids, send_at_rate

VERDICT = json.dumps({"source": "model", "action": "none", "verdict": "induced"}).encode()


async def serve(answer_after: float, work: object) -> list[bytes]:
    """Run a server that answers each request after a while, one after the other on each connection."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                parse_event(await reader.readexactly(length))
                await asyncio.sleep(answer_after)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(VERDICT), VERDICT))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")  # type: ignore[operator]
    server.close()
    return heads


def test_requests_do_not_wait_for_each_other() -> None:
    answers: list[Sent] = []

    async def work(url: str) -> None:
        sender = Sender(url, "token")
        started = time.perf_counter()
        await send_at_rate(sender, draw_samples(5), rate=100, seconds=0.5, ids=new_ids("r"), on_answer=answers.append)
        assert time.perf_counter() - started < 3
        sender.close()

    heads = asyncio.run(serve(0.5, work))
    assert 25 < len(answers) < 85
    assert all(answer.status == 200 and answer.latency_ms >= 500 for answer in answers)
    assert all(b"Authorization: Bearer token" in head for head in heads)


def test_a_server_that_is_not_there_is_a_failure_not_an_exception() -> None:
    assert asyncio.run(Sender("http://127.0.0.1:1", "token").post(b"{}")) == (0, b"")


@pytest.mark.parametrize(
    "url",
    [
        "https://verdicts.example",
        "127.0.0.1:8000",
        "http://host/v1",
        "http://me:secret@host",  # pragma: allowlist secret
        "http://",
    ],
)
def test_a_token_is_sent_to_no_address_that_would_get_it_otherwise_than_meant(url: str) -> None:
    with pytest.raises(ValueError, match="expected http://host:port") as refused:
        Sender(url, "token")
    assert "secret" not in str(refused.value)


def test_samples_are_events_under_ids_of_their_own() -> None:
    events = [parse_event(sample.body(f"e-{number}")) for number, sample in enumerate(draw_samples(4))]
    assert [event.event_id for event in events] == ["e-0", "e-1", "e-2", "e-3"]


def test_live_figures_count_what_was_answered() -> None:
    screens: list[str] = []

    async def work(url: str) -> None:
        samples = draw_samples(3, markets=("TH",))
        figures = await show_stream(Sender(url, "t"), samples, rate=50, seconds=0.3, show=screens.append)
        assert figures.statuses[200] > 0
        assert figures.sources["model"] == figures.statuses[200]

    asyncio.run(serve(0.0, work))
    assert "p99" in screens[-1]
    assert "TH" in screens[-1]
    assert "nan" in LiveFigures().render()


def test_a_demos_penalties_are_called_that() -> None:
    verdict = {"verdict": "induced", "action": "penalty", "source": "model", "policy_version": "1"}
    shown = []
    for version in ("1", "1+demo"):
        figures = LiveFigures()
        figures.add(Sent("e", 0.0, 3.0, 200, json.dumps({**verdict, "policy_version": version}).encode(), "TH"))
        shown.append("DEMO: penalties rest on proof that nobody lived" in figures.render())
    assert shown == [False, True]


def test_the_first_token_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(ValueError, match="cannot be read"):
        first_token(path)
    path.write_text("# none yet\n")
    with pytest.raises(ValueError, match="found none"):
        first_token(path)
    path.write_text("\ufeff# one\n\n  # two\nfirst verdict\nsecond policy\n")
    assert first_token(path) == "first"
