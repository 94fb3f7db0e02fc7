"""The page of a comparison in a real browser: rules beside a language model, with figures that nobody has."""

from __future__ import annotations

from pathlib import Path

from cancellation.comparison.judging_speed import Speed
from cancellation.comparison.page import render_page
from cancellation.comparison.report import FIGURES
from cancellation.comparison.run import ComparisonSettings, Result
from tests.measures.pages import assert_legible

MISSING = {"value": None, "low": None, "high": None}


def row(name: str, value: float, speed: Speed, **others: int) -> Result:
    figures = {metric: {"value": value, "low": value - 0.04, "high": value + 0.03} for metric, _ in FIGURES}
    figures |= {
        f"{metric}.{code}": figures["accuracy"] for metric in ("accuracy", "precision") for code in ("BR", "TH")
    }
    figures |= {"precision.TH": MISSING, "factor_f1": MISSING}
    samples = {"ours": [value + shift / 1000 for shift in range(20)]}
    return Result(name, f"what {name} is", {"ours": figures}, samples, 1.0, speed, num_events={"ours": 1234}, **others)


def test_the_page_in_a_browser(browser: str, tmp_path: Path) -> None:
    results = [
        row("rules", 0.5, Speed(0.08, 0.31, 10_487.0, 0.0008)),
        row("LLM few-shot", 0.75, Speed(2_345.6, 9_000.0, 0.31, 153.2, 3_456.7, 2616.0), unanswered=3),
    ]
    page = render_page(results, ComparisonSettings(num_events=0, sets={"ours": "labelled.parquet"}))
    for frame in assert_legible(browser, page, tmp_path):
        assert "compared" in frame["title"]
        assert frame["verdict_bottom"] < 400
        text = " ".join(frame["text"].split())
        assert "LLM few-shot has the highest recall at precision 0.95 on ours" in text
        assert "surely ahead of rules" in text
        assert "Ours: 1,234 events" in text
        assert "rules 0.1 ms 0.3 ms – – 10,487 0.0008" in text
        assert "LLM few-shot 2.3 s 9.0 s 3.5 s 2,616 0.31 153" in text
        assert "3 events without a usable answer count as inconclusive" in text
        assert "0.71 to 0.78" in text
        assert "a day of 300,000 events costs" in text
