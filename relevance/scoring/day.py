"""One day from input to committed output: the order of the steps, and what stops them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster import storage
from relevance.engines.label_model import load_label_engine
from relevance.pairs.files import find_splits
from relevance.scoring.figures import ScoringFigures
from relevance.scoring.planning import PARTITION_STAGE, Shard
from relevance.scoring.run import (
    SHARD_STAGE,
    EngineLoader,
    ScoringRun,
    commit_poisoned,
    make_plan,
    partition_input,
    require_manifests,
    score_shards,
)

logger = logging.getLogger(__name__)

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


def score_day(run: ScoringRun, *, extras: Extras | None = None, load: EngineLoader = load_label_engine) -> ScoredDay:
    """Score all pairs of the run's input and commit them; safe to call again after any crash.

    Raises:
        ValueError: If the input cannot be read, too many rows are bad, or the output belongs to another plan.
        RuntimeError: If the engine gave too many shards up.
    """
    started = time.monotonic()
    splits = find_splits(run.input, carry=run.settings.carry)
    plan = make_plan(run, splits)
    committed = run.output.open(plan)
    if committed is not None:
        run.output.clean_up()  # whoever committed may have been killed before it got to this
        return ScoredDay(run.output.url, committed["figures"], already_done=True)
    try:
        shards = partition_input(run, splits, plan["num_shards"])
        _refuse_bad_input(run)
        _score(run, shards, load)
        manifests = run.output.manifests(SHARD_STAGE)
        require_manifests(run, SHARD_STAGE, (shard.name for shard in shards), manifests)
        figures = ScoringFigures.sum(manifests.values())
        _refuse_failures(run, figures.errors, figures.failed_fraction, figures.counts["read"])
        seconds = time.monotonic() - started
        return _publish(run, plan, figures, seconds, extras)
    except (FileNotFoundError, RuntimeError):
        # A rival run of the same plan that commits first also cleans up, under our feet.
        if (committed := run.output.job_manifest()) is None:
            raise
        logger.info("another run of the same plan has committed %s", run.output.url)
        return ScoredDay(run.output.url, committed["figures"], already_done=True)


def _refuse_bad_input(run: ScoringRun) -> None:
    """Stop before a model is loaded if validation alone has found too many bad rows."""
    manifests = run.output.manifests(PARTITION_STAGE).values()
    num_rows = sum(manifest["num_rows"] for manifest in manifests)
    errors: dict[str, int] = {}
    for manifest in manifests:
        for reason, count in manifest["errors"].items():
            errors[reason] = errors.get(reason, 0) + count
    _refuse_failures(run, errors, sum(errors.values()) / max(1, num_rows), num_rows)


def _refuse_failures(run: ScoringRun, errors: Mapping[str, int], fraction: float, num_rows: int) -> None:
    limit = run.settings.max_failed_fraction
    if fraction > limit:
        frequent = sorted(errors.items(), key=lambda item: -item[1])[:5]
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in frequent)
        raise ValueError(
            f"{run.input}: {fraction:.2%} of {num_rows:,} rows have errors, at most {limit:.2%} may "
            f"(scoring.max_failed_fraction); nothing was published. Most frequent: {reasons}"
        )


def _score(run: ScoringRun, shards: list[Shard], load: EngineLoader) -> None:
    finished = run.output.manifests(SHARD_STAGE)
    waiting = [shard for shard in shards if shard.name not in finished]
    progress = _Progress(sum(shard.num_rows for shard in shards), sum(figure["read"] for figure in finished.values()))
    poisoned: dict[str, str] = {}
    for figures in score_shards(run, waiting, load=load):
        if figures["poisoned"]:
            poisoned[figures["shard"]] = next(reason for reason in figures["errors"] if reason.startswith("engine: "))
        else:
            progress.add(figures)
    if not poisoned:
        return
    report = "; ".join(f"{shard}: {reason}" for shard, reason in sorted(poisoned.items())[:5])
    limit = run.settings.max_poisoned_fraction * len(shards)
    if len(poisoned) > max(1.0, limit) or len(poisoned) == len(shards):
        raise RuntimeError(
            f"the engine gave up {len(poisoned)} of {len(shards)} shards, so it is not the shards; nothing was "
            f"published, a rerun goes on from the finished ones ({report})"
        )
    logger.error("poisoned shards, committed without labels: %s", report)
    for _ in commit_poisoned(run, [shard for shard in shards if shard.name in poisoned], poisoned):
        pass


def _publish(
    run: ScoringRun, plan: dict[str, Any], figures: ScoringFigures, seconds: float, extras: Extras | None
) -> ScoredDay:
    manifests = run.output.manifests(SHARD_STAGE)
    files = {f"part-{shard}.parquet": manifests[shard]["data"] for shard in sorted(manifests)}
    run.output.publish(files)
    for name, content in (extras(figures, seconds) if extras else {}).items():
        storage.write_bytes(storage.join_url(run.output.url, name), content)
    summary = {**figures.as_dict(), "seconds": seconds}
    first = run.output.commit(plan, {"files": list(files), "figures": summary})
    run.output.clean_up()
    return ScoredDay(run.output.url, summary, already_done=not first)


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
        left = _duration((self._total - self._done) / max(rate, 1e-9))
        line = f"{self._done:>12,} of {self._total:,} pairs  {rate:,.0f} pairs/s  ETA {left}"
        print(f"{line}  {cached:.0%} of prompt tokens from the cache", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
