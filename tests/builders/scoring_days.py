"""Days of scores as they look in life, for tests of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.commit import Output
from cluster.models.files import ModelFiles
from relevance.engines.label_model import LabelModel
from relevance.scoring.figures import ScoringFigures
from relevance.scoring.label_store import LabelStore
from relevance.scoring.run import ScoringRun, ScoringSettings
from relevance.scoring.shard_steps import NOT_FINITE

FINGERPRINT = "5f0c1d2ab93e4476"


def scoring_run(output: str, *, input_url: str = "s3://search/pairs/ds=2026-11-22", **settings: Any) -> ScoringRun:
    """A run of an 8B model; nothing of it is there but its names."""
    base = ModelFiles("relevance-llama-3.1-8b/7", "9c41aa02", "models:/relevance-llama-3.1-8b/7")
    return ScoringRun(
        input=input_url,
        output=Output(output),
        model=LabelModel(base=base, adapter=None, quantization="fp8", cache_dir="~/.cache/marketplace-llm"),
        fingerprint=FINGERPRINT,
        prompt_version="c2f7a1e9",
        store=LabelStore(f"{output.rpartition('/')[0]}/_label_store", FINGERPRINT),
        settings=ScoringSettings(**settings),
    )


def shard_figures(
    *,
    rows: int = 1_000_000,
    shares: tuple[float, ...] = (0.482, 0.291, 0.068, 0.159),
    reused: float = 0.0,
    repeated: float = 0.004,
    errors: dict[str, int] | None = None,
    poisoned: int = 0,
    not_finite: int = 0,
    judged: int = 0,
    label_mass: float | None = 0.985,
    unshared: int = 0,
    conflicting: int = 0,
    shard: str = "00000",
) -> dict[str, Any]:
    """The figures of one shard, as `scoring.finish_block` counts them."""
    errors = dict(errors or {}) | ({NOT_FINITE: not_finite} if not_finite else {})
    failed = sum(errors.values())
    labelled = rows - failed
    parts = {"reused": int(reused * rows), "repeated": int(repeated * rows)}
    labels = np.floor(np.array(shares) * labelled).astype(int)
    labels[0] += labelled - labels.sum()
    centres = (np.arange(20) + 0.5) / 20
    computed = labelled - sum(parts.values())
    return {
        "shard": shard,
        "read": rows,
        "labelled": computed,
        **parts,
        "failed": failed,
        "poisoned": poisoned,
        "not_finite": not_finite,
        "ignored": 0,
        "conflicting": conflicting,
        "errors": errors,
        "labels": dict(zip(("exact", "substitute", "complement", "irrelevant"), labels.tolist(), strict=True)),
        "confusion": _confusion(judged).tolist(),
        "confidence_histogram": _spread(labelled, np.where(centres < 0.25, 0, centres**4 + 0.04)),
        "label_mass_histogram": _spread(labelled, np.exp(-((1 - centres) / max(1e-3, 1.05 - (label_mass or 0))))),
        "label_mass_sum": None if label_mass is None else label_mass * labelled,
        "prompt_tokens": 654 * computed,
        "computed_tokens": 54 * computed,
        "engine_seconds": computed / 1_050,
        "unshared_pairs": unshared,
        "waiting_seconds": computed / 1_050 * 0.03,
        "gpu_busy_seconds": computed / 1_050 * 0.94,
        "gpu_seconds": computed / 1_050 * 1.03,
    }


def scored_day(*shards: dict[str, Any], seconds: float = 4_812.0) -> tuple[ScoringFigures, float]:
    return ScoringFigures.sum(shards or [shard_figures()]), seconds


def _spread(total: int, weights: np.ndarray) -> list[int]:
    counts = np.floor(total * weights / weights.sum()).astype(int)
    counts[-1] += total - counts.sum()
    return counts.tolist()


def _confusion(judged: int) -> np.ndarray:
    shares = np.array(
        [[0.42, 0.06, 0.01, 0.01], [0.07, 0.25, 0.01, 0.03], [0.01, 0.01, 0.02, 0.01], [0, 0.03, 0, 0.06]]
    )
    return np.floor(judged * shares).astype(int)
