"""Which model answers: one in this process, or one behind OpenAI's interface."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from cancellation.llm.backend import Backend
from cancellation.model.learnt import read_learnt
from cluster.endpoint.purse import Purse
from cluster.endpoint.settings import EndpointSettings
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.settings import Settings


class LocalSettings(Settings):
    """A model that runs here."""

    model: str = "var/pretrained/smollm2-135m"
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

    @property
    def parallel(self) -> int:
        """Answers that are worth waiting for at once."""
        return self.endpoint.concurrency if self.kind == "endpoint" else 1

    @property
    def is_paid_per_request(self) -> bool:
        """Whether to ask again may be to pay again; of a model in this process it takes some more seconds."""
        return self.kind == "endpoint"


def backend_identity(settings: BackendSettings) -> dict[str, Any]:
    """Say which model answers, without loading it: part of what an output is a function of.

    Raises:
        ValueError: If there is no such model.
    """
    if settings.kind == "endpoint":
        asked = settings.endpoint
        return {"model": asked.model, "server": asked.base_url, **({"further": asked.further} if asked.further else {})}
    local = settings.local
    adapter = resolve_model(local.adapter).digest if local.adapter else None
    return {"model": resolve_model(local.model).digest, "adapter": adapter}


def open_backend(settings: BackendSettings, *, cache_dir: str, purse: Purse | None = None) -> Backend:
    """Load the model, or prepare the client; `purse` holds an endpoint's budget, less what was spent before."""
    if settings.kind == "endpoint":
        from cancellation.llm.endpoint_backend import EndpointBackend

        return EndpointBackend(settings.endpoint, purse)
    from cancellation.llm.transformers_backend import TransformersBackend

    return TransformersBackend(settings.local, cache_dir=cache_dir)


def learnt_by_adapter(settings: BackendSettings, *, cache_dir: str) -> np.ndarray | None:
    """Read which events the adapter learnt from (see `model.learnt`); None where there is none, or nobody knows."""
    if settings.kind == "endpoint" or settings.local.adapter is None:
        return None
    return read_learnt(fetch_model(resolve_model(settings.local.adapter), cache_dir=cache_dir))
