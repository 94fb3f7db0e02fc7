"""The engine that the settings name, from a model folder on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relevance.engines.interface import Engine
from relevance.engines.settings import EngineSettings


def load_engine(
    model_dir: Path, *, adapter_dir: Path | None, label_ids: Sequence[int], settings: EngineSettings
) -> Engine:
    """Load a model into the engine that `settings.engine` names.

    Args:
        model_dir: Folder with config.json and safetensors.
        adapter_dir: LoRA adapter to merge into it.
        label_ids: The label words' vocabulary entries, in the order of `LABELS`.
        settings: Engine, device, precision, batching.

    Raises:
        ValueError: If the model or adapter is refused, or the engine is not installed.
    """
    if settings.engine == "vllm":
        from relevance.engines.vllm_engine import VllmEngine

        return VllmEngine(model_dir, adapter_dir=adapter_dir, label_ids=tuple(label_ids), settings=settings)
    from relevance.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model_dir, adapter_dir=adapter_dir, label_ids=tuple(label_ids), settings=settings)
