"""Compare approaches to the verdict: rules, trees, text, and ways to join them; with and without each ingredient.

Reads nothing but the reviewed cases, if named; trains every approach on the same simulated events and measures it
on held-out ones. Writes `output`/comparison.html, .md and .png, one MLflow run with a child per approach. Safe
to resubmit: rows that are finished under the same settings are reused.

    python -m jobs.cancellation_compare jobs/cancellation_compare.smoke.toml
"""

from __future__ import annotations

from pathlib import Path

from cancellation.comparison.approaches import APPROACHES
from cancellation.comparison.page import render_page
from cancellation.comparison.report import draw_comparison, render_markdown
from cancellation.comparison.run import Comparison, ComparisonSettings, run_comparison
from cancellation.training.run import TrainingSettings
from cluster.launch import run_job
from cluster.places import CachePath, OutputPath
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.storage import absolute_url
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings


class CompareJob(Settings):
    """The comparison's settings."""

    output: OutputPath = "var/cancellation/comparison"
    """Folder for models, rows, the table and the plot, on the driver's disk."""

    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models."""

    comparison: ComparisonSettings = ComparisonSettings()
    training: TrainingSettings = TrainingSettings()
    """Of every network, but for what its approach changes."""

    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()

    def unused(self) -> set[str]:
        """Rows of which none is a network that is trained here."""
        kinds = {one.kind for one in APPROACHES if one.name in self.comparison.approaches}
        return set() if kinds & {"network", "stacked"} else {"trainer"}

    def used(self) -> set[str]:
        """Few-shot rows find their examples among the training events, though none are named."""
        few_shot = any(one.changes.get("few_shot") for one in APPROACHES if one.name in self.comparison.approaches)
        return {"comparison.llm.labelling.retrieval.encoder"} if few_shot else set()


def main(job: CompareJob) -> None:
    """Make the rows, the table and the plot."""
    output, cache_dir = Path(job.output), absolute_url(job.cache_dir)
    comparison = Comparison(job.comparison, job.training, job.trainer, job.tracking, output, cache_dir)
    with ray_session(job.session), tracked_run("cancellation_compare", job, job.tracking) as run:
        results = run_comparison(comparison, run)
        table = render_markdown(results, job.comparison)
        (output / "comparison.md").write_text(table, encoding="utf-8")
        plot = draw_comparison(results)
        plot.savefig(output / "comparison.png")
        page = render_page(results, job.comparison)
        (output / "comparison.html").write_bytes(page)
        run.artifact("comparison.md", table.encode())
        run.artifact("comparison.html", page)
        run.figure("comparison.png", plot)
    print(f"{table}\n{output}/comparison.html, comparison.md, comparison.png\n{run.where}")


if __name__ == "__main__":
    run_job(main, CompareJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_train")
