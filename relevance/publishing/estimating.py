"""What publishing would take: a sample of its pairs asked of base and adapter, by the engine that runs the model."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from cluster.models.listing import list_model
from cluster.progress import format_seconds
from relevance.engines.label_model import open_label_model
from relevance.engines.settings import EngineSettings
from relevance.evaluation.pairs import read_evaluation_pairs
from relevance.evaluation.predictions import ask_model
from relevance.publishing.run import PublishSource, check_source
from relevance.publishing.steps import PublishingSettings

_PAIRS = 200


@dataclass(frozen=True)
class PublishingEstimate:
    """Figures of a whole run, scaled up from a sample of its pairs."""

    pairs: int
    sampled_pairs: int
    times: int
    """That all pairs are asked: of the model, of what it was before it was quantised, of the champion."""
    pairs_per_second: float
    load_seconds: float
    model_bytes: int
    gpus: float
    gpu_hour_price: float

    @property
    def seconds(self) -> float:
        """Wall-clock time of the judging."""
        return self.times * (self.load_seconds + self.pairs / self.pairs_per_second)

    def lines(self) -> list[str]:
        """For people."""
        cost = self.seconds / 3600 * self.gpus * self.gpu_hour_price
        return [
            f"{self.pairs:,} labelled pairs, asked up to {self.times} times: of the model, unquantised, the champion",
            f"{self.pairs_per_second:,.0f} pairs/s after {self.load_seconds:.1f} s of loading: measured on "
            f"{self.sampled_pairs} of them, unquantised",
            f"about {format_seconds(self.seconds)}; reading, merging, quantising and registering "
            f"{self.model_bytes / 1e9:,.2f} GB come on top",
            f"about ${cost:,.2f}" if cost else "no price is set (engine.gpus_per_actor, gpu_hour_price)",
            "nothing was written",
        ]


def estimate_publishing(
    source: PublishSource, publishing: PublishingSettings, engine: EngineSettings, *, registry_uri: str | None
) -> PublishingEstimate:
    """Ask the base with its adapter for some of the pairs, and scale up.

    Raises:
        ValueError: If a setting is missing, or the model or the pairs are refused.
    """
    check_source(source)
    pairs = read_evaluation_pairs(source.input or "")
    model = open_label_model(
        source.base or "", source.adapter, quantization="none", cache_dir=source.cache_dir, registry_uri=registry_uri
    )
    model.check()
    some = np.zeros(len(pairs), bool)
    some[np.linspace(0, len(pairs) - 1, num=min(_PAIRS, len(pairs))).astype(int)] = True
    started = time.perf_counter()
    said = ask_model(pairs.take(some).rows, model, engine)
    asked = said.engine_seconds or 0.0
    return PublishingEstimate(
        pairs=len(pairs),
        sampled_pairs=int(some.sum()),
        times=2 if publishing.quantization == "none" else 3,
        pairs_per_second=int(some.sum()) / max(asked, 1e-9),
        load_seconds=time.perf_counter() - started - asked,
        model_bytes=sum(sum(list_model(part).sizes.values()) for part in model.parts),
        gpus=engine.gpus_per_actor,
        gpu_hour_price=source.gpu_hour_price,
    )
