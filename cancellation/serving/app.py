"""The Ray Serve application: which deployments there are, what each runs, how many replicas.

    gateway            HTTP, validation, policy, log; with the model inside where `colocated`
    model              one version of the model, where it runs apart
    shadow-<name>      another version, for copies of the traffic

Every version has a deployment of its own instead of sharing replicas by `serve.multiplexed`; remote_model.py says
why. Built by `serve deploy cluster/serving/serve.yaml`, by jobs/cancellation_serve.py, and by tests.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from cancellation.model.verdict_model import read_identity
from cancellation.serving.inference.messages import Reply, pack_replies, pack_reply, unpack_replies
from cancellation.serving.inference.model import (
    LocalModel,
    ModelClient,
    answer_question,
    load_event_encoder,
    load_model,
    model_folder,
    pinned,
)
from cancellation.serving.inference.remote_model import RemoteModel
from cancellation.serving.observability.metrics import SHADOW_HELD, Metrics, RayMetrics
from cancellation.serving.observability.node_metrics import node_metrics
from cancellation.serving.replica import AskModel, GatewayReplica
from cancellation.serving.settings import ModelSettings, ReplicaSettings, ServingSettings
from cluster.gpus import GpuMeter
from cluster.serving.autoscaling import CPU_FRACTION, CpuMeter
from cluster.serving.priorities import idle_executable
from cluster.serving.restarts import RestartBackoff

APP_NAME = "cancellation"
_SHADOW = "shadow-"
_FLUSH_SECONDS = 0.1
_SWITCH_SECONDS = 0.001
_DEAD_SECONDS = 20.0
"""A model replica whose call takes this long is given up and replaced."""


def _local_model(settings: ModelSettings, metrics: Metrics) -> LocalModel:
    return LocalModel(
        load_model(settings), settings, metrics, encoder_version=load_event_encoder(model_folder(settings))[1]
    )


class ModelReplica:
    """One replica of a model: bytes in, bytes out, one typed answer per event."""

    async def __init__(self, settings: str, shadow: str | None = None) -> None:  # type: ignore[misc]
        given = ModelSettings.model_validate_json(settings)
        self._metrics = RayMetrics()
        self._flusher = asyncio.get_running_loop().create_task(self._flush())
        if shadow is not None:
            # Serve starts what died at once, every time; loading a model again and again is felt next door.
            delay = _restarts(shadow, given).next_delay()
            self._metrics.set(SHADOW_HELD, delay, shadow)
            await asyncio.sleep(delay)
        self._model = _local_model(given, self._metrics)
        gc.collect()
        gc.freeze()  # as replica.py does
        GpuMeter.start(f"verdicts of {shadow}" if shadow else "verdicts")

    async def score(self, packed: bytes) -> bytes:
        """Score an encoded event."""
        return pack_reply(await self._model.score_packed(packed))

    async def score_body(self, body: bytes, left_ms: float, bulk: bool) -> bytes:
        """Encode and score an event that comes as JSON."""
        return pack_reply(await self._model.score_body(body, left_ms, bulk=bulk))

    async def score_bodies(self, bodies: Sequence[bytes], left_ms: float) -> bytes:
        """The same for several at once."""
        scoring = (self._model.score_body(body, left_ms, bulk=False) for body in bodies)
        return pack_replies(await asyncio.gather(*scoring))

    async def explain(self, question: bytes) -> bytes:
        """Explain a verdict."""
        return await answer_question(self._model, question)

    async def check_health(self) -> None:
        """Tell Serve to replace a replica that hangs."""
        if self._model.hung_seconds() > _DEAD_SECONDS:
            raise RuntimeError(f"a call of the model has not come back for {_DEAD_SECONDS:g} s")

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._metrics.flush()


def _restarts(shadow: str, settings: ModelSettings) -> RestartBackoff:
    """Of this version as this shadow on this machine, for as long as this Ray lives."""
    return RestartBackoff.of(f"{ray.get_runtime_context().gcs_address}-{shadow}-{settings.pin}")


@serve.ingress()
class GatewayDeployment:
    """One replica of the gateway."""

    def __init__(
        self,
        settings: str,
        model: DeploymentHandle | None = None,
        shadows: Mapping[str, DeploymentHandle] | None = None,
    ) -> None:
        self._settings = ServingSettings.model_validate_json(settings)
        # The model's threads want the interpreter for microseconds, and a core idles while they wait for it.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._handle = model
        self._shadows = dict(shadows or {})
        self._cpu = CpuMeter()
        self._replica: GatewayReplica | None = None

    def __serve_build_asgi_app__(self) -> GatewayReplica:
        """Give Serve the ASGI application."""
        shadows = {name: _ask(handle) for name, handle in self._shadows.items()}
        self._replica = GatewayReplica(
            self._settings, self._make_model, metrics=RayMetrics(), shadow_models=shadows, metrics_text=node_metrics
        )
        return self._replica

    async def check_health(self) -> None:
        """Tell Serve why the replica could not start: it asks before it sends any request."""
        if self._replica is not None and self._replica.failure is not None:
            raise RuntimeError(self._replica.failure)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell the autoscaler how busy this process is."""
        return {CPU_FRACTION: self._cpu.fraction()}

    async def _make_model(self, metrics: Metrics) -> ModelClient:
        if self._handle is None:
            return _local_model(self._settings.model, metrics)
        given = self._settings.model
        folder = model_folder(given)
        identity = read_identity(folder, device=given.device, dtype=given.dtype)
        return RemoteModel(self._handle, folder, identity, self._settings.retry, metrics)


