"""What a day will cost, from a sample of it scored on the hardware that will do the work."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa
import ray

from cluster import storage
from cluster.session import require_gpus
from relevance.engines.label_model import load_label_engine
from relevance.pairs.files import find_splits
from relevance.scoring.run import EngineLoader, ScoringRun
from relevance.scoring.sampling import sample_day
from relevance.scoring.shard_steps import COMPUTE, FAILED, REPEATED, REUSED, know_nothing, prepare_shard, score_block

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
    pairs_per_product: float
    """Of the products that were timed: the more, the more is shared."""
    counted_whole: bool
    """Whether pairs of one product were found in all files."""
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

    Raises:
        ValueError: If a file is damaged, or the local Ray will never have the GPUs.
    """
    require_gpus(run.settings.gpus_per_actor)
    splits = find_splits(run.input, carry=run.settings.carry)
    sample = sample_day(splits, max_text_bytes=run.settings.max_text_bytes)
    encoder, known = run.model.encoder(), run.store.files()
    block = prepare_shard(sample.rows, encoder, lambda digests: run.store.lookup(known, sample.hash_range, digests))
    origin = block["origin"].to_numpy()
    shares = {kind: float((origin == kind).mean()) for kind in (COMPUTE, REUSED, REPEATED, FAILED)}
    timed = prepare_shard(sample.products(known_fraction=shares[REUSED]), encoder, know_nothing)
    computed = int((timed["origin"].to_numpy() == COMPUTE).sum())
    task = _measure.options(num_gpus=run.settings.gpus_per_actor or None, num_cpus=run.settings.cpus_per_actor)
    load_seconds, seconds = ray.get(task.remote(run, timed, load))
    return DayEstimate(
        rows=sum(split.estimated_rows for split in splits),
        sampled_rows=len(block),
        computed_fraction=shares[COMPUTE],
        known_fraction=shares[REUSED],
        repeated_fraction=shares[REPEATED],
        failed_fraction=shares[FAILED],
        pairs_per_product=float(sample.sizes.mean()),
        counted_whole=sample.whole,
        pairs_per_second=computed / seconds if computed else float("inf"),
        load_seconds=load_seconds,
        gpus_per_actor=run.settings.gpus_per_actor,
        max_actors=run.settings.max_actors,
        gpu_hour_price=gpu_hour_price,
    )


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
    spread = "" if estimate.counted_whole else ", not counting what lies in files that were not read: expect less cost"
    print(f"  {estimate.pairs_per_product:.1f} pairs a product{spread}")
    print(f"  one actor: {estimate.pairs_per_second:,.0f} pairs/s after {estimate.load_seconds:.0f} s of loading")
    for actors in sorted({1, run.settings.min_actors, estimate.max_actors}):
        print(f"  {actors} actor{'s' if actors > 1 else ''}: {_hours(estimate.hours(actors))}")
    if estimate.gpus_per_actor and estimate.gpu_hour_price:
        print(f"  cost: {estimate.cost:,.2f} at {estimate.gpu_hour_price} per GPU hour")
    else:
        print("  cost: no GPU is used (scoring.gpus_per_actor, report.gpu_hour_price)")


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
