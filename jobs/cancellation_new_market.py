"""Take a new market into a model: count its labels, read its chats, fine-tune, check the old markets, calibrate.

Reads labelled events of the new market and of the old ones, unlabelled chats, and a model that
jobs.cancellation_train wrote; writes `output`/model, policy.toml with the market in shadow, and checklist.md. Safe
to resubmit: training that was broken off goes on from its last checkpoint.

    python -m jobs.cancellation_new_market market=CO language=es labelled=co.jsonl old_labelled=labelled/ \\
        'chats=["co_chats/"]' output=var/models/cancellation_co
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cancellation.decision.calibration_run import CalibrationSettings
from cancellation.decision.policy import load_policy
from cancellation.new_market import NewMarket, NewMarketSettings, add_market
from cancellation.training.pretraining import PretrainingSettings
from cancellation.training.run import TrainingSettings
from cluster.launch import run_job
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.places import CachePath, InputUrl, OutputPath
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.sharded.pool import configure_ray_data
from cluster.storage import absolute_url
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings


class NewMarketJob(Settings):
    """The job's settings."""

    output: OutputPath
    """Local folder for the checklist, the model and the policy."""

    market: str
    """ISO 3166-1 alpha-2 code."""

    language: str
    """BCP 47 tag in which its people are addressed."""

    labelled: InputUrl
    """Labelled events of the market: JSONL or parquet, a random sample of what happens."""

    old_labelled: InputUrl
    """Labelled events of the markets that the model knows: trained along and checked, so that none is forgotten."""

    chats: tuple[InputUrl, ...] = ()
    """Unlabelled chats of the market, for pre-training; none: that step is left out."""

    model: ModelName = "var/models/cancellation"
    """The model to start from, as jobs.cancellation_train wrote it: folder, s3:// folder, or models:/name@alias."""
    policy: InputUrl | None = None
    """Policy file that the market is added to; null: the one that ships."""

    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models."""

    check: NewMarketSettings = NewMarketSettings()
    pretraining: PretrainingSettings = PretrainingSettings(num_simulated=0)
    training: TrainingSettings = TrainingSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: NewMarketJob) -> None:
    """Go through the checklist."""
    output, cache_dir = Path(job.output), absolute_url(job.cache_dir)
    market = NewMarket(
        code=job.market,
        language=job.language,
        labelled=job.labelled,
        old_labelled=job.old_labelled,
        chats=job.chats,
        model=fetch_model(resolve_model(job.model, registry_uri=job.tracking.uri), cache_dir=cache_dir),
        policy=load_policy(job.policy),
        settings=job.check,
        pretraining=job.pretraining,
        training=job.training,
        calibration=job.calibration,
        trainer=job.trainer,
        output=output.absolute(),
        cache_dir=cache_dir,
        day=datetime.now(UTC).date().isoformat(),
    )
    with ray_session(job.session), tracked_run("cancellation_new_market", job, job.tracking) as run:
        configure_ray_data()
        policy = add_market(market, run)
        run.artifact("checklist.md", (output / "checklist.md").read_bytes())
    print(f"{output}: model, policy.toml ({policy.version}), checklist.md; {run.where}")


if __name__ == "__main__":
    run_job(main, NewMarketJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_train")
