from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm.model_executor.kernels.linear import init_int8_linear_kernel
from vllm.platforms import current_platform

from relevance.engines.cpu_int8 import choose_int8_kernel, cpu_features
from relevance.engines.vllm_int8_kernel import use_int8_kernel
from relevance.weights.int8_linear import quantize_rows, round_rows

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="vLLM is built for a GPU")
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-9}
"""Of an output, as a share of the largest: twice what its type rounds away, oneDNN rounds before the bias too."""


def kernel_in_use() -> object:
    return init_int8_linear_kernel(
        is_channelwise=True, is_static_input_scheme=False, input_symmetric=True, module_name="test"
    )


def layer_output(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    layer = torch.nn.Module()
    layer.logical_widths = [len(weight)]
    for name, values in {"weight": weight, "weight_scale": scale, "bias": bias}.items():
        layer.register_parameter(name, torch.nn.Parameter(values.clone(), requires_grad=False))
    for name in ("input_scale", "input_zero_point", "azp_adj"):
        layer.register_parameter(name, None)
    kernel = kernel_in_use()
    torch.set_default_dtype(hidden.dtype)  # as while vLLM loads a model
    try:
        kernel.process_weights_after_loading(layer)
    finally:
        torch.set_default_dtype(torch.float32)
    return kernel.apply_weights(layer, hidden, layer.bias)


@pytest.mark.parametrize("num_outputs", [96, 90])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_layer_of_vllm_is_right_on_this_processor(dtype: torch.dtype, num_outputs: int) -> None:
    torch.manual_seed(0)
    weight, scale = quantize_rows(torch.randn(num_outputs, 64))
    weight[0, :2] = 127  # two products that 16 bits do not hold together
    hidden, bias = torch.randn(33, 64), torch.randn(num_outputs).to(dtype)
    hidden[0, :2] = 7.0
    hidden = hidden.to(dtype)
    whole, steps = round_rows(hidden)
    expected = (whole.double() @ weight.double().t()) * (steps.double() * scale.double().t()) + bias.double()
    use_int8_kernel(choose_int8_kernel(cpu_features()))
    found = layer_output(weight, scale, bias, hidden).double()
    assert (found - expected).abs().max() <= ROUNDING[dtype] * expected.abs().max()


def test_a_process_may_change_its_kernel_and_its_children_choose_for_themselves() -> None:
    before = dict(os.environ)
    names = []
    for kernel in ("exact", "onednn", "onednn", "exact"):
        use_int8_kernel(kernel)
        names.append(type(kernel_in_use()).__name__)
    assert names == ["ExactInt8Kernel", "OnednnInt8Kernel", "OnednnInt8Kernel", "ExactInt8Kernel"]
    assert dict(os.environ) == before