def _ask(handle: DeploymentHandle) -> AskModel:
    async def ask(bodies: Sequence[bytes], seconds: float) -> list[Reply]:
        return unpack_replies(await handle.score_bodies.remote(list(bodies), seconds * 1e3))

    return ask


def build(arguments: Mapping[str, Any]) -> Application:
    """Build the application from the `args` of a Serve config file: the fields of `ServingSettings`."""
    return application(ServingSettings.model_validate(arguments))


def application(settings: ServingSettings) -> Application:
    """Build the application; what the models' names stand for now is what all its replicas will run."""
    settings = settings.model_copy(update={"model": pinned(settings.model)})
    model = (
        None
        if settings.colocated
        else _model(settings.model, settings.models, "model", max_queued=settings.model.max_queue)
    )
    shadows = {
        shadow.name: _model(
            pinned(settings.model.model_copy(update={"source": shadow.source, "digest": shadow.digest, "pin": None})),
            ReplicaSettings(
                num_cpus=0.0 if settings.colocated else settings.models.num_cpus,
                num_gpus=(shadow.num_gpus or settings.num_gpus) if settings.num_gpus else 0.0,
            ),
            f"{_SHADOW}{shadow.name}",
            max_queued=shadow.concurrency,
            shadow=shadow.name,
        )
        for shadow in settings.shadows
        if shadow.source != "rules"
    }
    gateway = serve.deployment(GatewayDeployment).options(
        name="gateway",
        # Beyond what is admitted there are bodies on their way and those that are being refused, which must not queue.
        max_ongoing_requests=8 * (settings.admission.max_ongoing + settings.admission.max_batches)
        + settings.admission.max_reading,
        **_replicas(settings.gateways, by_cpu=True),
    )
    return gateway.bind(settings.model_dump_json(), model, shadows)


def is_shadow(deployment: str) -> bool:
    """Say whether a deployment of the application gets copies of the traffic alone."""
    return deployment.startswith(_SHADOW)


def _model(
    settings: ModelSettings, replicas: ReplicaSettings, name: str, *, max_queued: int, shadow: str | None = None
) -> Application:
    options = _replicas(replicas, by_cpu=False)
    if shadow is not None:
        # Loading libraries and a model has to wait for live work too.
        options["ray_actor_options"]["runtime_env"] = {"py_executable": idle_executable()}
    deployment = serve.deployment(ModelReplica).options(
        name=name,
        max_ongoing_requests=2 * settings.max_queue,
        max_queued_requests=max_queued,
        health_check_period_s=5,
        **options,
    )
    return deployment.bind(settings.model_dump_json(), shadow)


def _replicas(settings: ReplicaSettings, *, by_cpu: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        # A line per call costs more than counting it, and lines hold paths, which hold ids.
        "logging_config": {"enable_access_log": False},
        # New replicas answer before old ones stop: an upgrade drops nothing, also where there is one replica.
        "max_surge_percent": 100,
    }
    if settings.min == settings.max:
        return options | {"num_replicas": settings.min}
    policy = {"policy_function": "cluster.serving.autoscaling:CpuAndRequests"} if by_cpu else {}
    kwargs = {"policy_kwargs": {"target_cpu_fraction": settings.target_cpu_fraction}} if by_cpu else {}
    autoscaling = AutoscalingConfig(
        min_replicas=settings.min,
        max_replicas=settings.max,
        target_ongoing_requests=settings.target_ongoing,
        look_back_period_s=settings.look_back_seconds,
        upscale_delay_s=settings.upscale_seconds,
        downscale_delay_s=settings.downscale_seconds,
        policy=AutoscalingPolicy(**policy, **kwargs),
    )
    return options | {"autoscaling_config": autoscaling}
