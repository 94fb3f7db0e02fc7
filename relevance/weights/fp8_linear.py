"""Linear layers in FP8 (e4m3): a scale per output and per token, for GPUs of capability 8.9 or later.

Buffers as in compressed-tensors checkpoints (`float-quantized`). Shapes: M tokens, K inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import nn

from relevance.weights.activation_memory import ActivationMemory, exact_product

_TINY = 0.007
"""The smallest scale is that of this value: 448 divided by it still fits float16, and e4m3's own exponent
serves rows that are smaller."""
_MIN_CAPABILITY = (8, 9)
_MIN_ROWS = 1024
"""Fewer rows are filled up with zeros: on Hopper cuBLAS has no row-wise product of few rows and many inputs
(https://github.com/pytorch/ao/issues/4582: 256 rows by 9,216 inputs fail, 257 do not)."""


def require_fp8(device: torch.device) -> None:
    """Check that the device multiplies FP8.

    Raises:
        ValueError: If it is no GPU, or an older one.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < _MIN_CAPABILITY:
        found = "a CPU" if capability is None else f"capability {capability[0]}.{capability[1]}"
        raise ValueError(f"FP8 needs a GPU of compute capability 8.9 or later, found {found}: set quantization=int8")


def quantize_rows_fp8(values_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to e4m3 with its own scale.

    Stays in the input's type, for on a large GPU these passes over memory cost as much as the product.
    The factor is rounded first and the scale is its inverse, so the two cancel exactly.

    Returns:
        float8_e4m3fn (M, K) and float32 (M, 1); their product is the row again, off by 1/16 of a value at most.
    """
    largest_M1 = torch.linalg.vector_norm(values_MK, ord=float("inf"), dim=-1, keepdim=True).float()
    factor_M1 = (torch.finfo(torch.float8_e4m3fn).max / largest_M1.clamp_(min=_TINY)).to(values_MK.dtype)
    # 448 times a factor rounded to 16 bits stays below 464, where e4m3 would turn to NaN.
    return (values_MK * factor_M1).to(torch.float8_e4m3fn), factor_M1.float().reciprocal()


def _quantize_enough_rows(values_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    missing = max(_MIN_ROWS - values_MK.shape[0], 0)
    return quantize_rows_fp8(nn.functional.pad(values_MK, (0, 0, 0, missing)) if missing else values_MK)


class Fp8Linear(nn.Module):
    """W8A8 linear layer in e4m3 with row-wise scales."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, memory: ActivationMemory) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.float8_e4m3fn))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(out_features, dtype=torch.float32) if bias else None)
        self.memory = memory

    @classmethod
    def from_weight(cls, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, memory: ActivationMemory) -> Fp8Linear:
        """Quantise a weight, one scale per output."""
        layer = cls(weight_NK.shape[1], weight_NK.shape[0], bias=bias_N is not None, memory=memory)
        layer.weight, layer.weight_scale = quantize_rows_fp8(weight_NK.detach().float())
        if bias_N is not None:
            layer.bias = bias_N.detach().float()
        return layer

    def dequantized_weight(self) -> torch.Tensor:
        """The weight that the layer stands for, float32 (N, K)."""
        return self.weight.float() * self.weight_scale.float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.memory.exact:
            return exact_product(hidden, self.dequantized_weight(), self.bias)
        quantized_MK, scale_M1 = self.memory.quantize(hidden, _quantize_enough_rows)
        # Row-wise scales exist for bfloat16 results only.
        product_MN = torch._scaled_mm(
            quantized_MK,
            self.weight.t(),
            scale_a=scale_M1,
            scale_b=self.weight_scale.view(1, -1).float(),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )[: hidden.shape[:-1].numel()]
        if self.bias is not None:
            product_MN = product_MN + self.bias
        return product_MN.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)
