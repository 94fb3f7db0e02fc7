"""The whole endpoint for tests, as a user starts it: the job in a process of its own, Ray Serve below it, real HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil

from cancellation.serving.demo.traffic import Sample, Sender, Sent, draw_samples, new_ids, send_at_rate
from cancellation.serving.records.segments import read_segment
from cancellation.serving.records.shipped_log import read_log

PROJECT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-all-that-the-tests-do"
FEEDBACK_TOKEN = "a-token-for-feedback-alone"
POISON = "zzpoison"
"""As a chat's text: what the model of `add_poison` cannot score."""


@dataclass
class Stream:
    """Requests at about a rate that never wait for each other, over connections that are kept; what came of each."""

    sent: list[Sent] = field(default_factory=list)
    """In the order of the answers; status 0 is a connection that failed."""

    def statuses(self) -> set[int]:
        return {one.status for one in self.sent}

    def refusals(self) -> dict[str, int]:
        """What was said instead of an answer, counted: the status, and how its body begins."""
        return dict(Counter(f"{one.status} {one.body[:120]!r}" for one in list(self.sent) if one.status != 200))

    def bodies(self) -> dict[str, dict[str, Any]]:
        """What was answered, by event."""
        return {one.event_id: json.loads(one.body) for one in list(self.sent) if one.status == 200}

    def sources(self) -> list[str]:
        return [body["source"] for body in self.bodies().values()]

    def reasons(self, endpoint: Served) -> dict[str, int]:
        """Why the model did not answer, counted over the events of which it did not."""
        found = [event_id for event_id, body in self.bodies().items() if body["source"] != "model"]
        asked = (endpoint.http.get(f"/v1/verdicts/{event_id}").json() for event_id in found)
        return dict(Counter(str(decision.get("fallback_reason")) for decision in asked))

    def answered(self) -> set[str]:
        return {one.event_id for one in list(self.sent) if one.status == 200}


