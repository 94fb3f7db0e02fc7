"""The 68 features as inputs of a network: of one scale, missing ones told from zero, none trusted too far.

Two encodings. `linear`: signed logarithm, then mean 0 and deviation 1. `piecewise`: the place between the
training set's quantiles, one input per interval (piecewise-linear encoding, Gorishniy et al. 2022, the form of
`rtdl_num_embeddings`, whose module is left out: it knows no missing values and a bin table is all it holds).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

FeatureEncoding = Literal["linear", "piecewise"]

_LIMIT = 4.0  # deviations; further out is as far


class FeatureLayer(nn.Module):
    """Features (n, 68) with NaN for missing to inputs (n, width)."""

    def __init__(self, num_features: int, encoding: FeatureEncoding, num_bins: int) -> None:
        super().__init__()
        self.encoding = encoding
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.register_buffer("edges", torch.linspace(-1, 1, num_bins + 1).repeat(num_features, 1))
        self.width = num_features * (2 if encoding == "linear" else num_bins + 1)

    def fit(self, table: np.ndarray) -> None:
        """Set scales and quantiles from a training set's features, shape (events, 68)."""
        squeezed = np.sign(table) * np.log1p(np.abs(table))
        for column, values in enumerate(squeezed.T):
            known = values[np.isfinite(values)]
            if not len(known):
                continue
            self.mean[column] = float(known.mean())
            self.scale[column] = float(max(known.std(), 1e-3))
            self.edges[column] = torch.from_numpy(_edges(known, self.edges.shape[1])).float()

    def forward(self, features_nf: torch.Tensor) -> torch.Tensor:
        missing = torch.isnan(features_nf)
        known = torch.where(missing, torch.zeros_like(features_nf), features_nf)
        squeezed = torch.sign(known) * torch.log1p(torch.abs(known))
        present = 1.0 - missing.float()
        if self.encoding == "linear":
            scaled = torch.clamp((squeezed - self.mean) / self.scale, -_LIMIT, _LIMIT) * present
            return torch.cat([scaled, present], dim=1)
        widths = self.edges[:, 1:] - self.edges[:, :-1]
        places = torch.clamp((squeezed[:, :, None] - self.edges[:, :-1]) / widths, 0.0, 1.0)
        return torch.cat([(places * present[:, :, None]).flatten(1), present], dim=1)


def _edges(known: np.ndarray, num_edges: int) -> np.ndarray:
    """Quantiles, made to rise strictly: a feature that is mostly zero has many equal ones."""
    edges = np.quantile(known, np.linspace(0, 1, num_edges))
    step = max(float(edges[-1] - edges[0]), 1.0) * 1e-3
    return np.maximum.accumulate(edges + step * np.arange(num_edges))
