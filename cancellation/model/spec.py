"""What a model's weights belong to: classes, factors, features and their order, markets, budget of tokens.

Saved as `model.json` beside the weights and compared at loading, because numbers in another order would be
scored without a complaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from cancellation.events.added import ADDED
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.features.vector import feature_digest, feature_names
from cancellation.text.encoding import BACKGROUND
from cluster.settings import Settings

_REMEDY = f"use the code it was trained with, {ADDED} set as it was then, or train it anew"
SPEC_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"


class ModelSpec(Settings):
    """The identity of a model. The defaults are those of the code that is running."""

    name: str = Field(min_length=1, max_length=200)
    """What people call it; with a digest of its files it is the model's version."""

    variant: str
    """How text and features meet: text, features, concat, gated or attention."""

    encoder: str
    """Class or source of the text encoder, for people."""

    max_tokens: int = Field(ge=32, le=8192)
    """Tokens per event, the start token included."""

    markets: tuple[str, ...] = ()
    """Markets with an embedding of their own, in its order; any other market takes the learned default."""

    left_out: tuple[str, ...] = BACKGROUND
    """Kinds of timeline segments that are not part of the text."""

    classes: tuple[str, ...] = VERDICTS
    factors: tuple[str, ...] = FACTORS
    features: tuple[str, ...] = Field(default_factory=feature_names)
    feature_digest: str = Field(default_factory=feature_digest)
    """Of names, units and order."""

    def market_index(self, market: str) -> int:
        """Row of a market in the embedding; 0 is the default."""
        return self.markets.index(market) + 1 if market in self.markets else 0

    def check(self, where: str) -> None:
        """Compare with the running code.

        Raises:
            ValueError: Naming what differs: features, their order or units, classes or factors.
        """
        names, remedy = feature_names(), _REMEDY
        if len(self.features) != len(names):
            raise ValueError(f"{where}: expected {len(names)} features, found {len(self.features)}; {remedy}")
        for place, (found, expected) in enumerate(zip(self.features, names, strict=True)):
            if found != expected:
                raise ValueError(f"{where}: expected feature {place} to be {expected}, found {found}; {remedy}")
        if self.feature_digest != feature_digest():
            raise ValueError(
                f"{where}: expected feature digest {feature_digest()}, found {self.feature_digest} (a unit changed); "
                f"{remedy}"
            )
        for name, found_codes, expected_codes in (
            ("classes", self.classes, VERDICTS),
            ("factors", self.factors, FACTORS),
        ):
            if found_codes != expected_codes:
                raise ValueError(
                    f"{where}: expected {name} {', '.join(expected_codes)}, found {', '.join(found_codes)}; {remedy}"
                )


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model gave a score, as far as a proof of its thresholds depends on it."""

    version: str
    """Name and digest of the files that decide the raw scores."""
    temperature: float
    """What raw scores are divided by: another one makes other scores of the same weights."""
    markets: tuple[str, ...]
    """Markets that it was trained on."""


def save_spec(spec: ModelSpec, folder: Path) -> None:
    """Write `model.json`."""
    (folder / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_spec(folder: Path) -> ModelSpec:
    """Read and check `model.json`.

    Raises:
        ValueError: If it is missing, malformed or of another order of features, classes or factors.
    """
    path = folder / SPEC_FILE
    try:
        spec = ModelSpec.model_validate_json(path.read_bytes())
    except OSError:
        raise ValueError(f"model folder {folder}: expected {SPEC_FILE}, found none; train or export it anew") from None
    except ValidationError as error:
        names = ", ".join(".".join(str(part) for part in problem["loc"]) or "JSON" for problem in error.errors())
        raise ValueError(f"{path}: expected a model's description, found bad values at {names}") from None
    spec.check(str(path))
    return spec
