from __future__ import annotations

import pytest
import torch

from relevance.weights.activation_memory import ActivationMemory
from relevance.weights.fp8_linear import Fp8Linear, quantize_rows_fp8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_keeps_every_value_within_a_sixteenth(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (torch.randn(40, 64) * torch.rand(40, 1) * 100).to(dtype)
    values[3], values[4] = 0, 1e-5
    quantized, scale = quantize_rows_fp8(values)
    restored, exact = quantized.float() * scale, values.float()
    assert torch.equal(restored[3], torch.zeros(64))
    small = exact.abs().amax(dim=1, keepdim=True) / 1000
    assert ((restored - exact).abs() <= exact.abs().maximum(small) / 15).all()


@pytest.mark.parametrize(("bias", "rows"), [(False, 5), (True, 5), (True, 600)])
def test_the_layer_multiplies_what_it_says_that_it_holds(bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    offset = torch.randn(32)
    layer = Fp8Linear.from_weight(torch.randn(32, 64), offset if bias else None, ActivationMemory())
    hidden = (torch.randn(2, rows, 64) * 3).bfloat16()
    quantized, scale = quantize_rows_fp8(hidden.view(-1, 64))
    expected = ((quantized.float() * scale) @ layer.dequantized_weight().t()).view(2, rows, 32)
    expected = expected + offset if bias else expected
    result = layer(hidden)
    assert result.dtype == torch.bfloat16
    assert torch.allclose(result.float(), expected, rtol=0.01, atol=0.05)
