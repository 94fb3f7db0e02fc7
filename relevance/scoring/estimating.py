"""What a day will cost, from a sample of it scored on the hardware that will do the work."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from cluster import storage
from relevance.engines.label_model import load_label_engine
from relevance.pairs.files import Split, find_splits, read_split
from relevance.pairs.pair import clean_pairs, hash_ids
from relevance.scoring.run import EngineLoader, ScoringRun
from relevance.scoring.shard_steps import COMPUTE, FAILED, REPEATED, REUSED, prepare_shard, score_block

_SAMPLED_SPLITS = 4
_READ_ROWS = 40_000
_SAMPLE_ROWS = 600
_WARM_UP_ROWS = 40


@dataclass(frozen=True)
class DayEstimate:
    """What to expect of a run over the whole input."""

    rows: int
    """Estimated from file sizes where the format does not say."""
    sampled_rows: int
    computed_fraction: float
    """Share of rows that the model will read; the rest is known, repeated or bad."""
    known_fraction: float
    repeated_fraction: float
    failed_fraction: float
    pairs_per_second: float
    """Pairs that one actor computes per second, once warm."""
    load_seconds: float
    gpus_per_actor: float
    max_actors: int
    gpu_hour_price: float

    @property
    def actor_hours(self) -> float:
        """Hours of engine work, shared by however many actors."""
        return self.rows * self.computed_fraction / self.pairs_per_second / 3600

    @property
    def cost(self) -> float:
        """Price of the GPUs for that work, in the price's currency."""
        return self.actor_hours * self.gpus_per_actor * self.gpu_hour_price

    def hours(self, num_actors: int) -> float:
        """Wall-clock hours with so many actors, their start included."""
        return self.actor_hours / num_actors + self.load_seconds / 3600


def estimate_day(run: ScoringRun, *, gpu_hour_price: float, load: EngineLoader = load_label_engine) -> DayEstimate:
    """Score a sample of whole products and scale it up; nothing is written.

    The sample sees only the pairs of its splits, so an input whose products are spread over many
    files shares more in the real run than here: the estimate is on the safe side.
    """
    splits = find_splits(run.input, carry=run.settings.carry)
    rows = _sample_products(run, splits)
    encoder, known = run.model.encoder(), run.store.files()
    block = prepare_shard(rows, encoder, lambda digests: run.store.lookup(known, (0, 2**64), digests))
    origin = block["origin"].to_numpy()
    task = _measure.options(num_gpus=run.settings.gpus_per_actor or None, num_cpus=run.settings.cpus_per_actor)
    load_seconds, seconds = ray.get(task.remote(run, block, load))
    computed = int((origin == COMPUTE).sum())
    return DayEstimate(
        rows=sum(split.estimated_rows for split in splits),
        sampled_rows=len(block),
        computed_fraction=computed / len(block),
        known_fraction=float((origin == REUSED).mean()),
        repeated_fraction=float((origin == REPEATED).mean()),
        failed_fraction=float((origin == FAILED).mean()),
        pairs_per_second=computed / seconds if computed else float("inf"),
        load_seconds=load_seconds,
        gpus_per_actor=run.settings.gpus_per_actor,
        max_actors=run.settings.max_actors,
        gpu_hour_price=gpu_hour_price,
    )


def _sample_products(run: ScoringRun, splits: list[Split]) -> pa.Table:
    """Rows of whole products, chosen by hash, from splits spread over the input."""
    chosen = np.linspace(0, len(splits) - 1, min(len(splits), _SAMPLED_SPLITS)).astype(int)
    tables: list[pa.Table] = []
    for index in chosen:
        wanted = _READ_ROWS // len(chosen)
        for table in read_split(splits[index]):
            tables.append(clean_pairs(table, max_text_bytes=run.settings.max_text_bytes, carry=run.settings.carry))
            wanted -= len(table)
            if wanted <= 0:
                break
    rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    hashes = hash_ids(rows["product_id"].combine_chunks())
    share = min(1.0, _SAMPLE_ROWS / max(1, len(rows)))
    bound = np.quantile(hashes.astype(np.float64), share)
    return rows.filter(pa.array(hashes.astype(np.float64) <= bound))


@ray.remote
def _measure(run: ScoringRun, block: pa.Table, load: EngineLoader) -> tuple[float, float]:
    """Seconds to load the engine, and to score the block once it is warm."""
    started = time.perf_counter()
    encoder = run.model.encoder()
    engine = load(run.settings, run.model, encoder.label_ids)
    score_block(block.slice(0, _WARM_UP_ROWS), engine, encoder.guidelines_ids)
    loaded = time.perf_counter()
    score_block(block, engine, encoder.guidelines_ids)
    return loaded - started, max(1e-9, time.perf_counter() - loaded)


def print_estimate(estimate: DayEstimate, run: ScoringRun) -> None:
    """Print time, cost and actors for the whole input."""
    print(f"{storage.short_url(run.input)}: about {estimate.rows:,} rows, {estimate.sampled_rows:,} of them sampled")
    print(
        f"  to compute {estimate.computed_fraction:.1%}, known {estimate.known_fraction:.1%}, "
        f"repeated {estimate.repeated_fraction:.1%}, bad {estimate.failed_fraction:.1%}"
    )
    print(f"  one actor: {estimate.pairs_per_second:,.0f} pairs/s after {estimate.load_seconds:.0f} s of loading")
    for actors in sorted({1, run.settings.min_actors, estimate.max_actors}):
        print(f"  {actors} actor{'s' if actors > 1 else ''}: {_hours(estimate.hours(actors))}")
    if estimate.gpus_per_actor and estimate.gpu_hour_price:
        print(f"  cost: {estimate.cost:,.2f} at {estimate.gpu_hour_price} per GPU hour")
    else:
        print("  cost: no GPU is used (scoring.gpus_per_actor, report.gpu_hour_price)")


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
