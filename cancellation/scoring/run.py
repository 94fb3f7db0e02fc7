"""Score a backfill of events on Ray: deterministic shards through a pool of actors, each shard committed once.

An actor reads its shard, scores it and commits it: on CPUs the model is nine tenths of the work, so nothing is
gained by reading elsewhere. What the rows are is decided by the input, the model and the policy alone; who
computed them, how often, and who died on the way is not to be seen in them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cancellation.decision.policy import Policy, named_by_content
from cancellation.events.files import EventShard, find_event_shards, passed_over, read_event_rows
from cancellation.model.spec import ModelIdentity
from cancellation.model.verdict_model import Device, Dtype, load_verdict_model, read_identity
from cancellation.scoring.explanations import explain_verdict
from cancellation.scoring.shard_steps import Explain, ScoringCounts, count_rows, failed_rows, score_rows
from cluster import storage
from cluster.commit import Output
from cluster.models.files import ModelFiles, fetch_model, resolve_model
from cluster.settings import Settings
from cluster.sharded.input_files import require_files
from cluster.sharded.job import (
    SHARD_STAGE,
    commit_once,
    commit_shard,
    number_plan,
    refuse_failures,
    require_manifests,
    require_rows,
    work_off,
)
from cluster.sharded.listing import refuse_output_inside
from cluster.sharded.pool import Deaths, as_report, one_block_each, reports, through_actors

if TYPE_CHECKING:
    from cancellation.model.verdict_model import VerdictModel

_GIVEN_UP = "model: "
"""What the error of a row begins with whose shard the model died on."""

ModelLoader = Callable[..., "VerdictModel"]
"""As `load_verdict_model`."""
Extras = Callable[[ScoringCounts, float], Mapping[str, bytes]]
"""Counts and seconds of a finished run -> files to lay beside the verdicts, by name."""


class ScoringSettings(Settings):
    """How a backfill is cut and scored, and when it is fit to publish."""

    min_actors: int = Field(default=1, ge=1)
    """Actors that are kept while the job runs; each holds a model."""

    max_actors: int = Field(default=8, ge=1)
    """Actors that the pool may grow to while shards wait and cores are free."""

    cpus_per_actor: float = Field(default=1.0, gt=0)
    """CPU cores that each actor reserves."""

    device: Device = "cpu"
    """`cuda` runs the weights of the model's `trained/` folder: for encoders of full size."""

    dtype: Dtype = "float16"
    """Of matrix products on a GPU."""

    gpus_per_actor: float = Field(default=1.0, gt=0)
    """GPUs that each actor reserves where `device` is `cuda`."""

    num_threads: int = Field(default=1, ge=1)
    """Threads of each actor's model; more actors use cores better than more threads."""

    shard_bytes: int = Field(default=2 * 2**20, ge=1)
    """Bytes of input per shard, roughly (some 600 events): the unit of commit and of what a dying actor loses."""

    explain: bool = False
    """Add evidence to verdicts with an action. Costs about a hundred times the verdict itself."""

    max_failed_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fail the job, and publish nothing, when a larger share of the rows could not be scored."""

    allow_empty: bool = False
    """Commit an input without a row; otherwise the job fails with status 1, as it may not have been written yet."""

    require_marker: str | None = None
    """File that the input's writer lays into its folder last, such as _SUCCESS: without it the job fails with status 1,
    to be run again when it is there. Null: none is looked for."""

    max_deaths_per_shard: int = Field(default=3, ge=1)
    """Give a shard up, its rows written with an error, when actors have died on it this often."""


@dataclass(frozen=True)
class VerdictRun:
    """One run of the job: what is read, what judges, where the verdicts go. Cheap to send to workers."""

    input: str
    output: Output
    model: ModelFiles
    identity: ModelIdentity
    policy: Policy
    settings: ScoringSettings
    cache_dir: str

    @property
    def model_version(self) -> str:
        """Name and digest."""
        return self.identity.version


@dataclass(frozen=True)
class ScoredBackfill:
    """Committed verdicts."""

    url: str
    counts: ScoringCounts
    seconds: float
    already_done: bool
    """True if an earlier run, or a rival, had committed them."""


def open_run(
    input_url: str,
    output: str,
    model_name: str,
    policy: Policy,
    settings: ScoringSettings,
    *,
    cache_dir: str,
    registry_uri: str | None = None,
    load: ModelLoader = load_verdict_model,
) -> VerdictRun:
    """Pin the model's files and load it once (on a CPU), so that what is wrong with it is said before work starts.

    Raises:
        ValueError: If there is no such model, it does not fit the code, or the policy is live where it knows nothing.
    """
    files = resolve_model(model_name, registry_uri=registry_uri)
    folder = fetch_model(files, cache_dir=cache_dir)
    if settings.device == "cpu":
        identity = load(folder).identity
    else:  # there may be no GPU here: a cluster's head has none
        identity = read_identity(folder, device=settings.device, dtype=settings.dtype)
    policy.check_live_markets(identity.markets)
    target = Output(storage.absolute_url(output))
    return VerdictRun(storage.absolute_url(input_url), target, files, identity, policy, settings, cache_dir)


def make_plan(run: VerdictRun, shards: Sequence[EventShard], others: Sequence[str] = ()) -> dict[str, Any]:
    """What the output will be a function of, `others` left out; two runs may share an output only if this is equal."""
    files = sorted({(shard.url, shard.size_bytes, shard.version) for shard in shards})
    return {
        "input": run.input,
        "input_files": [list(file) for file in files],
        "model": run.model_version,
        "model_digest": run.model.digest,
        "policy": named_by_content(run.policy, run.policy.version).version,
        "shard_bytes": run.settings.shard_bytes,
        "explain": run.settings.explain,
        **({"passed_over": list(others)} if others else {}),
    }


def score_backfill(
    run: VerdictRun,
    *,
    extras: Extras | None = None,
    load: ModelLoader = load_verdict_model,
    replace_other: bool = False,
) -> ScoredBackfill:
    """Score all events of the run's input and commit the verdicts; safe to call again after any crash.

    Args:
        run: What is scored, by what, where to.
        extras: Files to lay beside the verdicts.
        load: Gives the model.
        replace_other: Take the place of what a run of another input, model or policy left in the output, instead of
            refusing it, or of a committed backfill of this one of which shards were given up; what was committed stays
            until this is.

    Raises:
        ValueError: If the input cannot be read, too many rows failed, or the output belongs to another plan.
        RuntimeError: If the input is not there yet, every shard had to be given up, or workers' files cannot be seen
            from here.
    """
    started = time.monotonic()
    refuse_output_inside(run.output.url, run.input)
    require_files(run.input, what="events", marker=run.settings.require_marker)
    shards = find_event_shards(run.input, shard_bytes=run.settings.shard_bytes)
    others = passed_over(run.input)
    plan = number_plan(
        run.output,
        make_plan(run, shards, others),
        redo=lambda backfill: replace_other and _model_failed(backfill["counts"]["errors"]),
    )

    def score() -> ScoringCounts:
        given_up = _score_shards(run, shards, load)
        manifests = run.output.manifests(SHARD_STAGE)
        require_manifests(run.output, SHARD_STAGE, (shard.name for shard in shards), {*manifests, *given_up})
        lost = {shard: _give_up(shard, given_up[shard.name]) for shard in shards if shard.name in given_up}
        counts = ScoringCounts.sum(manifest["counts"] for manifest in manifests.values())
        for table in lost.values():
            counts.add(count_rows(table))
        counts.passed_over = others
        if not run.settings.allow_empty:
            require_rows(run.output, run.input, counts.read, what="events", setting="scoring.allow_empty")
        _refuse_failures(run, counts)
        for shard, table in lost.items():
            _commit(run, shard.name, table)
        return counts

    done = commit_once(run.output, plan, score, summary=_summary, extras=extras, started=started, replace=replace_other)
    counts = ScoringCounts.sum([done.manifest["counts"]])
    return ScoredBackfill(run.output.url, counts, done.manifest["seconds"], done.already_done)


def _model_failed(errors: Mapping[str, int]) -> bool:
    """Say whether there are rows that may get a verdict when the model, mended, is asked again."""
    return any(error.startswith(_GIVEN_UP) for error in errors)


def _summary(counts: ScoringCounts, seconds: float) -> dict[str, Any]:
    return {"counts": counts.as_dict(), "seconds": seconds}


def read_verdicts(url: str) -> pa.Table:
    """Read a committed backfill's rows (`scoring.SCORED_SCHEMA`).

    Raises:
        ValueError: If nothing is committed there.
    """
    manifest = Output(url).job_manifest()
    if manifest is None:
        raise ValueError(f"{url}: no committed verdicts there (_SUCCESS is missing); score the backfill first")
    files = [storage.read_bytes(storage.join_url(url, name)) for name in manifest["files"]]
    # An earlier version may have committed the first shards, with fewer columns.
    return pa.concat_tables([pq.read_table(pa.BufferReader(file)) for file in files], promote_options="default")


def _score_shards(run: VerdictRun, shards: Sequence[EventShard], load: ModelLoader) -> dict[str, str]:
    """Score and commit what is not yet; return the shards that were given up, uncommitted, with the reason.

    Raises:
        RuntimeError: If that is all of them: then it is not the shards, and a rerun should try them again.
    """
    done, events, started = len(run.output.manifests(SHARD_STAGE)), 0, time.monotonic()

    def progress(figures: Mapping[str, Any]) -> None:
        nonlocal done, events
        done, events = done + 1, events + figures["read"]
        rate = events / max(time.monotonic() - started, 1e-9)
        print(f"shard {done:,} of {len(shards):,}  {rate:,.0f} events/s", file=sys.stderr, flush=True)

    return work_off(
        run.output,
        shards,
        lambda waiting: _run_pool(run, waiting, load),
        given_up=lambda figures: figures["given_up"],
        progress=progress,
    )


def _give_up(shard: EventShard, reason: str) -> pa.Table:
    return failed_rows(list(read_event_rows(shard)), reason)


def _run_pool(run: VerdictRun, shards: Sequence[EventShard], load: ModelLoader) -> Iterator[dict[str, Any]]:
    if not shards:
        return
    scored = through_actors(
        one_block_each([{"shard": json.dumps(shard.as_dict())} for shard in shards]),
        _ScoringActor,
        run,
        Deaths.counted(most=run.settings.max_deaths_per_shard),
        load,
        units=len(shards),
        min_actors=run.settings.min_actors,
        max_actors=run.settings.max_actors,
        cpus_per_actor=run.settings.cpus_per_actor,
        gpus_per_actor=run.settings.gpus_per_actor if run.settings.device == "cuda" else 0.0,
    )
    yield from reports(scored)


class _ScoringActor:
    """Holds one model. When the model fails, the process goes with it: Ray starts a fresh one."""

    def __init__(self, run: VerdictRun, deaths: Deaths, load: ModelLoader) -> None:
        self._run, self._deaths = run, deaths
        folder: Path = fetch_model(run.model, cache_dir=run.cache_dir)
        given = run.settings
        self._model = load(folder, num_threads=given.num_threads, device=given.device, dtype=given.dtype)
        self._explain = explaining(given, self._model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        shard = EventShard(**json.loads(row["shard"]))
        rows = list(read_event_rows(shard))
        if reason := self._deaths.too_many(shard.name):
            return as_report({"shard": shard.name, "read": len(rows), "given_up": f"{_GIVEN_UP}{reason}"})
        # Our own refusals, such as weights that give NaN, are ValueErrors.
        with self._deaths.of_errors(shard.name, refusals=(ValueError,)):
            table = score_rows(rows, self._model, self._run.policy, explain=self._explain)
        _commit(self._run, shard.name, table)
        return as_report({"shard": shard.name, "read": len(rows), "given_up": None})


def _commit(run: VerdictRun, name: str, table: pa.Table) -> None:
    commit_shard(run.output, name, table, {"counts": count_rows(table).as_dict()})


def explaining(settings: ScoringSettings, model: VerdictModel) -> Explain | None:
    """Give what adds evidence to a verdict of a model; None where none is wanted."""
    return partial(_explain, model) if settings.explain else None


def _explain(model: VerdictModel, event: Any, verdict: Mapping[str, Any]) -> dict[str, Any]:
    return explain_verdict(event, verdict, model)


def _refuse_failures(run: VerdictRun, counts: ScoringCounts) -> None:
    refuse_failures(
        run.input,
        counts.errors,
        counts.read,
        failed=counts.failed,
        max_failed_fraction=run.settings.max_failed_fraction,
        what="could not be scored",
    )
