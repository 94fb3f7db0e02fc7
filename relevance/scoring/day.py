"""One day from input to committed output: the order of the steps, and what stops them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.progress import format_seconds
from cluster.sharded.input_files import require_files
from cluster.sharded.job import (
    SHARD_STAGE,
    commit_once,
    number_plan,
    refuse_failures,
    require_manifests,
    require_rows,
    work_off,
)
from cluster.sharded.listing import refuse_output_inside
from relevance.engines.label_model import load_label_engine
from relevance.pairs.files import find_splits, passed_over
from relevance.scoring.compaction import MAX_FILES, compact, depth, on_ray
from relevance.scoring.figures import ScoringFigures
from relevance.scoring.planning import PARTITION_STAGE, Shard
from relevance.scoring.run import (
    EngineLoader,
    ScoringRun,
    commit_poisoned,
    make_plan,
    partition_input,
    score_shards,
)

Extras = Callable[[ScoringFigures, float], Mapping[str, bytes]]
"""Figures and seconds of a finished run -> files to lay beside the scores, by name."""


@dataclass(frozen=True)
class ScoredDay:
    """A committed day."""

    url: str
    figures: dict[str, Any]
    """As `ScoringFigures.as_dict` and `seconds`."""
    already_done: bool
    """True if an earlier run, or a rival, had committed it."""


def score_day(
    run: ScoringRun,
    *,
    extras: Extras | None = None,
    load: EngineLoader = load_label_engine,
    replace_other: bool = False,
) -> ScoredDay:
    """Score all pairs of the run's input and commit them; safe to call again after any crash.

    Args:
        run: What is scored, by what, where to.
        extras: Files to lay beside the scores.
        load: Gives the engine.
        replace_other: Take the place of what a run of another input or other settings left in the output, instead of
            refusing it, or of a committed day of this one in which the engine failed on pairs; what was committed stays
            until this is.

    Raises:
        ValueError: If the input cannot be read, too many rows are bad, or the output belongs to another plan.
        RuntimeError: If the input is not all there yet, or the engine gave too many shards up.
    """
    started = time.monotonic()
    for place in (run.output.url, run.store.url):
        refuse_output_inside(place, run.input)
    require_files(run.input, what="pairs", marker=run.settings.require_marker)
    splits = find_splits(run.input, carry=run.settings.carry)
    others = passed_over(run.input, carry=run.settings.carry)
    plan = number_plan(
        run.output,
        make_plan(run, splits, others),
        redo=lambda day: bool(replace_other and _engine_failed(day["figures"]["counts"])),
    )

    def score() -> ScoringFigures:
        shards = partition_input(run, splits, plan["num_shards"])
        if not run.settings.allow_empty:
            num_rows = sum(shard.num_rows for shard in shards)
            require_rows(run.output, run.input, num_rows, what="pairs", setting="scoring.allow_empty")
        _refuse_bad_input(run)
        resumed = sum(done["read"] for done in run.output.manifests(SHARD_STAGE).values())
        _score(run, shards, load)
        manifests = run.output.manifests(SHARD_STAGE)
        require_manifests(run.output, SHARD_STAGE, (shard.name for shard in shards), manifests)
        counted = ScoringFigures.sum(manifests.values())
        figures = replace(counted, passed_over=tuple(others), resumed_pairs=resumed)
        try:
            _refuse_failures(run, figures.errors, figures.counts["read"], failed=figures.unusable)
        except ValueError:
            run.output.withdraw_units(SHARD_STAGE, [name for name, of in manifests.items() if _engine_failed(of)])
            raise
        return figures

    done = commit_once(run.output, plan, score, summary=_summary, extras=extras, started=started, replace=replace_other)
    return ScoredDay(run.output.url, done.manifest["figures"], done.already_done)


def _summary(figures: ScoringFigures, seconds: float) -> dict[str, Any]:
    return {"figures": {**figures.as_dict(), "seconds": seconds}}


def _engine_failed(counts: Mapping[str, Any]) -> int:
    """Count the rows that may get a label when an engine that has been mended is asked again."""
    return counts["poisoned"] + counts.get("not_finite", 0)


def _refuse_bad_input(run: ScoringRun) -> None:
    """Stop before a model is loaded if validation alone has found too many bad rows."""
    manifests = run.output.manifests(PARTITION_STAGE).values()
    errors: Counter[str] = Counter()
    for manifest in manifests:
        errors.update(manifest["errors"])
    _refuse_failures(run, errors, sum(manifest["num_rows"] for manifest in manifests), failed=errors.total())


def _refuse_failures(run: ScoringRun, errors: Mapping[str, int], num_rows: int, *, failed: int) -> None:
    limit = run.settings.max_failed_fraction
    refuse_failures(run.input, errors, num_rows, failed=failed, max_failed_fraction=limit, what="have errors")


def _score(run: ScoringRun, shards: list[Shard], load: EngineLoader) -> None:
    if depth(run.store.files()) > MAX_FILES:
        done = compact(run.store, run=on_ray)
        print(f"label store: {done.num_old:,} files made into {done.num_new:,}", file=sys.stderr, flush=True)
    finished = run.output.manifests(SHARD_STAGE).values()
    progress = _Progress(sum(shard.num_rows for shard in shards), sum(figures["read"] for figures in finished))
    poisoned = work_off(
        run.output,
        shards,
        lambda waiting: score_shards(run, waiting, load=load),
        given_up=_given_up,
        progress=progress.add,
        max_given_up_fraction=run.settings.max_poisoned_fraction,
    )
    commit_poisoned(run, shards, poisoned)


def _given_up(figures: Mapping[str, Any]) -> str | None:
    if not figures["poisoned"]:
        return None
    return next(reason for reason in figures["errors"] if reason.startswith("engine: "))


class _Progress:
    """Prints a line as shards are done: share, rate, time left, tokens served from the cache."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        self._started, self._at_start = 0.0, done
        self._prompt_tokens = self._computed_tokens = 0

    def add(self, figures: Mapping[str, Any]) -> None:
        # The clock starts with the first shard's first pair: loading the model says nothing of the rate.
        self._started = self._started or time.monotonic() - figures["engine_seconds"]
        self._done += figures["read"]
        self._prompt_tokens += figures["prompt_tokens"]
        self._computed_tokens += figures["computed_tokens"]
        rate = (self._done - self._at_start) / max(1e-9, time.monotonic() - self._started)
        cached = 1 - self._computed_tokens / self._prompt_tokens if self._prompt_tokens else 0.0
        left = format_seconds((self._total - self._done) / max(rate, 1e-9))
        line = f"{self._done:>12,} of {self._total:,} pairs  {rate:,.0f} pairs/s  ETA {left}"
        print(f"{line}  {cached:.0%} of prompt tokens from the cache", file=sys.stderr, flush=True)
