"""Fine-tune a language model on labelled cancellations: a LoRA adapter, the loss on the answer alone.

Reads labelled events (JSONL or parquet; local or s3://; also what `jobs.cancellation_label` wrote) from `input`; writes
the adapter to `output`, for `backend.local.adapter`. Safe to resubmit: a run that was broken off goes on from its last
checkpoint.

    python -m jobs.cancellation_llm_finetune input=labelled.jsonl output=var/models/cancellation_llm
"""

from __future__ import annotations

from pathlib import Path

from cancellation.decision.policy import load_policy
from cancellation.events.examples import example_files, read_examples
from cancellation.llm.finetuning import LlmFinetuningSettings, finetune
from cluster.launch import run_job
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.storage import absolute_url, local_folder
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from cluster.training.train import TrainerSettings


class LlmFinetuneJob(Settings):
    """The fine-tuning's settings."""

    input: InputUrl
    """Labelled events: a file or folder of JSONL or parquet, local or s3://."""

    output: OutputUrl = "var/models/cancellation_llm"
    """Folder for the adapter."""

    policy: InputUrl | None = None
    """Policy file, for the classes of each market, as in labelling; null: the one that ships."""

    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models."""

    finetuning: LlmFinetuningSettings = LlmFinetuningSettings()
    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: LlmFinetuneJob) -> None:
    """Read, train, keep."""
    examples = [one for url in example_files(job.input) for one in read_examples(url)]
    policy, cache_dir = load_policy(job.policy), absolute_url(job.cache_dir)
    with ray_session(job.session), tracked_run("cancellation_llm_finetune", job, job.tracking) as run:
        with local_folder(job.output) as output:
            places = {"output": output, "cache_dir": cache_dir, "registry_uri": job.tracking.uri}
            tuned = finetune(examples, policy, job.finetuning, job.trainer, run, **places)
        left_out = f", {tuned.num_too_long:,} were too long" if tuned.num_too_long else ""
        if tuned.num_without_class:
            left_out += f", {tuned.num_without_class:,} had a label that their market's policy does not know"
        print(f"{tuned.num_examples:,} examples{left_out}; loss {tuned.losses[0]:.3f} to {tuned.losses[-1]:.3f}")
        print(f"adapter  {job.output}\nMLflow   {run.where}")


if __name__ == "__main__":
    run_job(main, LlmFinetuneJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
