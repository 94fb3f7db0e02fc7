"""Measure what a shadow costs the live answers: the same endpoint, in turns without and with copies for the shadow.

Ids decide which events the shadow gets. Seconds of which it gets none and seconds of which it gets a share
are sent in turns, to the same processes in the same minutes, while the shadow is well, is ten times as slow, stopped,
or dies whenever it is up (and is started again later and later). The last line is one JSON object: quantiles of
both, and the difference of the p99 with its 95 % interval (bootstrap over seconds).

    python -m tests.benchmarks.serving.shadow [rate=50] [seconds=10] [rounds=6] [share=0.1] [kinds=well,slow,…]
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from cancellation.serving.demo.traffic import Sender, Sent, draw_samples, first_token, new_ids, send_at_rate
from cancellation.serving.inference.shadow import in_share
from cancellation.serving.settings import ShadowSettings
from cluster.serving.restarts import RestartBackoff
from tests.benchmarks.serving.load import MARKETS, SAMPLES, quantile
from tests.benchmarks.serving.processes import server

PORT = 8413
SHADOW = ShadowSettings(name="next", source="cancellation/small_model", share=0.5)
_LOOK_SECONDS = 0.5
_UP_SECONDS = 8.0
_BACK_SECONDS = 60.0
_SLICE_SECONDS = 0.05
_SLOWER = 10
_DRAWS = 1000

Answers = list[tuple[int, float, int]]
"""Second in which a request was due, latency in milliseconds, status."""


class Shadow:
    """The shadow's replicas, kept well or not; between a `with` block and the next they recover."""

    def __init__(self, served: subprocess.Popen[bytes], kind: str) -> None:
        self._served = served
        self._kind = kind

    def replicas(self) -> list[psutil.Process]:
        """Find its processes."""
        found = []
        for child in psutil.Process(self._served.pid).children(recursive=True):
            with suppress(psutil.Error):
                if " ".join(child.cmdline()).startswith(f"ray::ServeReplica:cancellation:shadow-{SHADOW.name}"):
                    found.append(child)
        return found

    @contextmanager
    def troubled(self) -> Iterator[None]:
        """Do to it what its kind says."""
        ended = threading.Event()
        thread = threading.Thread(target=self._trouble, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            deadline = time.monotonic() + _BACK_SECONDS
            while not self.replicas() and time.monotonic() < deadline:  # Serve is bringing it back
                time.sleep(_LOOK_SECONDS)
            self._each(signal.SIGCONT, self.replicas())
            time.sleep(2 * _LOOK_SECONDS)

    def _trouble(self, ended: threading.Event) -> None:
        while not ended.is_set():
            replicas = self.replicas()
            if self._kind == "crashing":
                self._each(signal.SIGKILL, [one for one in replicas if self._is_up(one)])
            elif self._kind == "hung":
                self._each(signal.SIGSTOP, replicas)
            elif self._kind == "slow":
                self._slow(replicas, ended)
                continue
            ended.wait(_LOOK_SECONDS)

    def _is_up(self, replica: psutil.Process) -> bool:
        """Whether it has had the time to load its model: Serve treats one that never came up in another way."""
        remembered = RestartBackoff.of("").path.parent.glob(f"*-{SHADOW.name}-*.json")
        due_at = max((RestartBackoff(path).due_at() for path in remembered), default=0.0)
        with suppress(psutil.Error):
            return time.time() - max(due_at, replica.create_time()) > _UP_SECONDS
        return False

    def _slow(self, replicas: list[psutil.Process], ended: threading.Event) -> None:
        for _ in range(20):
            self._each(signal.SIGSTOP, replicas)
            ended.wait(_SLICE_SECONDS * (1 - 1 / _SLOWER))
            self._each(signal.SIGCONT, replicas)
            ended.wait(_SLICE_SECONDS / _SLOWER)
        self._each(signal.SIGSTOP, replicas)

    def _each(self, number: signal.Signals, replicas: list[psutil.Process]) -> None:
        for replica in replicas:
            with suppress(psutil.Error):
                replica.send_signal(number)


def load(url: str, tokens: Path, *, rate: float, seconds: float, share: float) -> Answers:
    """Send events of which the shadow gets a share."""
    samples, answers = draw_samples(SAMPLES, seed=3, markets=MARKETS), list[Sent]()
    ids = ids_of_share(uuid.uuid4().hex[:10], share)
    sender = Sender(url, first_token(tokens))
    gc.freeze()

    async def go() -> None:
        await send_at_rate(sender, samples, rate=rate, seconds=seconds, ids=ids, on_answer=answers.append)
        sender.close()

    asyncio.run(go())
    return [(int(answer.due_at), answer.latency_ms, answer.status) for answer in answers]


def ids_of_share(run: str, share: float) -> Iterator[str]:
    """Give new ids of which the shadow wants a share, in random order."""
    rng, numbered = random.Random(run), new_ids(run)
    while True:
        wanted = rng.random() < share
        yield next(event_id for event_id in numbered if in_share(event_id, SHADOW) == wanted)


def apart(tokens: Path, *, rate: float, seconds: float, share: float) -> Answers:
    """Load from a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "load", str(tokens), f"{rate:g}", f"{seconds:g}", f"{share:g}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [(second, latency, status) for second, latency, status in json.loads(done.stdout)]


def compare(without: Answers, beside: Answers) -> dict[str, Any]:
    """Compare latencies without and with copies."""
    rng = random.Random(0)
    differences = sorted(_p99(_drawn(beside, rng)) - _p99(_drawn(without, rng)) for _ in range(_DRAWS))
    latencies = [_latencies(answers) for answers in (without, beside)]
    return {
        "requests": [len(without), len(beside)],
        "answered": [len(found) for found in latencies],
        "p50_ms": [quantile(found, 0.5) for found in latencies],
        "p99_ms": [quantile(found, 0.99) for found in latencies],
        "p99_ratio": round(_p99(beside) / _p99(without), 3),
        "p99_difference_ms": round(_p99(beside) - _p99(without), 2),
        "interval_ms": [round(differences[int(share * _DRAWS)], 2) for share in (0.025, 0.975)],
    }


def _drawn(answers: Answers, rng: random.Random) -> Answers:
    """Draw as many seconds as there are, with all their answers: neighbours are late together."""
    seconds: dict[int, Answers] = {}
    for answer in answers:
        seconds.setdefault(answer[0], []).append(answer)
    return [answer for drawn in rng.choices(list(seconds.values()), k=len(seconds)) for answer in drawn]


def _p99(answers: Answers) -> float:
    latencies = _latencies(answers)
    return latencies[int(0.99 * len(latencies))]


def _latencies(answers: Answers) -> list[float]:
    return sorted(latency for _, latency, status in answers if status == 200)


def copies(tokens: Path) -> dict[str, int]:
    """What became of the copies, as the endpoint counts them."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/metrics", headers={"Authorization": f"Bearer {first_token(tokens)}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        if line.startswith("ray_cancellation_shadow_copies_total") and f'shadow="{SHADOW.name}"' in line:
            found[line.partition('outcome="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return dict(found)


def measure(
    kind: str, tokens: Path, folder: str, *, rate: float, seconds: float, rounds: int, share: float
) -> dict[str, Any]:
    """Measure a shadow of one kind."""
    command = [
        "jobs.cancellation_serve",
        f"service.port={PORT}",
        f"serving.data_dir={folder}/{kind}",
        f"serving.output={folder}/{kind}/archive",
        f"serving.tokens_file={tokens}",
        f"serving.shadows=[{SHADOW.model_dump_json()}]",
    ]
    answers: dict[bool, Answers] = {False: [], True: []}
    with server(command, PORT) as served:
        shadow = Shadow(served, kind)
        apart(tokens, rate=rate, seconds=10, share=0.5)
        for number in range(2 * rounds):
            copied = number % 4 in (1, 2)  # without, with, with, without: what drifts meets both alike
            if copied:
                with shadow.troubled():
                    answers[True] += apart(tokens, rate=rate, seconds=seconds, share=share)
            else:
                answers[False] += apart(tokens, rate=rate, seconds=seconds, share=0.0)
        time.sleep(10)  # Ray's agent exports its metrics as often
        found = {**compare(answers[False], answers[True]), "copies": copies(tokens)}
    print(f"  {kind}: {json.dumps(found)}", flush=True)
    return found


def main(arguments: list[str]) -> None:
    """Measure all kinds and print the comparison."""
    given = dict(argument.split("=", 1) for argument in arguments)
    size = {"rate": float(given.get("rate", 50)), "seconds": float(given.get("seconds", 10))}
    size["share"] = float(given.get("share", 0.1))
    rounds, kinds = int(given.get("rounds", 6)), given.get("kinds", "well,slow,hung,crashing").split(",")
    os.environ.pop("VERDICTS_TOKENS_FILE", None)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("benchmark-token-benchmark verdict feedback policy\n")
        tokens.chmod(0o600)
        result = {kind: measure(kind, tokens, folder, rounds=rounds, **size) for kind in kinds}
    date, load_average = datetime.now(UTC).date().isoformat(), os.getloadavg()[0]
    print(json.dumps({"date": date, "cores": os.cpu_count(), **size, "load_average": load_average, **result}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        _, path, rate, seconds, share = sys.argv[1:]
        url = f"http://127.0.0.1:{PORT}"
        found = load(url, Path(path), rate=float(rate), seconds=float(seconds), share=float(share))
        print(json.dumps(found))
    else:
        main(sys.argv[1:])
