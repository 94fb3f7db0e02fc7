"""Label a set of events on Ray: deterministic shards, each committed once, paid for once, stopped by a budget.

A model in this process runs in a pool of actors; a server is asked by one actor with many threads, so that one purse
and one pace hold for all requests.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field

from cancellation.decision.policy import Policy, named_by_content
from cancellation.events.examples import example_files
from cancellation.events.files import EventShard, find_event_shards, passed_over, read_event_rows
from cancellation.llm.backend import Usage
from cancellation.llm.backends import BackendSettings, LocalModel, backend_identity, learnt_by_adapter, open_backend
from cancellation.llm.labelling import (
    Labeller,
    LabellingCounts,
    LabellingSettings,
    Outage,
    OutageError,
    count_rows,
    failed_rows,
    label_rows,
)
from cancellation.llm.prompt import prompt_digest
from cancellation.llm.retrieval import RetrievalSettings, load_index
from cluster import storage
from cluster.commit import Output
from cluster.endpoint.ledger import RequestLedger
from cluster.endpoint.purse import BudgetSpentError, Purse
from cluster.models.files import ModelFiles, resolve_model
from cluster.settings import Settings
from cluster.sharded.input_files import require_files
from cluster.sharded.job import (
    SHARD_STAGE,
    commit_once,
    commit_shard,
    commit_written,
    refuse_failures,
    require_manifests,
    require_rows,
    work_off,
    write_shard,
)
from cluster.sharded.listing import refuse_output_inside
from cluster.sharded.pool import Deaths, as_report, one_block_each, reports, through_actors

Extras = Callable[[LabellingCounts, float], Mapping[str, bytes]]
"""Counts and seconds of a finished run -> files to lay beside the labels, by name."""
REQUESTS = "requests"
"""Folder of the ledgers in the staging area: one for each shard."""
_NOT_IN_PLAN = {"ask_again", "tries"}


class LabellingRunSettings(Settings):
    """How a set of events is cut and worked on, and when it is fit to publish."""

    max_actors: int = Field(default=2, ge=1)
    """Actors of a model in this process; a server is asked by one."""

    cpus_per_actor: float = Field(default=1.0, gt=0)
    """CPU cores that each actor reserves."""

    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs that each actor reserves."""

    shard_bytes: int = Field(default=2**18, ge=1)
    """Bytes of input per shard, roughly (some 80 events): the unit of commit."""

    max_failed_fraction: float = Field(default=0.05, ge=0, le=1)
    """Fail the job, and publish nothing, when a larger share of the rows could not be labelled."""

    allow_empty: bool = False
    """Commit an input without a row; otherwise the job fails with status 1, as it may not have been written yet."""

    require_marker: str | None = None
    """File that the input's writer lays into its folder last, such as _SUCCESS: without it the job fails with status 1,
    to be run again when it is there. Null: none is looked for."""

    max_deaths_per_shard: int = Field(default=3, ge=1)
    """Give a shard up, its rows written with an error, when actors have died on it this often."""

    progress_seconds: float = Field(default=10.0, gt=0)
    """How often an actor says how far it is and what it has cost."""


@dataclass(frozen=True)
class LabellingRun:
    """One run of the job: what is read, who answers, where the labels go. Cheap to send to workers."""

    input: str
    output: Output
    backend: BackendSettings
    policy: Policy
    labelling: LabellingSettings
    settings: LabellingRunSettings
    cache_dir: str
    model: LocalModel | None = None
    """What `pin_backend` found: every actor's, and that of `run.json`."""
    encoder: ModelFiles | None = None
    """What `pin_encoder` found: every actor's, and that of the plan."""

    @property
    def requests_url(self) -> str:
        """Where requests are written down until the job is committed."""
        return storage.join_url(self.output.url, "_staging", REQUESTS)


@dataclass(frozen=True)
class LabelledSet:
    """Committed labels."""

    url: str
    counts: LabellingCounts
    seconds: float
    already_done: bool


def make_plan(run: LabellingRun, shards: Sequence[EventShard], others: Sequence[str] = ()) -> dict[str, Any]:
    """What the output will be a function of, `others` left out.

    Budgets, prices and pace may change between two runs of one plan.
    """
    files = sorted({(shard.url, shard.size_bytes, shard.version) for shard in shards})
    labelling = run.labelling.model_dump(mode="json", exclude=_NOT_IN_PLAN)
    return {
        "input": run.input,
        "input_files": [list(file) for file in files],
        "backend": backend_identity(run.backend, run.model),
        "prompt": prompt_digest(run.labelling.prompt),
        "labelling": labelling,
        "policy": named_by_content(run.policy, run.policy.version).version,
        "shard_bytes": run.settings.shard_bytes,
        **_examples_identity(run.labelling.retrieval, run.encoder),
        **({"passed_over": list(others)} if others else {}),
    }


