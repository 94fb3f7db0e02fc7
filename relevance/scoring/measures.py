"""What a day's figures say: shares, rates, cost, and how far the labels moved from one day to the next.

A day's figures are `ScoringFigures.as_dict()` and `seconds`, the form in which `_SUCCESS` keeps them, so
that today and any earlier day are measured by the same functions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.commit import read_job_manifest
from cluster.storage import join_url, open_filesystem
from cluster.storage_failures import named_failures
from relevance.labels import LABELS

logger = logging.getLogger(__name__)

_MAX_DAYS_BACK = 30
"""Partitions that are looked at before a day counts as the first."""


@dataclass(frozen=True)
class DayMeasures:
    """Numbers derived from a day's figures."""

    pairs_per_second: float
    """Rows by wall-clock seconds of this attempt, those that an earlier attempt had committed left out."""
    pairs_per_engine_second: float
    """Pairs that the model computed by seconds that actors spent in the engine."""
    tokens_saved: int
    """Prompt tokens that a shared prefix spared the model."""
    cost_usd: float
    """GPU time in the engine at the given price; idle and loading time of actors not counted."""
    cost_per_million_pairs: float
    """Over all rows with a label, reused and repeated ones included."""
    engine_wait_fraction: float | None
    """Share of the time of loaded engines in which they waited for a shard; None where no engine worked."""
    gpu_busy_fraction: float | None
    """Share of the time in which a kernel ran on the actors' GPUs, as the driver says; None where it was not asked."""


@dataclass(frozen=True)
class PreviousDay:
    """The nearest earlier committed day of the same output that has rows."""

    name: str
    """Its partition, such as `ds=2026-11-21`."""
    model: str
    fingerprint: str
    figures: Mapping[str, Any]


def measure_day(figures: Mapping[str, Any], *, gpu_hour_price: float, gpus_per_actor: float) -> DayMeasures:
    """Derive rates and cost.

    Args:
        figures: A day's figures.
        gpu_hour_price: USD per GPU and hour.
        gpus_per_actor: GPUs that each engine actor reserves; 0 on a CPU, which costs nothing here.
    """
    engine_seconds = figures["engine_seconds"]
    waited = figures.get("waiting_seconds")  # days from before did not count it
    cost = engine_seconds / 3600 * gpu_hour_price * gpus_per_actor
    return DayMeasures(
        pairs_per_second=pairs_of_now(figures) / figures["seconds"] if figures["seconds"] else 0.0,
        pairs_per_engine_second=figures["counts"]["labelled"] / engine_seconds if engine_seconds else 0.0,
        tokens_saved=figures["prompt_tokens"] - figures["computed_tokens"],
        cost_usd=cost,
        cost_per_million_pairs=cost * 1e6 / max(1, sum(figures["labels"].values())),
        engine_wait_fraction=waited / (waited + engine_seconds) if engine_seconds and waited is not None else None,
        gpu_busy_fraction=figures["gpu_busy_seconds"] / seconds if (seconds := figures.get("gpu_seconds")) else None,
    )


def pairs_of_now(figures: Mapping[str, Any]) -> int:
    """Rows that the attempt itself read; the others of the day were there when it began."""
    return figures["counts"]["read"] - figures.get("resumed_pairs", 0)


def label_shares(figures: Mapping[str, Any]) -> dict[str, float]:
    """Share of each label among the rows that have one; all 0 without any."""
    total = max(1, sum(figures["labels"].values()))
    return {label: figures["labels"].get(label, 0) / total for label in LABELS}


def label_drift(today: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """Total variation distance between two days' label shares: the share of rows that would have to change, 0 to 1."""
    shares, shares_before = label_shares(today), label_shares(before)
    return sum(abs(shares[label] - shares_before[label]) for label in LABELS) / 2


def chance_drift(today: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """The drift to expect between two independent samples of these sizes from the same labels.

    Half the sum of the mean absolute differences of four proportions, in the normal approximation.
    """
    sizes = [sum(figures["labels"].values()) for figures in (today, before)]
    if not all(sizes):
        return 1.0
    shares, shares_before = label_shares(today), label_shares(before)
    pooled = [(shares[label] * sizes[0] + shares_before[label] * sizes[1]) / sum(sizes) for label in LABELS]
    return sum(math.sqrt(2 / math.pi * p * (1 - p) * (1 / sizes[0] + 1 / sizes[1])) for p in pooled) / 2


def find_previous_day(url: str) -> PreviousDay | None:
    """Find the nearest earlier sibling partition that is committed with rows; None for a folder that is no partition.

    A day of no rows says nothing of any other: beside it, every check would have nothing to judge by.

    Args:
        url: Output folder of a day, such as `s3://bucket/scores/ds=2026-11-22`.
    """
    root, _, name = url.rstrip("/").rpartition("/")
    key, is_partition, _ = name.partition("=")
    if not is_partition:
        return None
    for candidate in _earlier_partitions(root or ".", key, name)[:_MAX_DAYS_BACK]:
        try:
            manifest = read_job_manifest(join_url(root or ".", candidate))
        except ValueError:
            manifest = {}  # another program's marker
        if manifest is None:
            continue
        if not {"labels", "counts"} <= manifest.get("figures", {}).keys():
            logger.warning("%s: its _SUCCESS has no figures of a scoring run, not compared with", candidate)
            continue
        if not manifest["figures"]["counts"].get("read"):
            logger.warning("%s: committed without a row, not compared with", candidate)
            continue
        plan = manifest.get("plan", {})
        return PreviousDay(candidate, plan.get("model", ""), plan.get("fingerprint", ""), manifest["figures"])
    return None


def _earlier_partitions(root: str, key: str, name: str) -> list[str]:
    """Names of sibling partitions before `name`, nearest first; ISO dates sort as text."""
    filesystem, path = open_filesystem(root)
    try:
        with named_failures(root):
            entries = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        return []
    names = {entry.rstrip("/").rpartition("/")[2] for entry in entries}
    return sorted((sibling for sibling in names if sibling.startswith(f"{key}=") and sibling < name), reverse=True)
