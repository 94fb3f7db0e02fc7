"""What the tests of models share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads wait for each other on tiny matrices: 20 times as long where the machine does other things too."""
    torch.set_num_threads(1)
