"""Generate the pairs of the demo: products and queries of an invented catalogue with their true labels.

Reads nothing; writes one parquet file, the same for the same settings. Safe to resubmit.

    python -m jobs.relevance_sample output=relevance/sample.parquet
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from cluster.launch import run_job
from cluster.places import OutputPath
from cluster.settings import Settings
from relevance.small_model_recipe.sample import SampleSettings, sample_table


class SampleJob(Settings):
    """What to generate and where to put it."""

    output: OutputPath = "relevance/sample.parquet"
    """Path of the parquet file."""

    sample: SampleSettings = SampleSettings()


def main(job: SampleJob) -> None:
    """Generate and write the sample."""
    pq.write_table(sample_table(job.sample), job.output, compression="zstd")


if __name__ == "__main__":
    run_job(main, SampleJob, defaults=Path(__file__).with_suffix(".toml"))
