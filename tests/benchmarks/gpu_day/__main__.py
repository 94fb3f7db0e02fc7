"""One prepared command for the day on which a GPU is lent: every open figure, in order, within twelve minutes.

    TMPDIR=/dev/shm python -m tests.benchmarks.gpu_day gpu_day.json
    python -m tests.benchmarks.gpu_day gpu_day.json --dry-run         # the same steps on a CPU with tiny shapes

Needs torch, transformers, peft and Ray's Serve, vLLM for three of the steps, and 16 GB in the folder for temporary
files. Each step is a process of its own, ended when its time is up. The JSON is written anew after each: what ran, what
it found, how many seconds it took, which step failed and why; those after it go on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.gpu_day.steps import Step, run_all, shares

WHOLE_SECONDS = 720
_ENGINES = ("--pairs-per-product", "50")


def steps(folder: Path, *, dry_run: bool) -> list[Step]:
    """List the steps; on a card their times add up to less than `WHOLE_SECONDS`."""
    engines = ("--folder", str(folder), *_ENGINES, *(("--tiny", "--pairs", "200") if dry_run else ()))
    fp8, vllm = ("int8", "vllm_bf16") if dry_run else ("fp8", "vllm_fp8")  # what a CPU has of them
    relevance = "tests.benchmarks.relevance_gpu"
    tiny = ("--tiny",) if dry_run else ()
    return [
        Step("ceilings", "tests.benchmarks.gpu_day.ceilings", tiny, 60),
        Step("model", relevance, (*engines, "--engines", ""), 90),
        Step("transformers", relevance, (*engines, "--engines", fp8, "--forward-tokens", "16384,32768"), 110),
        Step("vllm", relevance, (*engines, "--engines", vllm), 110),
        Step("vllm, its defaults", relevance, (*engines, "--engines", f"{vllm}_defaults"), 110),
        Step("vllm, query first", relevance, (*engines, "--engines", vllm, "--query-first"), 90),
        Step("serving", "tests.benchmarks.gpu_day.serving", tiny, 145),
    ]


def main() -> None:
    """Run the steps and write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--seconds", type=float, default=WHOLE_SECONDS)
    arguments = parser.parse_args()
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="gpu-day-") as folder:
        planned = steps(Path(folder), dry_run=arguments.dry_run)
        for outcomes in run_all(planned, whole_seconds=arguments.seconds):
            report = {"begun": begun, "dry_run": arguments.dry_run, "shares": shares(outcomes)}
            report["steps"] = [asdict(outcome) for outcome in outcomes]
            arguments.output.write_text(json.dumps(report, indent=1))
    for outcome in outcomes:
        print(f"{outcome.name:<20}{outcome.seconds:>8.1f} s  {outcome.error or 'done'}")


if __name__ == "__main__":
    main()
