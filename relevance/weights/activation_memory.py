"""One rounding of an activation for all the linear layers that read it, or none for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


class ActivationMemory:
    """The last input and its quantised form: query, key and value (or gate and up) share one rounding."""

    def __init__(self) -> None:
        self.exact = False
        """Layers multiply by the weights that they stand for and round nothing."""
        self._input: torch.Tensor | None = None
        self._version = -1
        self._result: tuple[torch.Tensor, torch.Tensor] | None = None

    def quantize(
        self, values: torch.Tensor, rounding: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise `values`, or answer from memory if it is the very tensor of the last call, unchanged."""
        version = -1 if values.is_inference() else values._version
        if values is not self._input or version != self._version or self._result is None:
            self._result = rounding(values.reshape(-1, values.shape[-1]))
            self._input, self._version = values, version
        return self._result


@contextmanager
def exact_products(model: nn.Module) -> Iterator[None]:
    """Let a model's 8-bit layers, where it has some, round no activation inside the block."""
    found = [getattr(layer, "memory", None) for layer in model.modules()]
    memories = [memory for memory in found if isinstance(memory, ActivationMemory)]
    for memory in memories:
        memory.exact = True
    try:
        yield
    finally:
        for memory in memories:
            memory.exact = False


def exact_product(hidden: torch.Tensor, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> torch.Tensor:
    """Multiply by an 8-bit layer's dequantised weight, in the input's type."""
    bias_N = bias_N if bias_N is None else bias_N.to(hidden.dtype)
    return nn.functional.linear(hidden, weight_NK.to(hidden.dtype), bias_N)
