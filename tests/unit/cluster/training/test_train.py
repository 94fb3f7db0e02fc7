from __future__ import annotations

import torch

from cluster.training.train import autocast


def test_bfloat16_is_used_only_where_it_is_asked_for_and_not_emulated() -> None:
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    a = torch.ones(4, 4)
    for asked in (True, False):
        with autocast(torch.device("cpu"), bf16=asked):
            assert (a @ a).dtype == (torch.bfloat16 if asked and able else torch.float32)
