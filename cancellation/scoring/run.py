"""Score a backfill of events on Ray: deterministic shards through a pool of actors, each shard committed once.

An actor reads its shard, scores it and commits it: on CPUs the model is nine tenths of the work, so nothing is
gained by reading elsewhere. What the rows are is decided by the input, the model and the policy alone; who
computed them, how often, and who died on the way is not to be seen in them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import Field

from cancellation.decision.policy import Policy
from cancellation.decision.policy_file import dated_version
from cancellation.events.files import EventRow, EventShard, find_event_shards, read_event_rows
from cancellation.model.verdict_model import load_verdict_model
from cancellation.scoring.explanations import explain_verdict
from cancellation.scoring.shard_steps import ScoringCounts, count_rows, failed_rows, score_rows
from cluster import storage
from cluster.commit import Output
from cluster.models.files import ModelFiles, fetch_model, resolve_model
from cluster.settings import Settings
from cluster.shard_pool import Deaths, configure_ray_data, one_block_each

if TYPE_CHECKING:
    from cancellation.model.verdict_model import VerdictModel

logger = logging.getLogger(__name__)

SHARD_STAGE = "shards"
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

    num_threads: int = Field(default=1, ge=1)
    """Threads of each actor's model; more actors use cores better than more threads."""

    shard_bytes: int = Field(default=2 * 2**20, ge=1)
    """Bytes of input per shard, roughly (some 600 events): the unit of commit and of what a dying actor loses."""

    explain: bool = False
    """Add evidence to verdicts with an action. Costs about a hundred times the verdict itself."""

    max_failed_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fail the job, and publish nothing, when a larger share of the rows could not be scored."""

    max_deaths_per_shard: int = Field(default=3, ge=1)
    """Give a shard up, its rows written with an error, when actors have died on it this often."""


@dataclass(frozen=True)
class VerdictRun:
    """One run of the job: what is read, what judges, where the verdicts go. Cheap to send to workers."""

    input: str
    output: Output
    model: ModelFiles
    model_version: str
    policy: Policy
    settings: ScoringSettings
    cache_dir: str


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
    """Pin the model's files and load it once, so that what is wrong with it is said before anything is started.

    Raises:
        ValueError: If there is no such model, it does not fit the code, or the policy is live where it knows nothing.
    """
    files = resolve_model(model_name, registry_uri=registry_uri)
    model = load(fetch_model(files, cache_dir=cache_dir))
    policy.check_live_markets(model.spec.markets)
    target = Output(storage.absolute_url(output))
    return VerdictRun(storage.absolute_url(input_url), target, files, model.version, policy, settings, cache_dir)


def make_plan(run: VerdictRun, shards: Sequence[EventShard]) -> dict[str, Any]:
    """What the output will be a function of; two runs may share an output only if this is equal."""
    files = sorted({(shard.url, shard.size_bytes, shard.version) for shard in shards})
    return {
        "input": run.input,
        "input_files": [list(file) for file in files],
        "model": run.model_version,
        "model_digest": run.model.digest,
        "policy": dated_version(run.policy, run.policy.version).version,
        "shard_bytes": run.settings.shard_bytes,
        "explain": run.settings.explain,
    }


def score_backfill(
    run: VerdictRun, *, extras: Extras | None = None, load: ModelLoader = load_verdict_model
) -> ScoredBackfill:
    """Score all events of the run's input and commit the verdicts; safe to call again after any crash.

    Raises:
        ValueError: If the input cannot be read, too many rows failed, or the output belongs to another plan.
        RuntimeError: If every shard had to be given up, or workers' files cannot be seen from here.
    """
    started = time.monotonic()
    shards = find_event_shards(run.input, shard_bytes=run.settings.shard_bytes)
    plan = make_plan(run, shards)
    committed = run.output.open(plan)
    if committed is not None:
        run.output.clean_up()  # whoever committed may have been killed before it got to this
        return _scored(run, committed, already_done=True)
    try:
        given_up = _score_shards(run, shards, load)
        manifests = run.output.manifests(SHARD_STAGE)
        _require(run, shards, {*manifests, *given_up})
        lost = {shard: _give_up(shard, given_up[shard.name]) for shard in shards if shard.name in given_up}
        counts = ScoringCounts.sum(manifest["counts"] for manifest in manifests.values())
        for table in lost.values():
            counts.add(count_rows(table))
        _refuse_failures(run, counts)
        for shard, table in lost.items():
            _commit(run, shard.name, table)
        manifests = run.output.manifests(SHARD_STAGE)
        return _publish(run, plan, manifests, counts, time.monotonic() - started, extras)
    except (FileNotFoundError, RuntimeError):
        # A rival run of the same plan that commits first also cleans up, under our feet.
        if (committed := run.output.job_manifest()) is None:
            raise
        logger.info("another run of the same plan has committed %s", run.output.url)
        return _scored(run, committed, already_done=True)


def read_verdicts(url: str) -> pa.Table:
    """Read a committed backfill's rows (`scoring.SCORED_SCHEMA`).

    Raises:
        ValueError: If nothing is committed there.
    """
    manifest = Output(url).job_manifest()
    if manifest is None:
        raise ValueError(f"{url}: no committed verdicts there (_SUCCESS is missing); score the backfill first")
    files = [storage.read_bytes(storage.join_url(url, name)) for name in manifest["files"]]
    return pa.concat_tables([pq.read_table(pa.BufferReader(content)) for content in files])


def _score_shards(run: VerdictRun, shards: Sequence[EventShard], load: ModelLoader) -> dict[str, str]:
    """Score and commit what is not yet; return the shards that were given up, uncommitted, with the reason.

    Raises:
        RuntimeError: If that is all of them: then it is not the shards, and a rerun should try them again.
    """
    finished = run.output.manifests(SHARD_STAGE)
    waiting = [shard for shard in shards if shard.name not in finished]
    done, started = len(finished), time.monotonic()
    events, given_up = 0, {}
    for figures in _run_pool(run, waiting, load):
        if figures["given_up"]:
            given_up[figures["shard"]] = figures["given_up"]
            logger.error("shard %s: given up, %s", figures["shard"], figures["given_up"])
            continue
        done, events = done + 1, events + figures["read"]
        rate = events / max(time.monotonic() - started, 1e-9)
        print(f"shard {done:,} of {len(shards):,}  {rate:,.0f} events/s", file=sys.stderr, flush=True)
    if given_up and len(given_up) == len(shards):
        reason = next(iter(given_up.values()))
        raise RuntimeError(f"{run.model_version}: {reason}, and so on every shard; nothing was published")
    return given_up


def _give_up(shard: EventShard, reason: str) -> pa.Table:
    return failed_rows(list(read_event_rows(shard)), reason)


def _run_pool(run: VerdictRun, shards: Sequence[EventShard], load: ModelLoader) -> Iterator[dict[str, Any]]:
    if not shards:
        return
    configure_ray_data()
    settings = run.settings
    deaths = Deaths.options(num_cpus=0).remote()
    dataset = one_block_each([{"shard": json.dumps(shard.as_dict())} for shard in shards]).map_batches(
        _ScoringActor,
        batch_format="pyarrow",
        batch_size=1,
        fn_constructor_args=(run, deaths, load),
        compute=ray.data.ActorPoolStrategy(
            min_size=settings.min_actors,
            max_size=max(settings.min_actors, settings.max_actors),
            max_tasks_in_flight_per_actor=2,
        ),
        num_cpus=settings.cpus_per_actor,
    )
    for row in dataset.iter_rows():
        yield json.loads(row["figures"])


class _ScoringActor:
    """Holds one model. When the model fails, the process goes with it: Ray starts a fresh one."""

    def __init__(self, run: VerdictRun, deaths: Any, load: ModelLoader) -> None:
        self._run, self._deaths = run, deaths
        folder: Path = fetch_model(run.model, cache_dir=run.cache_dir)
        self._model = load(folder, num_threads=run.settings.num_threads)
        self._explain = partial(_explain, self._model) if run.settings.explain else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        shard = EventShard(**json.loads(row["shard"]))
        rows = list(read_event_rows(shard))
        deaths, reason = ray.get(self._deaths.start.remote(shard.name))
        figures = {"shard": shard.name, "read": len(rows), "given_up": ""}
        if deaths >= self._run.settings.max_deaths_per_shard:
            figures["given_up"] = f"model: died {deaths} times on this shard, last: {reason}"
        else:
            _commit(self._run, shard.name, self._score(shard.name, rows))
        return pa.table({"figures": [json.dumps(figures)]})

    def _score(self, name: str, rows: Sequence[EventRow]) -> pa.Table:
        try:
            return score_rows(rows, self._model, self._run.policy, explain=self._explain)
        except ValueError:
            raise  # our own refusals, such as weights that give NaN: no other process would do better
        except Exception as error:
            # The text of an engine's error may quote its input: the type and the place are enough.
            logger.exception("model failed on shard %s", name)
            ray.get(self._deaths.explain.remote(name, type(error).__name__))
            os._exit(1)


def _commit(run: VerdictRun, name: str, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    data = run.output.write_data(f"shard-{name}", buffer.getvalue())
    run.output.commit_unit(SHARD_STAGE, name, {"data": data, "counts": count_rows(table).as_dict()})


def _explain(model: VerdictModel, event: Any, verdict: Mapping[str, Any]) -> dict[str, Any]:
    return explain_verdict(event, verdict, model)


def _require(run: VerdictRun, shards: Sequence[EventShard], seen: Collection[str]) -> None:
    """Stop if work that was reported done cannot be seen from here, before a part is taken for the whole."""
    if missing := [shard.name for shard in shards if shard.name not in seen]:
        raise RuntimeError(
            f"{run.output.url}: {len(missing)} of the shards that workers finished cannot be seen from the driver, "
            f"{missing[0]} first: the output has to be storage that all nodes share"
        )


def _refuse_failures(run: VerdictRun, counts: ScoringCounts) -> None:
    fraction, limit = counts.failed / max(1, counts.read), run.settings.max_failed_fraction
    if fraction > limit:
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in counts.errors.most_common(5))
        raise ValueError(
            f"{run.input}: {fraction:.2%} of {counts.read:,} rows could not be scored, at most {limit:.2%} may "
            f"(scoring.max_failed_fraction); nothing was published. Most frequent: {reasons}"
        )


def _publish(
    run: VerdictRun,
    plan: Mapping[str, Any],
    manifests: Mapping[str, Any],
    counts: ScoringCounts,
    seconds: float,
    extras: Extras | None,
) -> ScoredBackfill:
    files = {f"part-{name}.parquet": manifests[name]["data"] for name in sorted(manifests)}
    run.output.publish(files)
    for name, content in (extras(counts, seconds) if extras else {}).items():
        storage.write_bytes(storage.join_url(run.output.url, name), content)
    summary = {"files": list(files), "counts": counts.as_dict(), "seconds": seconds}
    first = run.output.commit(plan, summary)
    run.output.clean_up()
    return _scored(run, summary, already_done=not first)


def _scored(run: VerdictRun, manifest: Mapping[str, Any], *, already_done: bool) -> ScoredBackfill:
    counts = ScoringCounts.sum([manifest["counts"]])
    return ScoredBackfill(run.output.url, counts, manifest["seconds"], already_done)
