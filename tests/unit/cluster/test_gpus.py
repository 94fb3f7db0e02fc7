"""GPU utilisation: measured where NVIDIA's driver answers, absent where it does not."""

from __future__ import annotations

import json
import re
import sys
import time
import types

import pytest

from cluster.gpus import GAUGES, GpuMeter
from tests.conftest import PROJECT


class Driver(types.ModuleType):
    """Stands for `pynvml` on a machine with two cards, a quarter and three quarters busy, until they are lost."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.asked: list[object] = []
        self.lost = False

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's names
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        self.asked.append(index)
        return 25

    def nvmlDeviceGetHandleByUUID(self, identity: str) -> object:  # noqa: N802
        self.asked.append(identity)
        return 75

    def nvmlDeviceGetUtilizationRates(self, device: int) -> object:  # noqa: N802
        if self.lost:
            raise RuntimeError("GPU is lost")
        return types.SimpleNamespace(gpu=device)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr("cluster.gpus._TICK_SECONDS", 0.02)
    monkeypatch.setitem(sys.modules, "pynvml", found := Driver())
    return found


@pytest.mark.parametrize("visible", [None, "", " "])
def test_a_process_without_a_gpu_has_no_meter(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert GpuMeter.start("tests") is None


def test_a_machine_without_a_driver_has_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as where the package is not installed
    assert GpuMeter.start("tests") is None


def test_the_cards_of_the_process_are_asked_and_their_mean_is_given(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5c1e")
    meter = GpuMeter.start("tests")
    assert meter is not None
    assert driver.asked == [3, "GPU-5c1e"]
    busy = seconds = 0.0
    while not seconds:
        time.sleep(0.01)
        busy, seconds = meter.take()
    assert busy == pytest.approx(seconds / 2)


def test_a_card_that_is_lost_ends_the_figure_and_not_the_day(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    driver.lost = True
    meter = GpuMeter.start("tests")
    assert meter is not None
    time.sleep(0.1)
    assert meter.take() == (0.0, 0.0)


DASHBOARD = json.loads((PROJECT / "cluster" / "grafana" / "gpus.json").read_text(encoding="utf-8"))
EXPRESSIONS = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_names_gauges_and_tags_that_there_are(expression: str) -> None:
    """`tests/integration/cluster/test_gpu_metrics.py` sees the gauges in what Ray exports."""
    names = [name.removeprefix("ray_") for name in re.findall(r"\bray_\w+", expression)]
    assert names
    assert set(names) <= set(GAUGES)
    tags = {tag for name in names for tag in GAUGES[name][1]} | {"NodeAddress", "WorkerId"}
    grouped = re.findall(r"\bby \(([^)]*)\)", expression) + re.findall(r"label_values\(\w+, (\w+)\)", expression)
    matched = re.findall(r'[{,](\w+)=~?"', expression)
    assert {label.strip() for labels in grouped for label in labels.split(",")} | set(matched) <= tags


def test_every_gauge_is_shown_and_no_panel_covers_another() -> None:
    shown = {name for text in EXPRESSIONS for name in re.findall(r"\bray_(\w+)", text)}
    assert shown == set(GAUGES)
    cells = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    legends = [(panel, target) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for panel, target in legends:
        used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        (by,) = re.findall(r"\bby \(([^)]*)\)", target["expr"])
        assert used <= {label.strip() for label in by.split(",")}, panel["title"]
