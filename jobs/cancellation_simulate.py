"""Simulate cancelled orders with their true cause, for training and tests.

Reads nothing; writes one file of labelled events, `.jsonl` or `.parquet`, the same for the same settings, and beside
it how they were drawn (`<file>.sample.json`).
Safe to resubmit: the file appears whole or not at all.

    python -m jobs.cancellation_simulate output=var/events.jsonl simulation.num_events=50000 seed=1
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cancellation.decision.sample import LabelledSample, write_sample
from cancellation.events.table import write_labelled
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.launch import run_job
from cluster.settings import Settings


class SimulateJob(Settings):
    """What to simulate and where to put it."""

    output: str = "var/cancellation/events.jsonl"
    """Path or s3:// location of the file; its ending chooses the format."""

    seed: int = Field(default=0, ge=0)
    """Same seed and settings, same events."""

    simulation: SimulationSettings = SimulationSettings()


def main(job: SimulateJob) -> None:
    """Simulate and write."""
    write_labelled(job.output, simulate(job.simulation, job.seed))
    outcomes = ("penalty", "investigate", "none")
    write_sample(job.output, LabelledSample(source="simulation", drawn="random", outcomes=outcomes))


if __name__ == "__main__":
    run_job(main, SimulateJob, defaults=Path(__file__).with_suffix(".toml"))
