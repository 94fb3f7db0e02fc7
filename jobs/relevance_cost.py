"""Compare what a day of relevance labels costs on GPUs of one's own with a hosted model's price list.

Reads measured pairs/s and prices from its settings; prints dollars per million pairs and per day, GPUs, and the volume
from which own GPUs are cheaper. Writes nothing, asks nobody; safe to run at any time. docs/cost.md explains the table.

    python -m jobs.relevance_cost
    python -m jobs.relevance_cost my_prices.toml day.pairs=50000000
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.settings import Settings
from relevance.cost import Day, HostedModel, OwnGpu, cost_lines


class CostJob(Settings):
    """The comparison's settings."""

    day: Day = Day()

    own: tuple[OwnGpu, ...] = ()
    """Kinds of GPU, a table `[[own]]` each."""

    hosted: tuple[HostedModel, ...] = ()
    """Hosted models, a table `[[hosted]]` each."""


def main(job: CostJob) -> None:
    """Print the comparison."""
    print("\n".join(cost_lines(job.day, job.own, job.hosted)), flush=True)


if __name__ == "__main__":
    run_job(main, CostJob, defaults=Path(__file__).with_suffix(".toml"))