@dataclass
class Served:
    """A running endpoint."""

    url: str
    folder: Path
    output: str
    process: subprocess.Popen[bytes]
    http: httpx.Client

    def judge(self, event: Mapping[str, Any], **headers: str) -> httpx.Response:
        return self.http.post("/v1/verdicts", json=event, headers=headers)

    def ctrl_c(self) -> None:
        """What a terminal does: SIGINT to the job and to all that it started in its group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def printed(self) -> str:
        """What the job has said so far."""
        return (self.folder / "serve.log").read_text(errors="replace")

    def measured(self, metric: str) -> float:
        """The highest value of a metric that `/metrics` shows, 0 where it shows none."""
        lines = self.http.get("/metrics").text.splitlines()
        return max((float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric)), default=0.0)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas."""
        name = f"ray::ServeReplica:cancellation:{deployment}"
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.cmdline() and child.cmdline()[0].startswith(name):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    @contextmanager
    def stream(self, name: str, rate: float, **headers: str) -> Iterator[Stream]:
        """Send events of a market with a live model for the length of a `with` block, without waiting for answers."""
        stream, stop = Stream(), threading.Event()
        lines = "".join(f"{header}: {value}\r\n" for header, value in headers.items())

        async def send() -> None:
            sender = Sender(self.url, TOKEN, headers=lines)
            await send_at_rate(
                sender,
                _samples(),
                rate=rate,
                seconds=math.inf,
                ids=new_ids(name),
                on_answer=stream.sent.append,
                stop=stop,
            )
            sender.close()

        sending = threading.Thread(target=asyncio.run, args=(send(),))
        sending.start()
        try:
            yield stream
        finally:
            stop.set()
            sending.join()

    def logged(self, name: str = "decisions") -> list[str]:
        """Events on record, each once: on the local disk and, where shipping has got to, in the archive."""
        # The disk twice: a segment may be sealed, and so renamed, while it is looked for.
        return list(dict.fromkeys([*self._local(name), *self._local(name), *self.archived(name)]))

    def _local(self, name: str) -> list[str]:
        return [
            record["event_id"]
            for path in (self.folder / "data" / "log" / name).glob("*-*")
            if path.suffix in (".open", ".sealed")
            for record in _read(path)
        ]

    def archived(self, name: str = "decisions") -> list[str]:
        """Events on record in the archive."""
        return read_log(f"{self.output}/{name}")["event_id"].to_pylist()

    def until_answered(self, stream: Stream, more: int) -> None:
        """Wait for so many further answers."""
        enough = len(stream.answered()) + more
        self.until(lambda: len(stream.answered()) >= enough)

    def asked_until_back(self, event: Mapping[str, Any]) -> list[tuple[int, str | None]]:
        """What callers get who go on with calls of five kinds, as status and Retry-After, until each is answered."""
        answers: list[tuple[int, str | None]] = []
        calls = [("GET", "/healthz"), ("GET", "/v1/policy/ID"), ("HEAD", "/docs"), ("GET", "/v1/reviews")]

        def back() -> bool:
            judged = self.judge({**event, "event_id": f"while-away-{len(answers)}"})
            given = [judged, *(self.http.request(*call) for call in calls)]
            answers.extend((one.status_code, one.headers.get("Retry-After")) for one in given)
            return {one.status_code for one in given} == {200}

        self.until(back)
        return answers

    def until(self, condition: Any, seconds: float = 120, every: float = 0.2) -> None:
        """Wait for something to become true, looking `every` so many seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(every)


@cache
def _samples() -> list[Sample]:
    return draw_samples(40, markets=("ID",))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return read_segment(path).records
    except FileNotFoundError:  # shipped at this moment
        return []


def copy_model(folder: Path, name: str) -> Path:
    """A copy of the shipped model under another name."""
    target = folder / name
    shutil.copytree(PROJECT / "cancellation" / "small_model", target)
    rename_model(target, name)
    return target


def rename_model(folder: Path, name: str) -> None:
    """Give a model another name, and so another version."""
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**spec, "name": name}))


def add_poison(folder: Path) -> None:
    """Teach a model's tokeniser a word for which its network has no embedding: no batch with it can be scored."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(
        {
            "id": len(tokenizer["model"]["vocab"]),
            "content": POISON,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False),
        }
    )
    path.write_text(json.dumps(tokenizer))


@contextmanager
def served(folder: Path, *, output: str, environment: Mapping[str, str], settings: list[str]) -> Iterator[Served]:
    """Run the job until it answers; end it by its own means."""
    tokens = folder / "tokens"
    tokens.write_text(f"{TOKEN} verdict feedback policy appeal review\n{FEEDBACK_TOKEN} feedback\n")
    tokens.chmod(0o600)
    port = free_port()
    command = [
        sys.executable,
        *("-m", "jobs.cancellation_serve", f"service.port={port}", "session.num_cpus=4"),
        *(f"service.stats_port={free_port()}", f"service.metrics_port={free_port()}"),
        *(f"serving.data_dir={folder / 'data'}", f"serving.output={output}", f"serving.tokens_file={tokens}"),
        *settings,
    ]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VERDICTS_"))}
    log = (folder / "serve.log").open("wb")
    # A process group of its own, as a terminal gives each command: there Ctrl-C is a signal to all of it.
    process = subprocess.Popen(
        command, env={**given, **environment}, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as http:
            one = Served(url, folder, output, process, http)
            one.until(lambda: process.poll() is not None or "serving on" in one.printed(), 240)
            assert process.poll() is None, one.printed()[-3000:]
            yield one
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        finally:
            process.kill()
            log.close()


_BELOW_OUTGOING = range(30_000, 32_768)
_GIVEN: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on at present, a new one each time.

    Not one that the system would give out: until a server binds it, a connection of Ray's may have it as its own end.
    """
    while True:
        port = secrets.choice(_BELOW_OUTGOING)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port
