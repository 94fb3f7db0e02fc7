"""Score a day of pairs on Ray: plan, score, commit; every step can be killed and run again.

    partition:  split -> rows by shard                                   (tasks)
    score:      shard -> prepare (tasks) -> engine (actor pool) -> write and commit (tasks)

A shard is one row of the Ray dataset, its Arrow table packed into a column, so Ray Data can neither
split it nor join it with another: it passes through the actor pool whole, and all pairs of a product
meet the same prefix cache. Reading, tokenising and writing happen on other cores meanwhile.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator
from ray.data import Dataset

from cluster import storage
from cluster.commit import Output
from cluster.gpus import WAITING, GpuMeter, gauge
from cluster.places import OutputUrl
from cluster.sharded.job import commit_shard, require_manifests
from cluster.sharded.pool import Deaths, as_report, one_block_each, reports, run_to_end, through_actors, through_tasks
from relevance.engines.interface import Engine
from relevance.engines.label_model import LabelModel, fingerprint, load_label_engine
from relevance.engines.settings import EngineSettings
from relevance.pairs.files import Split
from relevance.pairs.pair import hash_ids, shard_range
from relevance.prompting.prompts import PromptEncoder
from relevance.scoring.label_store import LabelStore
from relevance.scoring.planning import PARTITION_STAGE, Shard, collect_shards, count_shards, group_splits, read_shard
from relevance.scoring.shard_steps import (
    COMPUTE,
    OF_ACTOR,
    RESERVED_COLUMNS,
    SCORE_COLUMNS,
    finish_block,
    poison_block,
    prepare_shard,
    score_block,
    with_used,
)

EngineLoader = Callable[[EngineSettings, LabelModel, tuple[int, ...]], Engine]


_POOL = "relevance_score"
"""As which its actors are known in Ray's metrics."""


