"""An evaluation as one self-contained HTML page: no script, no font, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Template

from cluster.pages.templates import load_page
from cluster.provenance import Provenance
from cluster.statistics.bootstrap import Figure
from relevance.evaluation.calibration import ReliabilityBin
from relevance.evaluation.run import MODEL, Evaluation
from relevance.labels import LABELS

_LEAST_ALPHA = -0.2
"""Left end of the drawn range; alpha may be lower, which is then drawn at the edge."""


def render_evaluation(evaluation: Evaluation, *, settings: Mapping[str, Any], provenance: Provenance) -> bytes:
    """Render an evaluation as UTF-8; it holds names, keys and numbers, never a query or a title."""
    fine, sentence = verdict(evaluation)
    figures = evaluation.figures
    tiles = [
        ("alpha", figures["alpha"]),
        ("F1 exact-vs-rest", figures["f1_exact"]),
        ("macro-F1", figures["f1_macro"]),
        ("ordinal alpha", figures["alpha_ordinal"]),
        ("ECE after scaling", evaluation.calibration.ece_after),
    ]
    page = _template().render(
        evaluation=evaluation,
        alpha=figures["alpha"],
        fine=fine,
        sentence=sentence,
        tiles=tiles,
        confusion=_confusion(evaluation.confusion),
        reliability={
            "before": _points(evaluation.calibration.before),
            "after": _points(evaluation.calibration.after),
        },
        labels=_labels(evaluation),
        missing=[(name, figure.missing) for name, figure in figures.items() if figure.value is None],
        identity=_identity(evaluation) | {"commit": provenance.commit},
        settings=json.dumps(settings, indent=2),
        provenance=provenance,
        hardware=json.dumps(provenance.hardware, indent=2),
    )
    return page.encode()


def verdict(evaluation: Evaluation) -> tuple[bool, str]:
    """Say in one sentence whether the model is worth its cost, and whether the figures can be believed."""
    shared = evaluation.shared_queries
    if shared:
        return False, f"Not to be trusted: {shared} queries are in the training set too."
    alpha = evaluation.comparison[MODEL]["alpha"]
    free = {name: row["alpha"].value for name, row in evaluation.comparison.items() if name != MODEL}
    best = max(free, key=lambda name: free[name] or -1, default=None)
    unchecked = "" if shared is not None else " Whether the model was trained on these queries was not checked."
    if alpha.value is None or alpha.low is None:
        return False, f"Too few pairs to tell: {alpha.missing}.{unchecked}"
    if best is not None and alpha.low <= (free[best] or -1):
        return False, f"Not surely better than {best}: alpha {alpha.value:.3f}, from {alpha.low:.3f}.{unchecked}"
    than = f"better than {best} ({free[best]:.3f})" if best else "with nothing to compare"
    return True, f"Alpha {alpha.value:.3f}, from {alpha.low:.3f} to {alpha.high:.3f}: {than}.{unchecked}"


@cache
def _template() -> Template:
    return load_page(
        "relevance/evaluation/page.html", place=_place, width=lambda size: f"{100 * size / (1 - _LEAST_ALPHA):.2f}%"
    )


def _place(value: float) -> str:
    return f"{100 * (min(max(value, _LEAST_ALPHA), 1) - _LEAST_ALPHA) / (1 - _LEAST_ALPHA):.2f}%"


def _confusion(confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    rows = []
    for label, counts in zip(LABELS, confusion, strict=True):
        total = sum(counts)
        cells = [{"count": count, "share": count / max(1, total)} for count in counts]
        rows.append({"name": label, "cells": cells, "total": total})
    return rows


def _labels(evaluation: Evaluation) -> list[dict[str, Any]]:
    def three(label: str) -> list[Figure]:
        return [evaluation.figures[f"{kind}.{label}"] for kind in ("precision", "recall", "f1")]

    return [{"name": label, "pairs": evaluation.labels[label], "figures": three(label)} for label in LABELS]


def _points(bins: Sequence[ReliabilityBin]) -> list[dict[str, Any]]:
    """Circles of the plot; their area follows the number of pairs."""
    most = max([one.pairs for one in bins], default=1) or 1
    return [
        {
            "x": f"{30 + 260 * one.confidence:.1f}",
            "y": f"{250 - 240 * one.accuracy:.1f}",
            "r": f"{2 + 9 * (one.pairs / most) ** 0.5:.1f}",
            "confidence": f"{one.confidence:.2f}",
            "accuracy": f"{one.accuracy:.2f}",
            "pairs": one.pairs,
        }
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]


def _identity(evaluation: Evaluation) -> dict[str, Any]:
    counts = evaluation.counts
    return {
        "model": evaluation.model,
        "fingerprint": evaluation.fingerprint,
        "prompt": evaluation.prompt,
        "evaluation set": evaluation.data_digest,
        "training set": evaluation.training_digest,
        "shared queries": "not checked, no training set was given"
        if evaluation.shared_queries is None
        else evaluation.shared_queries,
        "rows": f"{counts['read']:,} read, {counts['repeated']:,} repeated, {counts['unusable']:,} unusable, "
        f"{counts['tied']:,} pairs without a majority, {counts['unlabelled']:,} not labelled by the model",
    }