def _examples_identity(retrieval: RetrievalSettings, encoder: ModelFiles | None) -> dict[str, Any]:
    """Say what the model is shown by content: files of one name may hold other examples tomorrow."""
    if retrieval.examples is None:
        return {}
    contents = hashlib.sha256()
    for url in sorted(example_files(retrieval.examples)):
        contents.update(hashlib.sha256(storage.read_bytes(url)).digest())
    encoder = encoder or resolve_model(retrieval.encoder)
    return {"examples": contents.hexdigest()[:16], "encoder": encoder.digest}


def label_events(run: LabellingRun, *, extras: Extras | None = None) -> LabelledSet:
    """Label all events of the run's input and commit the labels; safe to call again after any crash.

    `extras` gives the files to lay beside the labels.

    Raises:
        ValueError: If the input or the examples cannot be read, too many rows failed, or the output is another plan's.
        BudgetSpentError: If the budget does not hold the rest; run again with a larger one.
        RuntimeError: If the input is not there yet, the server is out of order, or every shard had to be given up.
    """
    started = time.monotonic()
    marker = run.settings.require_marker
    refuse_output_inside(run.output.url, run.input)
    require_files(run.input, what="events", marker=marker, setting="run.require_marker")
    shards = find_event_shards(run.input, shard_bytes=run.settings.shard_bytes)
    others = passed_over(run.input)
    plan = make_plan(run, shards, others)

    def label() -> LabellingCounts:
        given_up, open_shards = _label_shards(run, shards)
        manifests = open_shards | run.output.manifests(SHARD_STAGE)
        require_manifests(run.output, SHARD_STAGE, (shard.name for shard in shards), {*manifests, *given_up})
        lost = {s: failed_rows(list(read_event_rows(s)), given_up[s.name]) for s in shards if s.name in given_up}
        counts = LabellingCounts.sum(
            [m["counts"] for m in manifests.values()] + [count_rows(table).as_dict() for table in lost.values()]
        )
        counts.passed_over = others
        if not run.settings.allow_empty:
            require_rows(run.output, run.input, counts.read, what="events", setting="run.allow_empty")
        refuse_failures(
            run.input,
            counts.errors,
            counts.read,
            failed=counts.failed,
            max_failed_fraction=run.settings.max_failed_fraction,
            what="could not be labelled",
            setting="run.max_failed_fraction",
        )
        for name, manifest in open_shards.items():
            commit_written(run.output, name, manifest)
        for shard, table in lost.items():
            _commit(run, shard.name, table)
        return counts

    done = commit_once(run.output, plan, label, summary=_summary, extras=extras, started=started)
    counts = LabellingCounts.sum([done.manifest["counts"]])
    return LabelledSet(run.output.url, counts, done.manifest["seconds"], done.already_done)


def _summary(counts: LabellingCounts, seconds: float) -> dict[str, Any]:
    return {"counts": counts.as_dict(), "seconds": seconds}


def spent_before(run: LabellingRun) -> float:
    """Add up what earlier runs of this output paid, in USD: committed shards, and requests of unfinished ones.

    A request that was on its way when its process died is not among them: nobody knows.
    """
    committed = run.output.manifests(SHARD_STAGE)
    spent = sum(manifest["counts"]["usage"]["cost_usd"] for manifest in committed.values())
    folders = {file.url.rsplit("/", 2)[1] for file in storage.list_files(run.requests_url)}
    for shard in folders - committed.keys():
        spent += RequestLedger(storage.join_url(run.requests_url, shard)).spent_usd
    return spent


def _label_shards(
    run: LabellingRun, shards: Sequence[EventShard]
) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """Label what is not committed; the shards given up, with the reason, and those left open, with their manifest."""
    done = len(run.output.manifests(SHARD_STAGE))
    open_shards: dict[str, Mapping[str, Any]] = {}

    def progress(figures: Mapping[str, Any]) -> None:
        nonlocal done
        done += 1
        if figures["open"] is not None:
            open_shards[figures["shard"]] = figures["open"]
        cost = f"${figures['cost_usd']:.4f} in this shard"
        print(f"shard {done:,} of {len(shards):,}  {figures['read']:,} events  {cost}", file=sys.stderr, flush=True)

    given_up = work_off(
        run.output,
        shards,
        lambda waiting: _run_pool(run, waiting),
        given_up=lambda figures: figures["given_up"],
        progress=progress,
    )
    return given_up, open_shards


