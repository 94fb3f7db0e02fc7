"""Linear layers in FP8 (e4m3): a scale per output and per token, for GPUs of capability 8.9 or later.

Buffers as in compressed-tensors checkpoints (`float-quantized`). Shapes: M tokens, K inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import nn

_TINY = 1e-12
_MIN_CAPABILITY = (8, 9)


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
    """Round each row to e4m3 with its own scale: (M, K) and float32 (M, 1)."""
    limit = torch.finfo(torch.float8_e4m3fn).max
    scale_M1 = values_MK.abs().amax(dim=-1, keepdim=True).float().clamp_(min=_TINY).div_(limit)
    # The division can round above the limit, which e4m3 has no infinity to catch.
    return (values_MK.float() / scale_M1).clamp_(-limit, limit).to(torch.float8_e4m3fn), scale_M1


class Fp8Linear(nn.Module):
    """W8A8 linear layer in e4m3 with row-wise scales."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.float8_e4m3fn))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(out_features, dtype=torch.float32) if bias else None)

    @classmethod
    def from_weight(cls, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> Fp8Linear:
        """Quantise a weight, one scale per output."""
        layer = cls(weight_NK.shape[1], weight_NK.shape[0], bias=bias_N is not None)
        layer.weight, layer.weight_scale = quantize_rows_fp8(weight_NK.detach())
        if bias_N is not None:
            layer.bias = bias_N.detach().float()
        return layer

    def dequantized_weight(self) -> torch.Tensor:
        """The weight that the layer stands for, float32 (N, K)."""
        return self.weight.float() * self.weight_scale.float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        quantized_MK, scale_M1 = quantize_rows_fp8(hidden.reshape(-1, self.in_features))
        # Row-wise scales exist for bfloat16 results only.
        product_MN = torch._scaled_mm(
            quantized_MK,
            self.weight.t(),
            scale_a=scale_M1,
            scale_b=self.weight_scale.view(1, -1).float(),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        if self.bias is not None:
            product_MN = product_MN + self.bias
        return product_MN.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)
