"""8-bit linear layers of vLLM on a CPU, where its own choice can be wrong or fail: see `choose_int8_kernel`."""

from __future__ import annotations

import torch
from vllm.model_executor.kernels.linear import (
    _POSSIBLE_INT8_KERNELS,
    CPUInt8ScaledMMLinearKernel,
    Int8ScaledMMLinearKernel,
    Int8ScaledMMLinearLayerConfig,
)
from vllm.platforms import PlatformEnum

from relevance.engines.cpu_int8 import Int8Kernel
from relevance.weights.int8_linear import round_rows, whole_product


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


class OnednnInt8Kernel(CPUInt8ScaledMMLinearKernel):
    """What vLLM takes by itself where there is no AMX."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        self.linear_method = self._apply_weights_onednn
        self.process_weights_for_onednn(layer)


_KERNELS: dict[Int8Kernel, type[Int8ScaledMMLinearKernel]] = {
    "onednn": OnednnInt8Kernel,
    "exact": ExactInt8Kernel,
}


def use_int8_kernel(kernel: Int8Kernel) -> None:
    """Let the models that this process loads from now on take this kernel in the place of vLLM's own."""
    # Not by `VLLM_DISABLED_KERNELS`: child processes inherit it, and vLLM reads it once.
    found = _POSSIBLE_INT8_KERNELS[PlatformEnum.CPU]
    others = [other for other in found if other not in (CPUInt8ScaledMMLinearKernel, *_KERNELS.values())]
    _POSSIBLE_INT8_KERNELS[PlatformEnum.CPU] = [*others, _KERNELS[kernel]]
