"""Measure how far a judge stays by its word: the same question many times, and the same event in other clothes.

Reads events (JSONL or parquet) from `input`; writes `output`/consistency.md and consistency.json, and one MLflow run.
The language model is asked `consistency.runs` times about each event; the models of `invariant` (the fusion model that
ships, rules, the language model as `llm`) judge neutral variants. Safe to resubmit: answers are kept and not asked for
again, `backend.endpoint.budget_usd` holds for all runs of an output together, and a request that was on its way when
a process died counts as failed unless `labelling.ask_again=true`.

    python -m jobs.cancellation_consistency input=events.jsonl labelling.judging.sampling.temperature=0.7
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from cancellation.comparison.kept_answers import KeptAnswers, answerer, paid_before
from cancellation.comparison.llm_judge import LlmJudge
from cancellation.consistency.judges import JudgeName, open_judge, read_events
from cancellation.consistency.report import figures, render
from cancellation.consistency.run import ConsistencySettings, ask_repeatedly, measure_invariance, sample_events
from cancellation.decision.policy import load_policy
from cancellation.llm.backends import BackendSettings, open_backend, pin_backend
from cancellation.llm.labelling import Labeller, LabellingSettings
from cancellation.llm.retrieval import load_index, pin_encoder
from cluster.endpoint.purse import Purse
from cluster.launch import run_job
from cluster.models.files import ModelName
from cluster.places import CachePath, InputUrl, OutputPath
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run


class ConsistencyJob(Settings):
    """The measurement's settings."""

    input: InputUrl
    """Events: a file or folder of JSONL or parquet, local or s3://."""

    output: OutputPath = "var/cancellation/consistency"
    """Folder for the tables and the answers, on the driver's disk."""
    repeat: bool = True
    """Ask the language model many times."""
    invariant: tuple[JudgeName, ...] = ("shipped", "rules")
    """Judges that are tested with neutral variants."""
    shipped: ModelName = "cancellation/small_model"
    """Exported fusion model: folder, s3:// folder, or models:/name@alias of MLflow."""
    policy: InputUrl | None = None
    """Policy file, for the classes of each market; null: the one that ships."""
    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models, and for sentence vectors."""

    consistency: ConsistencySettings = ConsistencySettings()
    backend: BackendSettings = BackendSettings()
    labelling: LabellingSettings = LabellingSettings()
    tracking: TrackingSettings = TrackingSettings()

    def unused(self) -> set[str]:
        """Models that are not asked."""
        asked = {"backend", "labelling"} if self.repeat or "llm" in self.invariant else set()
        return {"backend", "labelling", "shipped"} - asked - {*self.invariant}


def main(job: ConsistencyJob) -> None:
    """Ask, judge, compare and report."""
    output = Path(job.output)
    events = sample_events(read_events(job.input), job.consistency.num_events)
    answers = str((output / "answers").absolute())
    policy = load_policy(job.policy)
    labeller = kept = None
    if job.repeat or "llm" in job.invariant:
        encoder = pin_encoder(job.labelling.retrieval, registry_uri=job.tracking.uri)
        index = load_index(job.labelling.retrieval, encoder, cache_dir=job.cache_dir)
        purse = Purse(job.backend.endpoint.budget_usd, spent_usd=paid_before(answers))
        pinned = pin_backend(job.backend, registry_uri=job.tracking.uri)
        backend = open_backend(job.backend, pinned, cache_dir=job.cache_dir, purse=purse)
        labeller = Labeller(backend, job.labelling, policy, index)
        asked, ask_again = answerer(job.backend, pinned), job.labelling.ask_again or not job.backend.is_paid_per_request
        kept = KeptAnswers(answers, asked, job.labelling.judging, ask_again=ask_again, parallel=job.backend.parallel)
    with tracked_run("cancellation_consistency", job, job.tracking) as run:
        repeated = ask_repeatedly(events, labeller, kept, job.consistency) if job.repeat and labeller and kept else None
        model = LlmJudge(labeller, kept) if labeller and kept else None
        invariance = {}
        for name in job.invariant:
            judge = open_judge(name, job.shipped, model, policy, cache_dir=job.cache_dir, registry_uri=job.tracking.uri)
            invariance[name] = measure_invariance(events, judge, job.consistency)
        table = render(repeated, invariance, job.consistency)
        output.mkdir(parents=True, exist_ok=True)
        judged = {name: asdict(one) for name, one in invariance.items()}
        found = {"repeated": repeated and asdict(repeated), "invariance": judged}
        (output / "consistency.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (output / "consistency.md").write_text(table, encoding="utf-8")
        run.metrics(figures(repeated, invariance))
        run.artifact("consistency.md", table.encode())
    print(f"{table}\n{output}/consistency.md, consistency.json\n{run.where}")


if __name__ == "__main__":
    run_job(main, ConsistencyJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_label")
