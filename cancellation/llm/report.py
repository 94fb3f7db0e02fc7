"""What a labelled set says of itself: lines for the terminal, run.json, figures for MLflow."""

from __future__ import annotations

from cancellation.events.factors import VERDICTS
from cancellation.llm.backends import backend_identity
from cancellation.llm.labelling import LabellingCounts
from cancellation.llm.run import LabelledSet, LabellingRun
from cluster.provenance import collect_provenance, public_settings
from cluster.sharded.report import RUN, run_record, shown_url, track_report
from cluster.storage import short_url
from cluster.tracking import TrackedRun


def summary_lines(run: LabellingRun, done: LabelledSet) -> list[str]:
    """Write counts, cost and, where events had labels, how far both agree."""
    counts = done.counts
    usage = counts.usage
    labels = ", ".join(f"{counts.labels[label]:,} {label}" for label in VERDICTS)
    lines = [f"{counts.read:,} read, {counts.labelled:,} labelled ({labels}), {counts.failed:,} failed"]
    lines += [f"  {count:,} x {reason}" for reason, count in counts.errors.most_common(5)]
    if counts.passed_over:
        lines.append(f"passed over: {', '.join(counts.passed_over)}")
    if counts.without_probability:
        lines.append(
            f"{counts.without_probability:,} labels without a probability: the server gave no log-probabilities, so "
            "nothing can be calibrated by them; backend.endpoint.top_logprobs asks for some"
        )
    if counts.learnt:
        lines.append(
            f"the adapter learnt from {counts.learnt:,} of these: nothing can be calibrated by them, label others"
        )
    if (agreement := label_agreement(counts)) is not None:
        lines.append(f"{agreement:.1%} of {sum(counts.confusion.values()):,} labels that the input had are the same")
    cached = usage.cached_tokens / usage.prompt_tokens if usage.prompt_tokens else 0.0
    bound = ", some of it an upper bound" if usage.estimated else ""
    lines.append(
        f"${usage.cost_usd:.4f}{bound}: {usage.prompt_tokens:,} tokens of prompts ({cached:.0%} cached), "
        f"{usage.completion_tokens:,} of answers; {done.seconds:.1f} s"
    )
    if done.already_done:
        lines.append("Already done under the same settings: nothing was asked.")
    return [*lines, f"labels  {short_url(run.output.url)}"]


def label_agreement(counts: LabellingCounts) -> float | None:
    """Share of the input's labels that the model gave too; None where it had none."""
    total = sum(counts.confusion.values())
    same = sum(counts.confusion[f"{label}>{label}"] for label in VERDICTS)
    return same / total if total else None


class LabellingReport:
    """Writes run.json, and sends the figures to MLflow."""

    def __init__(self, run: LabellingRun, tracked: TrackedRun) -> None:
        self._run, self._tracked = run, tracked

    def files(self, counts: LabellingCounts, seconds: float) -> dict[str, bytes]:
        """Make what lies beside the labels."""
        identity = {
            "input": shown_url(self._run.input),
            "output": shown_url(self._run.output.url),
            **backend_identity(self._run.backend, self._run.model),
            "policy": self._run.policy.stamp,
        }
        settings = {name: public_settings(getattr(self._run, name)) for name in ("backend", "labelling", "settings")}
        found = {"counts": counts.as_dict(), "seconds": round(seconds, 2)}
        files = {RUN: run_record(identity, settings, found, collect_provenance())}
        track_report(self._tracked, identity, figures(counts, seconds), files)
        return files


def figures(counts: LabellingCounts, seconds: float) -> dict[str, float | None]:
    """Give a run's numbers under the names that they have in MLflow."""
    usage = counts.usage
    return {
        "read": counts.read,
        "labelled": counts.labelled,
        "failed": counts.failed,
        "without_probability": counts.without_probability,
        "agreement": label_agreement(counts),
        "cost_usd": usage.cost_usd,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "seconds": seconds,
    }
