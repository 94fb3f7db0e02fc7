"""Which model answers: one in this process, or one behind OpenAI's interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cancellation.llm.backend import Backend
from cancellation.model.learnt import read_learnt
from cluster.endpoint.purse import Purse
from cluster.endpoint.settings import EndpointSettings
from cluster.models.files import ModelFiles, ModelName, fetch_model, resolve_model
from cluster.settings import Settings


class LocalSettings(Settings):
    """A model that runs here."""

    model: ModelName = "var/pretrained/smollm2-135m"
    """Causal language model with a chat template: folder, s3:// folder, models:/name@alias or a hub repository."""

    adapter: ModelName | None = None
    """Folder of a LoRA adapter from `jobs.cancellation_llm_finetune`, merged into the weights when they are loaded."""

    num_threads: int = Field(default=1, ge=1)
    """Threads of torch."""

    device: str = "cpu"
    """`cuda` runs it on the GPU."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights; null: float32 on a CPU, bfloat16 on a GPU. A CPU with AMX is faster in bfloat16, above all at the
    prompt; its answers are other ones in the last digits, and so now and then in their words."""

    hour_usd: float = Field(default=0.05, ge=0)
    """Price of an hour of each core, one for every thread, or of the GPU that it keeps busy."""


class BackendSettings(Settings):
    """Which model answers."""

    kind: Literal["local", "endpoint"] = "local"
    """`local`: transformers in this process; `endpoint`: a server, hosted or `vllm serve`."""

    local: LocalSettings = LocalSettings()
    endpoint: EndpointSettings = EndpointSettings()

    def unused(self) -> set[str]:
        """A server needs no model here."""
        return {"local"} if self.kind == "endpoint" else set()

    @property
    def parallel(self) -> int:
        """Answers that are worth waiting for at once."""
        return self.endpoint.concurrency if self.kind == "endpoint" else 1

    @property
    def is_paid_per_request(self) -> bool:
        """Whether to ask again may be to pay again; of a model in this process it takes some more seconds."""
        return self.kind == "endpoint"


@dataclass(frozen=True)
class LocalModel:
    """Pinned model and adapter of `LocalSettings`. Cheap to send to workers, which fetch the files themselves."""

    base: ModelFiles
    adapter: ModelFiles | None

    @property
    def version(self) -> str:
        """Base and adapter: `model_version` of a label."""
        return f"{self.base.version}+{self.adapter.version}" if self.adapter else self.base.version


def pin_local(settings: LocalSettings, *, registry_uri: str | None = None) -> LocalModel:
    """Find what the names mean now; `registry_uri` as in `tracking.tracking_uri`.

    Raises:
        ValueError: If there is no such model.
    """
    adapter = resolve_model(settings.adapter, registry_uri=registry_uri) if settings.adapter else None
    return LocalModel(resolve_model(settings.model, registry_uri=registry_uri), adapter)


def pin_backend(settings: BackendSettings, *, registry_uri: str | None = None) -> LocalModel | None:
    """Pin the model that runs here, once for a whole job: an alias may move before its last actor starts.

    None for an endpoint.

    Raises:
        ValueError: If there is no such model.
    """
    return None if settings.kind == "endpoint" else pin_local(settings.local, registry_uri=registry_uri)


def backend_identity(settings: BackendSettings, model: LocalModel | None) -> dict[str, Any]:
    """Say which model answers, without loading it: part of what an output is a function of."""
    if model is None:
        asked = settings.endpoint
        return {"model": asked.model, "server": asked.base_url, **({"further": asked.further} if asked.further else {})}
    return {"model": model.base.digest, "adapter": model.adapter.digest if model.adapter else None}


def open_backend(
    settings: BackendSettings, model: LocalModel | None, *, cache_dir: str, purse: Purse | None = None
) -> Backend:
    """Load the model, or prepare the client.

    Args:
        settings: Which of the two.
        model: What `pin_backend` found.
        cache_dir: For copies of remote models.
        purse: Holds an endpoint's budget, less what was spent before.
    """
    if model is None:
        from cancellation.llm.endpoint_backend import EndpointBackend

        return EndpointBackend(settings.endpoint, purse)
    from cancellation.llm.transformers_backend import TransformersBackend

    return TransformersBackend(settings.local, model, cache_dir=cache_dir)


def learnt_by_adapter(model: LocalModel | None, *, cache_dir: str) -> np.ndarray | None:
    """Read which events the adapter learnt from (see `model.learnt`); None where there is none, or nobody knows."""
    if model is None or model.adapter is None:
        return None
    return read_learnt(fetch_model(model.adapter, cache_dir=cache_dir))
