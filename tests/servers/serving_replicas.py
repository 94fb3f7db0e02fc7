"""A gateway replica in this process for tests: the real parts, the shipped model, asked over ASGI."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cancellation.events.event import event_mapping
from cancellation.model.spec import ModelIdentity
from cancellation.model.verdict_model import Scores, VerdictModel
from cancellation.serving.inference.model import LocalModel, load_event_encoder, load_model, model_folder
from cancellation.serving.observability.metrics import Metrics
from cancellation.serving.places import tokens_path
from cancellation.serving.replica import AskModel, GatewayReplica
from cancellation.serving.settings import ServingSettings
from cancellation.simulation.simulator import SimulationSettings, simulate_event
from cancellation.text.encoding import EncodedEvent
from tests.servers.serving_process import free_port


def simulated_event(index: int, market: str = "ID") -> dict[str, Any]:
    """An event of a market, the same for the same index."""
    drawn = simulate_event(SimulationSettings(num_events=1, split="all", markets=(market,)), 5, index)
    return event_mapping(drawn.event, drawn.utc_offset_hours)


@cache
def shipped_model() -> VerdictModel:
    """The shipped model, loaded once."""
    return load_model(ServingSettings().model)


class WatchedModel:
    """The shipped model with a hook before every call, which may wait or raise."""

    def __init__(self, before: Callable[[Sequence[EncodedEvent]], None]) -> None:
        self._model, self._before = shipped_model(), before
        self.spec, self.encoder = self._model.spec, self._model.encoder
        self.version, self.temperature = self._model.version, self._model.temperature

    @property
    def identity(self) -> ModelIdentity:
        return self._model.identity

    def score(self, events: Sequence[EncodedEvent]) -> Scores:
        self._before(events)
        return self._model.score(events)


@dataclass
class Client:
    """Asks a replica as its callers do."""

    replica: GatewayReplica
    http: httpx.AsyncClient

    async def judge(self, event: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self.http.post(
            "/v1/verdicts", content=body, headers={"content-type": "application/json", **headers}
        )

    @property
    def metrics(self) -> Metrics:
        return self.replica.metrics

    def log(self, name: str = "decisions") -> list[dict[str, Any]]:
        """What stands in a log on the local disk."""
        from cancellation.serving.records.segments import read_segment

        folder = Path(self.replica.settings.data_dir) / "log" / name
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".open", ".sealed"))
        return [record for path in paths for record in read_segment(path).records]

    async def logged(self, name: str) -> list[dict[str, Any]]:
        """Wait up to two seconds for something to stand in a log that is written behind the answers."""
        for _ in range(200):
            if self.log(name):
                break
            await asyncio.sleep(0.01)
        return self.log(name)

    async def database(self) -> str:
        """What /readyz says of the database, at a replica that answers by the rules or the log alone too."""
        answer = await self.http.get("/readyz")
        assert answer.status_code == 200
        return answer.json()["database"]


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds, half a minute at most."""
    deadline = time.monotonic() + 30
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@contextmanager
def files_that_cannot_grow() -> Iterator[None]:
    """Every write beyond a file's first byte fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def patient_settings(folder: Path, **settings: Any) -> ServingSettings:
    """Settings of a replica whose data are in `folder`, given by section."""
    # ASGITransport seldom lets the loop run, and other tests' load is no reason to refuse or to give the model up.
    patient: dict[str, dict[str, float]] = {
        "admission": dict.fromkeys(("max_loop_lag_ms", "max_queue_age_ms", "standing_ms"), 60_000.0),
        "deadlines": {"default_ms": 20_000.0, "model_ms": 10_000.0},
        "model": {"hung_seconds": 10.0},
    }
    sections = {name: {**section, **settings.pop(name, {})} for name, section in patient.items()}
    return ServingSettings.model_validate({"data_dir": str(folder), "output": None, **sections, **settings})


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    scored_by: VerdictModel | WatchedModel | None = None,
    shadow_models: Mapping[str, AskModel] | None = None,
    token: str | None = None,
    **settings: Any,
) -> AsyncIterator[Client]:
    """A running replica whose data are in `folder`, asked with the first token of its file, or another."""
    given = patient_settings(folder, **settings)
    chosen = scored_by or shipped_model()

    async def make_model(metrics: Metrics) -> LocalModel:
        encoder_version = load_event_encoder(model_folder(given.model))[1]
        return LocalModel(chosen, given.model, metrics, encoder_version=encoder_version)

    replica = GatewayReplica(given, make_model, shadow_models=shadow_models)
    await replica.start()
    transport = httpx.ASGITransport(replica)
    headers = {"Authorization": f"Bearer {token or token_of(tokens_path(given))}"}
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
            yield Client(replica, http)
    finally:
        await replica.stop()


def token_of(path: Path) -> str:
    """The first token of a file."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return lines[0].split()[0]


@contextmanager
def listening(folder: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A replica behind a port of its own, with the server that Serve puts in front of it, for those who speak TCP."""
    given = patient_settings(folder, **settings)

    async def make_model(metrics: Metrics) -> LocalModel:
        return LocalModel(shipped_model(), given.model, metrics)

    replica = GatewayReplica(given, make_model)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(replica, port=port, lifespan="on", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), replica.failure
            time.sleep(0.05)
        assert replica.failure is None, replica.failure
        headers = {"Authorization": f"Bearer {token_of(tokens_path(given))}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as http:
            yield http
    finally:
        server.should_exit = True
        thread.join()
