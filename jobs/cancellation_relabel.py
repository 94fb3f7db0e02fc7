"""Look again at labels that models doubt: ask people, read their answers, write corrected labels, measure the gain.

Reads labelled events from `input` and, where given, verdicts that people rejected (`archive`, `monitoring`). Without
`answers` it writes tasks for Label Studio to `round`; with them it writes corrected labels and a report to `output`.
Safe to resubmit: a finished round, and a finished correction, say so.

    python -m jobs.cancellation_relabel input=labelled/ round=var/relabel/1
    python -m jobs.cancellation_relabel input=labelled/ round=var/relabel/1 answers=exports/ output=var/relabelled/1
"""

from __future__ import annotations

from pathlib import Path

from cancellation.decision.policy import load_policy
from cancellation.relabelling.judges import Workshop
from cancellation.relabelling.report import correction_lines, figures, round_lines
from cancellation.relabelling.run import RelabelSettings, ask, take_answers
from cluster.launch import run_job
from cluster.places import CachePath, OutputPath
from cluster.session import SessionSettings, ray_session
from cluster.storage import absolute_url
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings


class RelabelJob(RelabelSettings):
    """The relabelling job's settings."""

    work: OutputPath = "var/relabelling"
    """Folder for models on this machine's disk; they can be removed afterwards."""

    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models."""

    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()

    def unused(self) -> set[str]:
        """Where no network is taught, there is nothing to keep of it."""
        return super().unused() | (set() if self.teaches_networks else {"work", "trainer"})


def main(job: RelabelJob) -> None:
    """Ask, or correct."""
    with ray_session(job.session), tracked_run("cancellation_relabel", job, job.tracking) as run:
        work = Path(job.work).absolute() / (run.run_id or "untracked")
        cache_dir, policy = absolute_url(job.cache_dir), load_policy(job.policy)
        workshop = Workshop(job.judges, job.trainer, work, cache_dir, policy, run)
        if job.answers:
            report = take_answers(job, workshop)
            run.metrics(figures(report))
            lines = correction_lines(report, job.output)
        else:
            manifest = ask(job, workshop)
            run.metrics({f"asked.{why}": count for why, count in manifest["asked"].items()})
            lines = round_lines(manifest, job.round)
        print("\n".join([*lines, f"MLflow     {run.where}"]))


if __name__ == "__main__":
    run_job(main, RelabelJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_train")
