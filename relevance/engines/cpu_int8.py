"""Which product of bytes vLLM's 8-bit layers use on a CPU: its own choice is wrong on some and fails on others."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

import torch

Int8Kernel = Literal["onednn", "exact"]
"""See `vllm_int8_kernel`."""


def choose_int8_kernel(features: Set[str]) -> Int8Kernel:
    """Choose by what the processor can do, for activations of any type and vLLM 0.29.

    Left alone, vLLM takes oneDNN where there is no AMX, and with AMX a kernel of its own. Without VNNI oneDNN sums
    pairs of products in 16 bits, which saturate: two large weights under two large activations come out too small,
    and probabilities move by 0.2 and more. Nothing says so. vLLM's kernel for AMX refuses float32, ends the process
    at float16, and at bfloat16 makes no model faster. With VNNI and with AMX oneDNN's sums are exact.

    Args:
        features: As `cpu_features` names them.
    """
    return "onednn" if "avx512_vnni" in features else "exact"


def cpu_features() -> frozenset[str]:
    """Give the instructions that this processor has: avx2, avx512_vnni, amx_tile and others."""
    return frozenset(name for name, value in torch.cpu.get_capabilities().items() if value is True)