class ScoringSettings(EngineSettings):
    """How pairs are cut, scored and judged fit to publish; the engine's own settings come first."""

    min_actors: int = Field(default=1, ge=1)
    """Engine actors without a GPU that the pool begins with."""

    max_actors: int = Field(default=1, ge=1)
    """Engine actors that the pool may grow to while shards wait; those with a GPU are asked for all at once."""

    shard_rows: int = Field(default=50_000, ge=1)
    """Pairs per shard, roughly: the unit of commit, of retry and of what a dying actor loses."""

    max_text_bytes: int = Field(default=100_000, ge=1_000)
    """Bytes; a pair with a longer single field is written out with an error."""

    carry: tuple[str, ...] = ()
    """Further input columns to copy to the output."""

    label_store: OutputUrl | None = None
    """Where labels already given are kept; None: `_label_store` beside the outputs."""

    max_failed_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fail the job when a larger share of the rows read has an error."""

    allow_empty: bool = False
    """Commit an input without a row; otherwise the job fails with status 1, as it may not have been written yet."""

    require_marker: str | None = None
    """File that the input's writer lays into its folder last, such as _SUCCESS: without it the job fails with status 1,
    to be run again when it is there. Null: none is looked for."""

    @field_validator("carry")
    @classmethod
    def _carry_no_output_column(cls, carry: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted(set(carry) & RESERVED_COLUMNS):
            raise ValueError(
                f"{', '.join(taken)}: a name of the output's or the job's own columns; rename it in the input"
            )
        return carry

    max_deaths_per_shard: int = Field(default=3, ge=1)
    """Give a shard up when the engine has died on it this often."""

    max_poisoned_fraction: float = Field(default=0.05, ge=0, le=1)
    """Fail the job when a larger share of the shards was given up: then it is not the shards."""


@dataclass(frozen=True)
class ScoringRun:
    """One run of the job: what is read, what gives the labels, where they go. Cheap to send to workers."""

    input: str
    output: Output
    model: LabelModel
    fingerprint: str
    prompt_version: str
    store: LabelStore
    settings: ScoringSettings


def output_url(input_url: str, output: str) -> str:
    """Where a run's output lies: a day's partition (`ds=2026-11-22`) keeps its name under the output root."""
    last = input_url.rstrip("/").rpartition("/")[2]
    return storage.join_url(output, last) if "=" in last else output.rstrip("/")


def open_run(input_url: str, output: str, model: LabelModel, settings: ScoringSettings) -> ScoringRun:
    """Load the prompt, check that the model can be loaded and say the labels, and fix the run's identity.

    Raises:
        ValueError: If the model, its adapter or its prompt is refused.
    """
    model.check()
    encoder = model.encoder()
    on_gpu = settings.gpus_per_actor > 0 or settings.device.startswith("cuda")
    settings = settings.pinned(on_gpu=on_gpu, max_prompt_tokens=encoder.max_prompt_tokens)
    identity = fingerprint(model, encoder, settings)
    input_url, output = storage.absolute_url(input_url), storage.absolute_url(output)
    store_url = settings.label_store or storage.join_url(output, "_label_store")
    store = LabelStore(storage.absolute_url(store_url), identity)
    target = Output(output_url(input_url, output))
    return ScoringRun(input_url, target, model, identity, encoder.digest, store, settings)


def make_plan(run: ScoringRun, splits: Sequence[Split], others: Sequence[str] = ()) -> dict[str, Any]:
    """What the output will be a function of, `others` left out; two runs may share an output only if this is equal."""
    files = [[split.url, split.name, split.size_bytes, split.version] for split in splits]
    return {
        "input": run.input,
        "input_files": files,
        "model": run.model.version,
        "fingerprint": run.fingerprint,
        **run.settings.arithmetic(run.model.quantization),
        "num_shards": count_shards(splits, shard_rows=run.settings.shard_rows),
        "max_text_bytes": run.settings.max_text_bytes,
        "carry": list(run.settings.carry),
        **({"passed_over": list(others)} if others else {}),
    }


def partition_input(run: ScoringRun, splits: Sequence[Split], num_shards: int) -> list[Shard]:
    """Bring each shard's rows together, groups of splits that are finished excepted."""
    finished = run.output.manifests(PARTITION_STAGE)
    groups = group_splits(splits)
    waiting = [group for group in groups if group.name not in finished]

    def partition(batch: pa.Table) -> pa.Table:
        for row in batch.to_pylist():
            waiting[row["index"]].partition(
                run.output,
                num_shards=num_shards,
                max_text_bytes=run.settings.max_text_bytes,
                carry=run.settings.carry,
            )
        return batch

    if waiting:
        items = [{"index": index} for index in range(len(waiting))]
        tasks = one_block_each(items).map_batches(partition, batch_format="pyarrow", batch_size=None)
        run_to_end(tasks)
    manifests = run.output.manifests(PARTITION_STAGE)
    names = [group.name for group in groups]
    require_manifests(run.output, PARTITION_STAGE, names, manifests)
    # Those of an earlier version, which may have put splits together otherwise, hold the same rows.
    return collect_shards({name: manifests[name] for name in names}, num_shards)


def score_shards(
    run: ScoringRun, shards: Sequence[Shard], *, load: EngineLoader = load_label_engine
) -> Iterator[dict[str, Any]]:
    """Score and commit shards, yielding each one's figures as it is done (see `scoring.finish_block`).

    A shard on which the engine died too often yields `poisoned` > 0 and is left uncommitted.
    """
    if not shards:
        return
    settings, deaths = run.settings, Deaths.counted(most=run.settings.max_deaths_per_shard)
    scored = through_actors(
        _prepared(run, shards),
        _EngineActor,
        run,
        deaths,
        load,
        units=len(shards),
        min_actors=settings.min_actors,
        max_actors=settings.max_actors,
        cpus_per_actor=settings.cpus_per_actor,
        gpus_per_actor=settings.gpus_per_actor,
    )
    yield from reports(through_tasks(scored, _commit, run, shards[0].num_shards))


def commit_poisoned(run: ScoringRun, shards: Sequence[Shard], reasons: dict[str, str]) -> None:
    """Commit shards that were given up: what needs no engine keeps its labels, the rest gets the reason as error."""

    def give_up(batch: pa.Table) -> pa.Table:
        shard, block = _unpack(batch)
        return _pack(shard, poison_block(block, reasons[shard]))

    if lost := [shard for shard in shards if shard.name in reasons]:
        poisoned = through_tasks(_prepared(run, lost), give_up)
        for _ in reports(through_tasks(poisoned, _commit, run, lost[0].num_shards, True)):
            pass


