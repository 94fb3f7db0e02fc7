"""The card that goes with a published model: what it is, what it was judged on, and what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from cluster.provenance import collect_provenance
from relevance.evaluation.report import evaluation_table, show, show_interval
from relevance.evaluation.run import Evaluation
from relevance.labels import LABELS
from relevance.prompting.guidelines import load_guidelines
from relevance.prompting.prompts import load_prompt_settings
from relevance.publishing.steps import BuiltModel, Decision, QuantizationEffect, weight_bytes

CARD = "README.md"
_TEMPLATE = Path(__file__).with_name("model_card.md")


def write_card(
    built: BuiltModel,
    folder: Path,
    evaluation: Evaluation,
    effect: QuantizationEffect | None,
    decision: Decision,
    *,
    name: str,
    content_digest: str,
    markets: str,
    engine: str,
    settings: Mapping[str, Any],
) -> str:
    """Write the card's text; it holds no query and no title.

    Args:
        built: The model.
        folder: Its files on this machine.
        evaluation: Of the published weights.
        effect: Of their quantisation.
        decision: Champion or challenger, and why.
        name: Of the registered model.
        content_digest: Of the files.
        markets: Of the evaluation set, for people.
        engine: That loaded the model here.
        settings: The job's, as they may be shown.
    """
    prompt, provenance = load_prompt_settings(folder), collect_provenance()
    return _template().render(
        name=name,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d"),
        base=settings["base"],
        adapter=settings["adapter"],
        adapter_base=built.adapter_base,
        quantization=built.quantization,
        bytes=weight_bytes(built.files),
        content_digest=content_digest,
        guideline_version=load_guidelines().version,
        guidelines=prompt.guidelines,
        product_token_budget=prompt.product_token_budget,
        query_token_budget=prompt.query_token_budget,
        prompt=evaluation.prompt,
        table=evaluation_table(evaluation),
        effect=effect,
        engine=engine,
        decision=f"{'Champion' if decision.champion else 'Challenger'}: {decision.why}.",
        markets=markets,
        provenance=provenance,
        hardware=next(iter(provenance.hardware.get("gpus", [])), provenance.hardware["cpu"]),
        settings=json.dumps(settings, indent=2),
        **_figures(evaluation),
    )


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    figures, calibration, people = evaluation.figures, evaluation.calibration, evaluation.people

    def both(name: str) -> str:
        return f"{show(figures[name])} ({show_interval(figures[name])})"

    return {
        "evaluation": evaluation,
        "labels": [
            {"name": label, "pairs": evaluation.labels[label]}
            | {kind: both(f"{kind}.{label}") for kind in ("precision", "recall", "f1")}
            for label in LABELS
        ],
        "ordinal": both("alpha_ordinal"),
        "temperature": calibration.temperature,
        "ece_before": f"{show(calibration.ece_before)} ({show_interval(calibration.ece_before)})",
        "ece_after": f"{show(calibration.ece_after)} ({show_interval(calibration.ece_after)})",
        "people": people
        and {
            "people": f"{show(people.people)} ({show_interval(people.people)})",
            "model": f"{show(people.model)} ({show_interval(people.model)})",
            "pairs": people.pairs,
        },
        "missing": "; ".join(
            f"{name} is missing ({figure.missing})" for name, figure in figures.items() if figure.value is None
        ),
    }


@cache
def _template() -> Template:
    # Markdown, not HTML: nothing of it comes from users, and escaping would spoil names.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
