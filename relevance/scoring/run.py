"""Score a day of pairs on Ray: plan, score, commit; every step can be killed and run again.

    partition:  split -> rows by shard                                   (tasks)
    score:      shard -> prepare (tasks) -> engine (actor pool) -> write and commit (tasks)

A shard is one row of the Ray dataset, its Arrow table packed into a column, so Ray Data can neither
split it nor join it with another: it passes through the actor pool whole, and all pairs of a product
meet the same prefix cache. Reading, tokenising and writing happen on other cores meanwhile.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import Field, field_validator

from cluster import storage
from cluster.commit import Output
from cluster.shard_pool import Deaths, configure_ray_data, one_block_each
from relevance.engines.interface import Engine
from relevance.engines.label_model import LabelModel, fingerprint, load_label_engine
from relevance.engines.settings import EngineSettings
from relevance.pairs.files import Split
from relevance.pairs.pair import shard_range
from relevance.prompting.prompts import PromptEncoder
from relevance.scoring.label_store import LabelStore
from relevance.scoring.planning import PARTITION_STAGE, Shard, collect_shards, count_shards, partition_split, read_shard
from relevance.scoring.shard_steps import (
    COMPUTE,
    RESERVED_COLUMNS,
    SCORE_COLUMNS,
    finish_block,
    poison_block,
    prepare_shard,
    score_block,
)

logger = logging.getLogger(__name__)

SHARD_STAGE = "shards"
_LIGHT = 0.4
"""CPU cores of the steps beside the engine. Unlike an actor's, or Ray Data would fuse them into the actors and let a
GPU wait while text is read; small enough that several jobs on a small machine always find room for one."""
EngineLoader = Callable[[EngineSettings, LabelModel, tuple[int, ...]], Engine]


class ScoringSettings(EngineSettings):
    """How pairs are cut, scored and judged fit to publish; the engine's own settings come first."""

    min_actors: int = Field(default=1, ge=1)
    """Engine actors that are kept while the job runs."""

    max_actors: int = Field(default=1, ge=1)
    """Engine actors that the pool may grow to while shards wait."""

    gpus_per_actor: float = Field(default=0.0, ge=0)
    """GPUs that each engine actor reserves; a fraction lets several share one."""

    cpus_per_actor: float = Field(default=0.5, ge=0)
    """CPU cores that each engine actor reserves for itself. Actors keep them: leave some for the steps beside them."""

    shard_rows: int = Field(default=50_000, ge=1)
    """Pairs per shard, roughly: the unit of commit, of retry and of what a dying actor loses."""

    max_text_bytes: int = Field(default=100_000, ge=1_000)
    """Bytes; a pair with a longer single field is written out with an error."""

    carry: tuple[str, ...] = ()
    """Further input columns to copy to the output."""

    label_store: str | None = None
    """Where labels already given are kept; None: `_label_store` beside the outputs."""

    max_failed_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fail the job when a larger share of the rows read has an error."""

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
    """Load the prompt, check that the model can say the labels, and fix the run's identity."""
    encoder = model.encoder()
    identity = fingerprint(model, encoder)
    input_url, output = storage.absolute_url(input_url), storage.absolute_url(output)
    store_url = settings.label_store or storage.join_url(output, "_label_store")
    store = LabelStore(storage.absolute_url(store_url), identity)
    target = Output(output_url(input_url, output))
    return ScoringRun(input_url, target, model, identity, encoder.digest, store, settings)


def make_plan(run: ScoringRun, splits: Sequence[Split]) -> dict[str, Any]:
    """What the output will be a function of; two runs may share an output only if this is equal."""
    files = [[split.url, split.name, split.size_bytes, split.version] for split in splits]
    return {
        "input": run.input,
        "input_files": files,
        "model": run.model.version,
        "fingerprint": run.fingerprint,
        "num_shards": count_shards(splits, shard_rows=run.settings.shard_rows),
        "max_text_bytes": run.settings.max_text_bytes,
        "carry": list(run.settings.carry),
    }


def partition_input(run: ScoringRun, splits: Sequence[Split], num_shards: int) -> list[Shard]:
    """Bring each shard's rows together, splits that are finished excepted."""
    finished = run.output.manifests(PARTITION_STAGE)
    waiting = [split for split in splits if split.name not in finished]

    def partition(batch: pa.Table) -> pa.Table:
        for row in batch.to_pylist():
            partition_split(
                waiting[row["index"]],
                run.output,
                num_shards=num_shards,
                max_text_bytes=run.settings.max_text_bytes,
                carry=run.settings.carry,
            )
        return batch

    if waiting:
        configure_ray_data()
        items = [{"index": index} for index in range(len(waiting))]
        tasks = one_block_each(items).map_batches(partition, batch_format="pyarrow", batch_size=None)
        for _ in tasks.iter_batches(batch_size=None):
            pass
    manifests = run.output.manifests(PARTITION_STAGE)
    require_manifests(run, PARTITION_STAGE, (split.name for split in splits), manifests)
    return collect_shards(manifests, num_shards)


