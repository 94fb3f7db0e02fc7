"""Dashboard and alerts: every metric, label and label value that they name is one that the endpoint has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cancellation.decision.policy import Action
from cancellation.serving.observability.metrics import METRICS, Metric
from cancellation.serving.records.feedback import OUTCOMES
from tests.conftest import PROJECT

GRAFANA = PROJECT / "cluster" / "serving" / "grafana"
SERIES: dict[str, Metric] = {
    f"{metric.exported}{suffix}": metric
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
OF_RAY = {"le", "NodeAddress"}
KNOWN_VALUES = {
    "action": {"penalty", "investigate", "none"},
    "outcome": {"replayed", "conflict", "scored", *OUTCOMES},
    "route": {"/v1/verdicts"},
}


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in _dashboard()["panels"] if panel["type"] != "row"]


def _dashboard() -> dict[str, Any]:
    return json.loads((GRAFANA / "cancellation.json").read_text(encoding="utf-8"))


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((GRAFANA / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> Iterator[tuple[str, str]]:
    for panel in _panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in _dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for rule in _rules():
        yield rule["alert"], rule["expr"]


EXPRESSIONS = list(_expressions())
NAMES = [name for name, _ in EXPRESSIONS]


@pytest.mark.parametrize("expression", [text for _, text in EXPRESSIONS], ids=NAMES)
def test_every_series_and_label_that_is_named_exists(expression: str) -> None:
    names = re.findall(r"\bray_\w+", expression)
    assert names
    assert set(names) <= set(SERIES)
    tags = {tag for name in names for tag in SERIES[name].tags} | OF_RAY
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    labels = {label.strip() for labels in grouped for label in labels.split(",")} - {""}
    matched = re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', expression)
    assert labels | {label for label, _ in matched} <= tags
    for label, pattern in matched:
        if label in KNOWN_VALUES:
            assert set(pattern.split("|")) <= KNOWN_VALUES[label]
    for name, found in re.findall(r"(ray_\w+)\{([^}]*)\}", expression):
        assert {label for label, _ in re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', found)} <= {*SERIES[name].tags, *OF_RAY}


def test_the_values_that_are_known_are_those_of_the_policy() -> None:
    assert KNOWN_VALUES["action"] == set(Action.__args__)


def test_every_metric_is_shown() -> None:
    shown = {SERIES[name] for _, text in EXPRESSIONS for name in re.findall(r"\bray_\w+", text) if name in SERIES}
    assert {metric.name for metric in METRICS} - {metric.name for metric in shown} == set()


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "action"}
    templates = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    kept = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in labels.split(",")}
    assert set(templates) <= kept, "a label in the text has to survive the aggregation"


def test_alerts_and_panels_have_names_of_their_own() -> None:
    for names in ([rule["alert"] for rule in _rules()], [panel["title"] for panel in _panels()]):
        assert len(names) == len(set(names))
    places = [panel["id"] for panel in _dashboard()["panels"]]
    assert len(places) == len(set(places))


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
