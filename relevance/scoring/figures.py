"""What a scoring run counted: summed over shards, with the figures that people ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from relevance.agreement import alpha_from_confusion
from relevance.labels import LABELS
from relevance.scoring.shard_steps import OF_ACTOR

_COUNTS = ("read", "labelled", "reused", "repeated", "failed", "poisoned", "not_finite", "ignored", "conflicting")
_SUMS = ("prompt_tokens", "computed_tokens", "engine_seconds", "unshared_pairs", *OF_ACTOR)


@dataclass(frozen=True)
class ScoringFigures:
    """Counts over all committed shards; read = labelled + reused + repeated + failed."""

    counts: dict[str, int]
    """`poisoned` and `not_finite` are part of `failed`; `ignored` are stored labels that were none; `conflicting` pairs
    have another pair's ids."""
    labels: dict[str, int]
    errors: dict[str, int]
    prompt_tokens: int
    computed_tokens: int
    engine_seconds: float
    unshared_pairs: int
    """Pairs whose prompts were computed whole, since the engine cannot share prefixes with this model."""
    label_mass_sum: float | None
    """None: it was not asked for."""
    confusion: np.ndarray
    """int64 (4, 4): the input's own label by the model's, over rows that have both."""
    confidence_histogram: np.ndarray
    """int64 (20,): rows by probability of their label, equal bins over [0, 1]."""
    label_mass_histogram: np.ndarray
    """int64 (20,): rows by label mass, equal bins over [0, 1]."""
    poisoned_shards: tuple[str, ...]
    """Shards that were given up because the engine died on them."""
    waiting_seconds: float = 0.0
    """Seconds that engines, once loaded, stood still before a shard: for it to come, and between two calls."""
    gpu_busy_seconds: float = 0.0
    """Seconds in which a kernel ran, as the driver says, of `gpu_seconds`; both 0 where nobody could be asked."""
    gpu_seconds: float = 0.0
    passed_over: tuple[str, ...] = ()
    """What the input holds that is in no row: files of other endings, values in paths."""
    resumed_pairs: int = 0
    """Rows read that an earlier attempt had committed: this one's seconds are not theirs."""

    @classmethod
    def sum(cls, shards: Iterable[Mapping[str, Any]]) -> ScoringFigures:
        """Add up the figures of shards (see `scoring.finish_block`)."""
        shards = list(shards)
        # Shards that an earlier version committed before this run went on do not count all of it.
        totals = {name: sum(shard.get(name, 0) for shard in shards) for name in (*_COUNTS, *_SUMS)}
        labels, errors = Counter(dict.fromkeys(LABELS, 0)), Counter()
        arrays = {}
        for name, shape in (("confusion", (4, 4)), ("confidence_histogram", 20), ("label_mass_histogram", 20)):
            arrays[name] = sum((np.array(shard[name], np.int64) for shard in shards), np.zeros(shape, np.int64))
        for shard in shards:
            labels.update(shard["labels"])
            errors.update(shard["errors"])
        counts = {name: totals[name] for name in _COUNTS}
        assert counts["read"] == sum(counts[name] for name in ("labelled", "reused", "repeated", "failed")), counts
        masses = [shard["label_mass_sum"] for shard in shards]
        sums = {name: totals[name] for name in _SUMS}
        return cls(
            counts=counts,
            labels=dict(labels),
            errors=dict(errors.most_common()),
            poisoned_shards=tuple(sorted(shard["shard"] for shard in shards if shard["poisoned"])),
            label_mass_sum=None if None in masses else sum(masses),
            **sums,
            **arrays,
        )

    @property
    def with_label(self) -> int:
        """Rows that have a label, from whatever source."""
        return sum(self.labels.values())

    @property
    def unusable(self) -> int:
        """Rows that failed by themselves, those of shards that were given up not counted."""
        return self.counts["failed"] - self.counts["poisoned"]

    @property
    def cached_fraction(self) -> float:
        """Share of the prompts' tokens that were served from a shared prefix."""
        return 1 - self.computed_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def mean_label_mass(self) -> float | None:
        """Mean probability that the model gave to the four labels together; None without labels or where not asked."""
        measured = self.label_mass_sum is not None and self.with_label
        return self.label_mass_sum / self.with_label if measured else None

    def agreement(self) -> dict[str, float | None]:
        """Compare with the input's own labels: pairs, accuracy, nominal alpha, F1 exact-vs-rest; empty without any.

        Alpha is None where only one label occurs.
        """
        pairs = int(self.confusion.sum())
        if not pairs:
            return {}
        exact, alpha = self.confusion[0, 0], alpha_from_confusion(self.confusion)
        return {
            "pairs": pairs,
            "accuracy": float(np.trace(self.confusion) / pairs),
            "alpha": None if np.isnan(alpha) else alpha,
            "f1_exact": float(2 * exact / max(1, self.confusion[0].sum() + self.confusion[:, 0].sum())),
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types, for `_SUCCESS`, `run.json` and MLflow."""
        return {
            "counts": self.counts,
            "labels": self.labels,
            "errors": self.errors,
            "prompt_tokens": self.prompt_tokens,
            "computed_tokens": self.computed_tokens,
            "cached_fraction": self.cached_fraction,
            "engine_seconds": self.engine_seconds,
            "unshared_pairs": self.unshared_pairs,
            **{name: getattr(self, name) for name in OF_ACTOR},
            "mean_label_mass": self.mean_label_mass,
            "agreement": self.agreement(),
            "confusion": self.confusion.tolist(),
            "confidence_histogram": self.confidence_histogram.tolist(),
            "label_mass_histogram": self.label_mass_histogram.tolist(),
            "poisoned_shards": list(self.poisoned_shards),
            **({"passed_over": list(self.passed_over)} if self.passed_over else {}),
            **({"resumed_pairs": self.resumed_pairs} if self.resumed_pairs else {}),
        }