def require_manifests(run: ScoringRun, stage: str, units: Iterable[str], manifests: Mapping[str, Any]) -> None:
    """Stop if work that was reported done cannot be seen from here, before a part of a day is taken for all of it.

    Raises:
        RuntimeError: If a unit has no manifest.
    """
    if missing := [unit for unit in units if unit not in manifests]:
        raise RuntimeError(
            f"{run.output.url}: {len(missing)} of the {stage} that workers finished cannot be seen from the driver, "
            f"{missing[0]} first: the output has to be storage that all nodes share"
        )


def score_shards(
    run: ScoringRun, shards: Sequence[Shard], *, load: EngineLoader = load_label_engine
) -> Iterator[dict[str, Any]]:
    """Score and commit shards, yielding each one's figures as it is done (see `scoring.finish_block`).

    A shard on which the engine died too often yields `poisoned` > 0 and is left uncommitted.
    """
    if not shards:
        return
    configure_ray_data()
    settings, known = run.settings, run.store.files()
    deaths = Deaths.options(num_cpus=0).remote()
    dataset = (
        one_block_each([asdict(shard) for shard in shards])
        .map_batches(_prepare, batch_format="pyarrow", batch_size=1, num_cpus=_LIGHT, fn_args=(run, known))
        .map_batches(
            _EngineActor,
            batch_format="pyarrow",
            batch_size=1,
            fn_constructor_args=(run, deaths, load),
            compute=ray.data.ActorPoolStrategy(
                min_size=settings.min_actors,
                max_size=max(settings.min_actors, settings.max_actors),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=settings.cpus_per_actor,
            num_gpus=settings.gpus_per_actor or None,
        )
        .map_batches(
            _commit, batch_format="pyarrow", batch_size=1, num_cpus=_LIGHT, fn_args=(run, shards[0].num_shards)
        )
    )
    yield from _figures(dataset)


def commit_poisoned(run: ScoringRun, shards: Sequence[Shard], reasons: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Commit shards that were given up: what needs no engine keeps its labels, the rest gets the reason as error."""

    def give_up(batch: pa.Table) -> pa.Table:
        shard, block = _unpack(batch)
        return _pack(shard, poison_block(block, reasons[shard]))

    if not shards:
        return
    dataset = (
        one_block_each([asdict(shard) for shard in shards])
        .map_batches(_prepare, batch_format="pyarrow", batch_size=1, num_cpus=_LIGHT, fn_args=(run, run.store.files()))
        .map_batches(give_up, batch_format="pyarrow", batch_size=1)
        .map_batches(
            _commit, batch_format="pyarrow", batch_size=1, num_cpus=_LIGHT, fn_args=(run, shards[0].num_shards, True)
        )
    )
    yield from _figures(dataset)


def _figures(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    for row in dataset.iter_rows():
        yield json.loads(row["figures"])


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

    def __init__(self, run: ScoringRun, deaths: Any, load: EngineLoader) -> None:
        self._max_deaths = run.settings.max_deaths_per_shard
        self._deaths = deaths
        encoder = run.model.encoder()
        self._guidelines_ids = encoder.guidelines_ids
        self._engine = load(run.settings, run.model, encoder.label_ids)

    def __call__(self, batch: pa.Table) -> pa.Table:
        shard, block = _unpack(batch)
        deaths, reason = ray.get(self._deaths.start.remote(shard))
        if deaths >= self._max_deaths:
            return _pack(shard, poison_block(block, f"engine: died {deaths} times on this shard, last: {reason}"))
        try:
            return _pack(shard, score_block(block, self._engine, self._guidelines_ids))
        except Exception as error:
            # The text of an engine's error may quote its input: the type and the place are enough.
            logger.exception("engine failed on shard %s", shard)
            ray.get(self._deaths.explain.remote(shard, type(error).__name__))
            os._exit(1)


def _commit(batch: pa.Table, run: ScoringRun, num_shards: int, accept_poisoned: bool = False) -> pa.Table:
    shard, block = _unpack(batch)
    table, figures = finish_block(block, model_version=run.model.version, prompt_version=run.prompt_version)
    figures["shard"] = shard
    if accept_poisoned or not figures["poisoned"]:
        _remember(block, run, shard_range(int(shard), num_shards))
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        figures["data"] = run.output.write_data(f"shard-{shard}", buffer.getvalue())
        run.output.commit_unit(SHARD_STAGE, shard, figures)
    return pa.table({"figures": [json.dumps(figures)]})


def _remember(block: pa.Table, run: ScoringRun, hash_range: tuple[int, int]) -> None:
    """Add what the model computed to the label store: before the manifest, so that a killed run loses nothing."""
    computed = np.flatnonzero(np.asarray(block["origin"]) == COMPUTE)
    rows = block.take(pa.array(computed)).combine_chunks()
    probabilities = np.stack([np.asarray(rows[name]) for name in SCORE_COLUMNS], axis=1)
    run.store.add(hash_range, rows["content"].combine_chunks(), probabilities, np.asarray(rows["label_mass"]))
