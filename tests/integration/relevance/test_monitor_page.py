"""The page of two days of scores in a real browser."""

from __future__ import annotations

from pathlib import Path

from jobs.relevance_monitor import MonitorJob, main
from tests.builders.committed_scores import commit_scores
from tests.measures.pages import assert_legible

HOSTILE = "<script>document.title='owned'</script><img src='/leak'>"


def test_the_page_in_a_browser(browser: str, tmp_path: Path) -> None:
    pairs = [
        (f"{HOSTILE}{query}", f"p{query}-{place}", "exact" if place < 6 else "irrelevant")
        for query in range(20)
        for place in range(10)
    ]
    more = {"market": ["BR", HOSTILE] * 100, "rank": [place % 10 + 1 for place in range(200)]}
    commit_scores(tmp_path / "scores", "ds=2026-11-20", pairs, more=more)
    commit_scores(tmp_path / "scores", "ds=2026-11-21", pairs, more=more)
    fallen = [(query, product, "substitute" if product == "p3-1" else label) for query, product, label in pairs]
    url = commit_scores(tmp_path / "scores", "ds=2026-11-22", fallen, more=more)
    main(MonitorJob(scores=url, output=str(tmp_path / "out")))
    page = (tmp_path / "out" / "ds=2026-11-22" / "report.html").read_bytes()
    for frame in assert_legible(browser, page, tmp_path / "browser"):
        assert frame["title"] == "! ds=2026-11-22 \u00b7 relevance, day by day"
        assert HOSTILE in frame["text"]
        assert "Queries whose exact share fell most" in frame["text"]
        assert frame["verdict_bottom"] < 400