def _run_pool(run: LabellingRun, shards: Sequence[EventShard]) -> Iterator[dict[str, Any]]:
    if not shards:
        return
    actors = 1 if run.backend.kind == "endpoint" else run.settings.max_actors
    labelled = through_actors(
        one_block_each([{"shard": json.dumps(shard.as_dict())} for shard in shards]),
        _LabellingActor,
        run,
        Deaths.counted(most=run.settings.max_deaths_per_shard),
        units=len(shards),
        min_actors=1,
        max_actors=actors,
        cpus_per_actor=run.settings.cpus_per_actor,
        gpus_per_actor=run.settings.gpus_per_actor,
    )
    for figures in reports(labelled):
        if stopped := figures.get("stopped"):
            raise BudgetSpentError(stopped) if figures["budget"] else RuntimeError(stopped)
        yield figures


class _LabellingActor:
    """Holds one backend. When a model in this process fails, the process goes with it: Ray starts a fresh one."""

    def __init__(self, run: LabellingRun, deaths: Deaths) -> None:
        self._run, self._deaths = run, deaths
        endpoint = run.backend.kind == "endpoint"
        purse = Purse(run.backend.endpoint.budget_usd, spent_usd=spent_before(run)) if endpoint else None
        backend = open_backend(run.backend, run.model, cache_dir=run.cache_dir, purse=purse)
        index = load_index(run.labelling.retrieval, run.encoder, cache_dir=run.cache_dir)
        self._labeller = Labeller(backend, run.labelling, run.policy, index)
        self._outage = Outage()
        self._learnt = learnt_by_adapter(run.model, cache_dir=run.cache_dir)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        shard = EventShard(**json.loads(row["shard"]))
        rows = list(read_event_rows(shard))
        figures: dict[str, Any] = {"shard": shard.name, "read": len(rows), "given_up": None, "open": None}
        if reason := self._deaths.too_many(shard.name):
            return as_report({**figures, "given_up": f"model: {reason}"})
        url = storage.join_url(self._run.requests_url, shard.name)
        ask_again = self._run.labelling.ask_again or not self._run.backend.is_paid_per_request
        ledger = RequestLedger(url, ask_again=ask_again)
        told = _Progress(shard.name, len(rows), self._run.settings.progress_seconds)
        try:
            with self._deaths.of_errors(shard.name, refusals=(ValueError, BudgetSpentError, OutageError)):
                table = label_rows(
                    rows,
                    self._labeller,
                    ledger,
                    parallel=self._run.backend.parallel,
                    progress=told.one_more,
                    outage=self._outage,
                    learnt=self._learnt,
                )
        except (BudgetSpentError, OutageError) as error:
            budget = isinstance(error, BudgetSpentError)
            return as_report({**figures, "stopped": str(error), "budget": budget})
        counts = count_rows(table)
        figures["cost_usd"] = counts.usage.cost_usd
        # A shard once committed is never asked about again. One with events that got no answer stays open until the
        # driver has found the whole fit to publish; else a rerun takes it up, and pays for those events alone.
        if counts.failed > sum(row.event is None for row in rows):
            figures["open"] = write_shard(self._run.output, shard.name, table, {"counts": counts.as_dict()})
        else:
            _commit(self._run, shard.name, table)
        return as_report(figures)


class _Progress:
    """Says now and then how far a shard is and what it has cost."""

    def __init__(self, shard: str, total: int, every_seconds: float) -> None:
        self._shard, self._total, self._every = shard, total, every_seconds
        self._done, self._usage, self._last, self._lock = 0, Usage(), time.monotonic(), threading.Lock()

    def one_more(self, usage: Usage) -> None:
        with self._lock:
            self._done, self._usage = self._done + 1, self._usage + usage
            if time.monotonic() - self._last < self._every:
                return
            self._last = time.monotonic()
            line = f"shard {self._shard}: {self._done:,} of {self._total:,} events, ${self._usage.cost_usd:.4f}"
        print(line, file=sys.stderr, flush=True)


def _commit(run: LabellingRun, name: str, table: pa.Table) -> None:
    commit_shard(run.output, name, table, {"counts": count_rows(table).as_dict()})
