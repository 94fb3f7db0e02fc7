"""Simulate cancelled orders with their true cause, or stage written dialogues, for training, proofs and tests.

Reads nothing; writes one file of labelled events, `.jsonl` or `.parquet`, the same for the same settings, and beside
it how they were drawn (`_<file>.sample.json`).
Safe to resubmit: the file appears whole or not at all.

    python -m jobs.cancellation_simulate output=var/events.jsonl simulation.num_events=50000 seed=1
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cancellation.decision.sample import LabelledSample, write_sample
from cancellation.events.markets import require_languages
from cancellation.events.table import write_labelled
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.written.dialogue import written_dialogues
from cancellation.written.staging import stage_all
from cluster.launch import run_job
from cluster.places import OutputUrl
from cluster.progress import watched
from cluster.settings import Settings


class SimulateJob(Settings):
    """What to simulate and where to put it."""

    output: OutputUrl = "var/cancellation/events.jsonl"
    """Path or s3:// location of the file; its ending chooses the format."""

    seed: int = Field(default=0, ge=0)
    """Same seed and settings, same events."""

    simulation: SimulationSettings = SimulationSettings()
    writers: tuple[str, ...] = ()
    """Writers whose dialogues become the events, in drawn circumstances, in place of simulated chats."""

    languages: tuple[str, ...] = ()
    """Codes such as `en`: of what was drawn, only chats in them are written; empty: all."""

    stagings: int = Field(default=1, ge=1)
    """Events per dialogue; those of one dialogue are not independent of each other."""


def main(job: SimulateJob) -> None:
    """Simulate and write."""
    outcomes = ("penalty", "investigate", "none")
    require_languages(job.languages, setting="languages")
    if job.writers:
        events = stage_all(written_dialogues(only=job.writers), job.stagings, seed=job.seed)
    else:
        events = watched(simulate(job.simulation, job.seed), job.simulation.num_events, "events")
    write_labelled(job.output, (one for one in events if not job.languages or one.language in job.languages))
    source = "written" if job.writers else "simulation"
    write_sample(job.output, LabelledSample(source=source, drawn="random", outcomes=outcomes))


if __name__ == "__main__":
    run_job(main, SimulateJob, defaults=Path(__file__).with_suffix(".toml"))
