"""The trained network on a GPU, matrix products in 16 bits, or in 32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cancellation.model.fusion import FusionModel, load_fusion_model
from cancellation.model.spec import ModelSpec
from cancellation.model.verdict_model import Dtype


class TorchNetwork:
    """A `verdict_model.Network` on a device; weights stay in 32 bits, `dtype` is that of matrix products."""

    def __init__(self, model: FusionModel, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._model = model.to(device).eval()
        self._device = device
        self._dtype = dtype

    def __call__(
        self, token_ids: np.ndarray, features: np.ndarray, markets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        given = (torch.from_numpy(array).to(self._device) for array in (token_ids, features, markets))
        lower = self._dtype != torch.float32
        half = torch.autocast(self._device.type, dtype=self._dtype if lower else None, enabled=lower)
        with torch.inference_mode(), half:
            outputs = self._model(*given)
        return outputs.verdict_nc.float().cpu().numpy(), outputs.factors_nf.float().cpu().numpy()


def load_torch_network(
    folder: Path, spec: ModelSpec, device: str = "cuda", *, dtype: Dtype = "float16"
) -> TorchNetwork:
    """Load trained weights that belong to an export.

    float16 has three bits more than bfloat16, and what goes through the layer norms of a small encoder stays far within
    its range. An encoder of full size may leave it: then bfloat16.

    Raises:
        ValueError: If they are not there, or of another model than `spec` describes.
        RuntimeError: If there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device cuda: expected a GPU that torch can use, found none; set the device to cpu")
    if not folder.is_dir():
        raise ValueError(f"model folder {folder.parent}: expected {folder.name}/ for a GPU, found none; train it anew")
    model, _ = load_fusion_model(folder)
    if model.spec != spec:
        raise ValueError(f"model folder {folder}: of another model than the export beside it; export it anew")
    return TorchNetwork(model, torch.device(device), getattr(torch, dtype))
