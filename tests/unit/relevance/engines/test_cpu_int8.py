from __future__ import annotations

import pytest
import torch

from relevance.engines.cpu_int8 import choose_int8_kernel, cpu_features

AVX2 = frozenset({"avx", "avx2", "fma3"})
AVX512 = AVX2 | {"avx512_f", "avx512_bw"}
VNNI = AVX512 | {"avx512_vnni"}
AMX = VNNI | {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"}


@pytest.mark.parametrize(
    ("features", "kernel"),
    [(AVX2, "exact"), (AVX512, "exact"), (VNNI, "onednn"), (AMX, "onednn"), (frozenset({"asimd"}), "exact")],
    ids=["avx2", "avx512", "vnni", "amx", "arm"],
)
def test_each_kind_of_processor_gets_a_kernel_that_is_right_on_it(features: frozenset[str], kernel: str) -> None:
    assert choose_int8_kernel(features) == kernel


def test_this_processor_is_named_as_the_choice_expects() -> None:
    assert ("avx512_vnni" in cpu_features()) == torch.cpu._is_vnni_supported()
