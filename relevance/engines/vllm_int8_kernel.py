"""8-bit linear layers of vLLM on a CPU without VNNI, where its own are wrong.

vLLM 0.29 multiplies bytes by oneDNN. Without VNNI that sums pairs of products in 16 bits, which saturate: two large
weights under two large activations come out too small, and probabilities move by 0.2. Nothing says so.
"""

from __future__ import annotations

import os

import torch
from vllm.model_executor.kernels.linear import (
    CPUInt8ScaledMMLinearKernel,
    Int8ScaledMMLinearKernel,
    Int8ScaledMMLinearLayerConfig,
    register_linear_kernel,
)
from vllm.platforms import PlatformEnum

from relevance.weights.int8_linear import round_rows, whole_product

_DISABLED = "VLLM_DISABLED_KERNELS"


class ExactInt8Kernel(Int8ScaledMMLinearKernel):
    """The arithmetic of `Int8Linear`, bytes held as floats for the length of a product."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        return True, None

    @classmethod
    def can_implement(cls, c: Int8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        if c.is_channelwise and c.input_symmetric and not c.is_static_input_scheme:
            return True, None
        return False, "takes weights per channel and symmetric dynamic activations alone"

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leave the weights as the checkpoint has them."""

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        weight, weight_scale, *_ = self._get_layer_params(layer)
        whole, scale = round_rows(x.reshape(-1, x.shape[-1]))
        product = whole_product(whole, weight, weight_scale).mul_(scale)
        if bias is not None:
            product.add_(bias)
        return product.to(x.dtype).view(*x.shape[:-1], -1)


def use_exact_int8() -> None:
    """Put the exact kernel in the place of vLLM's own, for this process."""
    own = CPUInt8ScaledMMLinearKernel.__name__
    disabled = {name for name in os.environ.get(_DISABLED, "").split(",") if name}
    if own not in disabled:
        os.environ[_DISABLED] = ",".join(sorted({*disabled, own}))
        register_linear_kernel(ExactInt8Kernel, PlatformEnum.CPU, "int8")
