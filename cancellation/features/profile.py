"""What the features looked like in training: bins and counts of each, saved beside the weights as `profile.json`.

Bins are cut at quantiles of the training events, so that each holds about as many; a value that many events share is
an edge once. A day's counts over the same bins can be added up over days and compared with those of training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cancellation.features.vector import feature_digest, feature_names
from cluster.storage import read_bytes

PROFILE_FILE = "profile.json"
NUM_BINS = 21
"""Bins of values; before them, in place 0, are the missing ones."""


@dataclass(frozen=True)
class FeatureProfile:
    """Counts of training events by bin."""

    feature_digest: str
    """Of names, units and order, as in `model.json`."""
    edges: tuple[np.ndarray, ...]
    """Upper ends of each feature's bins but the last, float32, ascending; a value on an edge is below it."""
    counts: np.ndarray
    """int64 (68, 1 + NUM_BINS): missing, then the bins; a feature with fewer bins has zeros behind."""

    @property
    def num_events(self) -> int:
        """Events that were counted."""
        return int(self.counts[0].sum())

    def count(self, features: np.ndarray) -> np.ndarray:
        """Count events by bin, int64 (68, 1 + NUM_BINS).

        Args:
            features: (n, 68) in the order of `FEATURES`, NaN where missing.
        """
        counts = np.zeros_like(self.counts)
        for number, edges in enumerate(self.edges):
            values = features[:, number].astype(np.float32)
            present = values[~np.isnan(values)]
            counts[number, 0] = len(values) - len(present)
            counts[number, 1:] = np.bincount(np.searchsorted(edges, present), minlength=NUM_BINS)
        return counts

    def to_json(self) -> bytes:
        """Write it as `load_profile` reads it."""
        rows = {
            name: {"edges": [float(edge) for edge in edges], "counts": counts[: len(edges) + 2].tolist()}
            for name, edges, counts in zip(feature_names(), self.edges, self.counts, strict=True)
        }
        content = {"feature_digest": self.feature_digest, "events": self.num_events, "features": rows}
        return (json.dumps(content, indent=1) + "\n").encode()


def fit_profile(features: np.ndarray) -> FeatureProfile:
    """Cut bins at the quantiles of training events, (n, 68), and count these.

    Raises:
        ValueError: If there are none, or of another number of features.
    """
    if features.ndim != 2 or features.shape[1] != len(feature_names()) or not len(features):
        raise ValueError(f"features: expected (events, {len(feature_names())}), found {features.shape}")
    places = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    edges = []
    for column in features.T.astype(np.float32):
        present = column[~np.isnan(column)]
        edges.append(np.unique(np.quantile(present, places, method="lower")) if len(present) else np.empty(0, "f4"))
    empty = FeatureProfile(feature_digest(), tuple(edges), np.zeros((len(edges), 1 + NUM_BINS), np.int64))
    return FeatureProfile(empty.feature_digest, empty.edges, empty.count(features))


def load_profile(url: str) -> FeatureProfile:
    """Read a profile.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is none, or of other features than this code computes.
    """
    content = read_bytes(url)
    try:
        value = json.loads(content)
        digest, rows = value["feature_digest"], [value["features"][name] for name in feature_names()]
        counts = np.zeros((len(rows), 1 + NUM_BINS), np.int64)
        for place, row in zip(counts, rows, strict=True):
            place[: len(row["counts"])] = row["counts"]
        edges = tuple(np.array(row["edges"], np.float32) for row in rows)
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{url}: expected a profile of {len(feature_names())} features, as training writes it"
        ) from None
    if digest != feature_digest():
        raise ValueError(
            f"{url}: expected feature digest {feature_digest()}, found {digest}: it is of a model that this code "
            "cannot run; give the folder of the one that is in service"
        )
    return FeatureProfile(digest, edges, counts)


def save_profile(profile: FeatureProfile, folder: Path) -> None:
    """Write `profile.json` beside a model's weights."""
    (folder / PROFILE_FILE).write_bytes(profile.to_json())
