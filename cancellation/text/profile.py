"""What texts looked like in training: the directions in which a market's texts differ, and how they lie along them.

A model gives a text as one vector. The market's mean is taken off, since which language is spoken is no news, and what
is left lies mostly in a few directions (principal components); what those do not hold is one length, on which a text
of a kind that training never had comes out long (the squared prediction error of multivariate process control). How
many texts lie where is counted market by market, so that a day with other markets than training is compared with those
markets' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cancellation.contact_data.logged_event import is_by_reference, redact_event, written_texts
from cancellation.events.event import parse_event
from cancellation.features.profile import PROFILE_FILE
from cancellation.text.encoding import EventEncoder
from cancellation.text.timeline import timeline
from cluster.storage import read_bytes

NUM_DIRECTIONS = 8
NUM_BINS = 10
"""Bins along each direction, at quantiles of training."""

MIN_TEXTS = 50
"""Training texts of a market, below which it is not compared."""

_DIGITS = 4
"""Of numbers kept: entries of vectors after a layer norm are of the order of 1."""

_KEY = "text"


@dataclass(frozen=True)
class TextProfile:
    """Directions of texts' vectors of some width, and counts of training texts along them."""

    markets: tuple[str, ...]
    means: np.ndarray
    """Of each market's vectors, (markets, width)."""
    directions: np.ndarray
    """Orthonormal, the one along which texts differ most first, (directions, width)."""
    edges: np.ndarray
    """Of bins along each direction, and of the remainder's length behind them, (directions + 1, NUM_BINS - 1)."""
    counts: np.ndarray
    """Of training texts by market, int64 (markets, directions + 1, NUM_BINS)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the directions, and of what they leave."""
        return (
            *(f"text direction {number}" for number in range(1, len(self.directions) + 1)),
            "text distance from all directions",
        )

    @property
    def num_texts(self) -> int:
        """Training texts."""
        return int(self.counts[:, 0].sum())

    def places(self, vectors: np.ndarray, markets: Sequence[str]) -> np.ndarray:
        """Say where texts lie along each direction and how far off all of them, float32 (n, directions + 1).

        Args:
            vectors: (n, width).
            markets: Of each, all of them in `markets`.
        """
        own = vectors - self.means[[self.markets.index(code) for code in markets]]
        along = own @ self.directions.T
        left = own - along @ self.directions
        return np.concatenate([along, np.linalg.norm(left, axis=1, keepdims=True)], axis=1).astype(np.float32)

    def bins(self, places: np.ndarray) -> np.ndarray:
        """Give the bins that places fall into, of the same shape."""
        return np.stack([np.searchsorted(edges, column) for edges, column in zip(self.edges, places.T, strict=True)], 1)

    def count(self, places: np.ndarray, markets: Sequence[str]) -> np.ndarray:
        """Count places by market and bin, in the form of `counts`."""
        found = np.zeros((len(self.markets), len(self.edges), NUM_BINS), np.int64)
        rows = np.array([self.markets.index(code) for code in markets], np.int64)
        for number, column in enumerate(self.bins(places).T):
            np.add.at(found, (rows, number, column), 1)
        return found

    def to_json(self) -> bytes:
        """Write it as `load_text_profile` reads it."""
        content = {
            "markets": self.markets,
            "means": _rounded(self.means),
            "directions": _rounded(self.directions),
            "edges": _rounded(self.edges),
            "counts": self.counts.tolist(),
        }
        return json.dumps(content, separators=(",", ":")).encode()


def fit_text_profile(vectors: np.ndarray, markets: Sequence[str]) -> TextProfile | None:
    """Find the directions of training texts and count these along them; None: no market has enough of them.

    Args:
        vectors: (n, width).
        markets: Of each.
    """
    codes = np.array(markets, dtype=object)
    enough = tuple(code for code in sorted(set(markets)) if int((codes == code).sum()) >= MIN_TEXTS)
    if not enough:
        return None
    chosen = np.isin(codes, enough)
    vectors, codes = vectors[chosen].astype(np.float64), codes[chosen]
    means = np.stack([vectors[codes == code].mean(0) for code in enough])
    own = vectors - means[[enough.index(code) for code in codes]]
    _, found = np.linalg.eigh(own.T @ own)
    directions = found.T[::-1][: min(NUM_DIRECTIONS, vectors.shape[1] - 1)]
    # Which way along a direction is up is chance of the solver: the largest entry is positive.
    directions = directions * np.sign(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1))
    means, directions = np.array(_rounded(means)), np.array(_rounded(directions))  # as they will be read back
    none = np.zeros((len(directions) + 1, NUM_BINS - 1))
    profile = TextProfile(enough, means, directions, none, np.zeros((len(enough), *none.shape), np.int64))
    places = profile.places(vectors, codes.tolist())
    edges = np.array(_rounded(np.quantile(places, np.linspace(0, 1, NUM_BINS + 1)[1:-1], axis=0).T))
    profile = TextProfile(enough, means, directions, edges, profile.counts)
    return TextProfile(enough, means, directions, edges, profile.count(places, codes.tolist()))


def _rounded(values: np.ndarray) -> list[Any]:
    return np.round(values.astype(np.float64), _DIGITS).tolist()


def load_text_profile(url: str) -> TextProfile | None:
    """Read the texts' part of a `profile.json`; None: it has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none.
    """
    try:
        value = json.loads(read_bytes(url)).get(_KEY)
        if value is None:
            return None
        arrays = [np.array(value[name]) for name in ("means", "directions", "edges", "counts")]
        profile = TextProfile(tuple(value["markets"]), *arrays)
        markets, width = profile.means.shape
        lengths = (len(profile.directions) + 1, NUM_BINS - 1)
        whole = profile.directions.shape == (lengths[0] - 1, width) and profile.edges.shape == lengths
        if whole and profile.counts.shape == (markets, lengths[0], NUM_BINS) and markets == len(profile.markets):
            return profile
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise ValueError(f"{url}: expected a profile of texts under {_KEY!r}, as training writes it") from None


def save_text_profile(profile: TextProfile, folder: Path) -> None:
    """Add it to the `profile.json` of a model's folder; the features' part stays as it is, byte for byte."""
    path = folder / PROFILE_FILE
    features = json.loads(path.read_bytes())
    features.pop(_KEY, None)
    whole = json.dumps(features, indent=1).removesuffix("\n}").encode()
    path.write_bytes(b'%s,\n "%s": %s\n}\n' % (whole, _KEY.encode(), profile.to_json()))


def comparable_text(event: Mapping[str, Any], encoder: EventEncoder) -> list[int] | None:
    """Give an event's token ids as training and a day are compared by; None where nobody wrote or nothing is kept.

    Without contact data, as the log keeps texts: a day of another log mode than training's is no drift. How often
    nobody writes is for the features to tell.

    Args:
        event: In the contract's form, from an event or a log.
        encoder: The model's.
    """
    if not written_texts(event) or is_by_reference(event):
        return None
    return encoder.fit(timeline(parse_event(redact_event(event, "redacted"))))[0]
