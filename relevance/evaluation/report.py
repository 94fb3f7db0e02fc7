"""Where an evaluation goes: a page and JSON in a folder, figures and plots in MLflow, a few lines on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cluster import storage
from cluster.provenance import collect_provenance, hide_credentials
from cluster.statistics.bootstrap import Figure
from cluster.tracking import TrackedRun
from relevance.evaluation.page import render_evaluation, verdict
from relevance.evaluation.run import COMPARED, Evaluation

PAGE, FIGURES = "evaluation.html", "evaluation.json"


def evaluation_files(evaluation: Evaluation, settings: Mapping[str, Any]) -> dict[str, bytes]:
    """Write an evaluation for people and for programs; `settings` are shown as they are."""
    provenance = collect_provenance()
    fine, sentence = verdict(evaluation)
    content = {
        "fine": fine,
        "verdict": sentence,
        **evaluation.as_dict(),
        "settings": settings,
        **provenance.as_dict(),
    }
    page = render_evaluation(evaluation, settings=settings, provenance=provenance)
    return {PAGE: page, FIGURES: json.dumps(content, indent=1).encode()}


def report_evaluation(evaluation: Evaluation, output: str, settings: Mapping[str, Any], run: TrackedRun) -> None:
    """Write the files to `output`, send them, the figures and the plots to the run, and print the gist."""
    from relevance.evaluation.plots import draw_evaluation

    files = evaluation_files(evaluation, settings)
    for name, content in files.items():
        storage.write_bytes(storage.join_url(output, name), content)
        run.artifact(name, content)
    for name, plot in draw_evaluation(evaluation).items():
        run.figure(f"plots/{name}.png", plot)
    run.metrics(evaluation.metrics())
    run.tags({"model": evaluation.model, "fingerprint": evaluation.fingerprint or "", "data": evaluation.data_digest})
    print(evaluation_table(evaluation))
    print(verdict(evaluation)[1])
    print(f"page  {hide_credentials(storage.join_url(output, PAGE))}\nrun   {run.where}")


def evaluation_table(evaluation: Evaluation) -> str:
    """Render the comparison as Markdown, fit for the terminal, the README and a model card."""
    lines = [
        "| labelled by | alpha | 95 % interval | F1 exact-vs-rest | macro-F1 | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in evaluation.comparison.items():
        alpha = row["alpha"]
        numbers = " | ".join(show(row[figure]) for figure in COMPARED[1:])
        lines.append(f"| {name} | {show(alpha)} | {show_interval(alpha)} | {numbers} |")
    return "\n".join(lines)


def show(figure: Figure) -> str:
    """Write a figure with three digits."""
    return "missing" if figure.value is None else f"{figure.value:.3f}"


def show_interval(figure: Figure) -> str:
    """Write a figure's interval, or why there is none."""
    if figure.low is None or figure.high is None:
        return figure.missing or "–"
    return f"{figure.low:.3f} to {figure.high:.3f}"