def _prepared(run: ScoringRun, shards: Sequence[Shard]) -> Dataset:
    return through_tasks(one_block_each([asdict(shard) for shard in shards]), _prepare, run, run.store.files())


@cache
def _encoder(model: LabelModel) -> PromptEncoder:
    """The tokeniser is loaded once per worker process."""
    encoder = model.encoder()
    gc.freeze()  # else every collection walks all of transformers while token lists are made
    return encoder


def _prepare(batch: pa.Table, run: ScoringRun, known: Sequence[str]) -> pa.Table:
    (row,) = batch.to_pylist()
    shard = Shard(**row)
    hashes = shard_range(shard.number, shard.num_shards)
    rows = read_shard(shard, run.output)
    block = prepare_shard(rows, _encoder(run.model), lambda digests: run.store.lookup(known, hashes, digests))
    return _pack(shard.name, block)


def _pack(shard: str, block: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, block.schema) as writer:
        writer.write_table(block)
    size = sink.tell()
    offsets = pa.py_buffer(np.array([0, size], np.int64))
    column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, sink.getvalue()])
    return pa.table({"shard": [shard], "block": column})


def _unpack(batch: pa.Table) -> tuple[str, pa.Table]:
    assert len(batch) == 1, f"{len(batch)} shards in one batch"
    return batch["shard"][0].as_py(), pa.ipc.open_stream(batch["block"][0].as_buffer()).read_all()


class _EngineActor:
    """Holds one engine. When the engine fails, the process goes with it: Ray starts a fresh one."""

    def __init__(self, run: ScoringRun, deaths: Deaths, load: EngineLoader) -> None:
        self._deaths = deaths
        encoder = run.model.encoder()
        self._guidelines_ids = encoder.guidelines_ids
        self._engine = load(run.settings, run.model, encoder.label_ids)
        self._gpus, self._wait_gauge = GpuMeter.start(_POOL), gauge(WAITING)
        self._since = time.perf_counter()

    def __call__(self, batch: pa.Table) -> pa.Table:
        shard, block = _unpack(batch)
        if reason := self._deaths.too_many(shard):
            return _pack(shard, poison_block(block, f"engine: {reason}"))
        with self._deaths.of_errors(shard):
            return _pack(shard, self._measured(score_block(block, self._engine, self._guidelines_ids)))

    def _measured(self, block: pa.Table) -> pa.Table:
        """Note how long the engine has waited since it was last done, or loaded: all the time that it did not work."""
        before, self._since = self._since, time.perf_counter()
        waited = max(0.0, self._since - before - block["engine_seconds"][0].as_py())
        if self._wait_gauge is not None:
            self._wait_gauge.set(waited / max(self._since - before, 1e-9), {"pool": _POOL})
        busy, seconds = self._gpus.take() if self._gpus else (0.0, 0.0)
        return with_used(block, dict(zip(OF_ACTOR, (waited, busy, seconds), strict=True)))


def _commit(batch: pa.Table, run: ScoringRun, num_shards: int, accept_poisoned: bool = False) -> pa.Table:
    shard, block = _unpack(batch)
    table, figures = finish_block(block, model_version=run.model.version, prompt_version=run.prompt_version)
    figures["shard"] = shard
    if accept_poisoned or not figures["poisoned"]:
        _remember(block, run, shard_range(int(shard), num_shards))
        commit_shard(run.output, shard, table, figures)
    return as_report(figures)


def _remember(block: pa.Table, run: ScoringRun, hash_range: tuple[int, int]) -> None:
    """Add what the model computed to the label store: before the manifest, so that a killed run loses nothing."""
    computed = np.flatnonzero(np.asarray(block["origin"]) == COMPUTE)
    written = ("product_id", "content", *SCORE_COLUMNS, "label_mass")  # carried texts may be too long to be taken
    rows = block.select(written).take(pa.array(computed)).combine_chunks()
    probabilities = np.stack([np.asarray(rows[name]) for name in SCORE_COLUMNS], axis=1)
    products = hash_ids(rows["product_id"].combine_chunks())
    mass = np.asarray(rows["label_mass"])
    run.store.add(hash_range, products, rows["content"].combine_chunks(), probabilities, mass)
