"""Linear layers in 8 bits: int8 weights with a scale per output, activations quantised per token.

A scale per token, not per tensor: what a pair gets must not depend on the batch that it sits in.
The buffers are named and shaped as in compressed-tensors checkpoints (`int-quantized`), so such a
checkpoint is read without a second rounding.

Shapes: M tokens, K inputs, N outputs.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from relevance.weights.activation_memory import ActivationMemory, exact_product

_LEVELS = 127
"""Symmetric int8, -127 to 127: -128 has no opposite."""
_TINY = 1e-12
_UINT8_OFFSET = 128
_MIN_CUDA_ROWS = 17
"""`torch._int_mm` refuses fewer rows on a GPU."""


def quantize_rows(values_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to int8 with its own scale.

    Returns:
        int8 (M, K) and float32 (M, 1); their product is the row again, off by half a scale at most.
    """
    rounded_MK, scale_M1 = round_rows(values_MK)
    return rounded_MK.to(torch.int8), scale_M1


def round_rows(values_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round as `quantize_rows` does and leave the whole numbers in float32."""
    values_MK = values_MK.float()
    scale_M1 = values_MK.abs().amax(dim=-1, keepdim=True).clamp_(min=_TINY).div_(_LEVELS)
    return (values_MK / scale_M1).round_(), scale_M1


def whole_product(whole_MK: torch.Tensor, weight_NK: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """Multiply whole numbers in float32 by an int8 weight and its scales, float32 (M, N).

    For a CPU without VNNI, which has no fast product of bytes: `torch._int_mm` takes 25 times as long as float32 there.
    Whole numbers below 2**24, that is all sums of up to 1,040 inputs, are exact in float32.
    """
    return (whole_MK @ weight_NK.float().t()).mul_(weight_scale.view(1, -1).float())


class Int8Linear(nn.Module):
    """W8A8 linear layer: int8 by int8 into int32, scaled back to the input's type."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, memory: ActivationMemory) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(out_features, dtype=torch.float32) if bias else None)
        self.memory = memory
        self._packed: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def from_weight(cls, weight_NK: torch.Tensor, bias_N: torch.Tensor | None, memory: ActivationMemory) -> Int8Linear:
        """Quantise a weight, one scale per output."""
        layer = cls(weight_NK.shape[1], weight_NK.shape[0], bias=bias_N is not None, memory=memory)
        layer.weight, layer.weight_scale = quantize_rows(weight_NK.detach())
        if bias_N is not None:
            layer.bias = bias_N.detach().float()
        return layer

    def dequantized_weight(self) -> torch.Tensor:
        """The weight that the layer stands for, float32 (N, K)."""
        return self.weight.float() * self.weight_scale.float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.memory.exact:
            return exact_product(hidden, self.dequantized_weight(), self.bias)
        rounding = self._quantize_cpu if hidden.device.type == "cpu" else quantize_rows
        quantized_MK, scale_M1 = self.memory.quantize(hidden, rounding)
        product_MN = self._product(quantized_MK).mul_(scale_M1)
        if self.bias is not None:
            product_MN.add_(self.bias)
        return product_MN.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)

    def _quantize_cpu(self, values_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not has_vnni():
            return round_rows(values_MK)
        quantized, scale = quantize_rows(values_MK)
        # VNNI multiplies unsigned by signed bytes: shift by 128 (converting straight to uint8 is ten times slower).
        return quantized.view(torch.uint8).add_(_UINT8_OFFSET), scale

    def _product(self, quantized_MK: torch.Tensor) -> torch.Tensor:
        """Multiply by the weight and its scales, float32 (M, N)."""
        if quantized_MK.dtype == torch.uint8:
            return self._onednn_product(quantized_MK)
        if quantized_MK.dtype == torch.float32:
            return whole_product(quantized_MK, self.weight, self.weight_scale)
        rows = quantized_MK.shape[0]
        if quantized_MK.device.type == "cuda" and rows < _MIN_CUDA_ROWS:
            quantized_MK = nn.functional.pad(quantized_MK, (0, 0, 0, _MIN_CUDA_ROWS - rows))
        return (torch._int_mm(quantized_MK, self.weight.t()) * self.weight_scale.view(1, -1).float())[:rows]

    def _onednn_product(self, quantized_MK: torch.Tensor) -> torch.Tensor:
        # One pass less over (M, N) than `torch._int_mm`: the weight's scales are applied inside the product.
        if self._packed is None:
            scale = self.weight_scale.reshape(-1).float().contiguous()
            packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
            self._packed = packed, scale, torch.zeros(self.out_features, dtype=torch.int64)
        weight, scale, zero_points = self._packed
        return torch.ops.onednn.qlinear_pointwise(
            quantized_MK, 1.0, _UINT8_OFFSET, weight, scale, zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip


@cache
def has_vnni() -> bool:
    """Say whether oneDNN multiplies bytes exactly here: without VNNI its sums saturate at 16 bits."""
    return hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.cpu._is_vnni_supported()
