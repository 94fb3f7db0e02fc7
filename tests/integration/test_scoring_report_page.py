"""The report in a real browser: it asks for nothing, fits any screen, is legible in light and dark, escapes text;
and in MLflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.provenance import Provenance
from cluster.tracking import TrackingSettings, tracked_run
from relevance.scoring_day import ScoredDay
from relevance.scoring_measures import PreviousDay
from relevance.scoring_report import ReportSettings, ScoringReport, report_files
from tests.scoring_days import FINGERPRINT, scored_day, scoring_run, shard_figures

HOSTILE = "<b onclick=x>title</b> & <script>document.title='owned'</script><img src='/leak'>"
WIDTHS = (320, 760, 1280)

# Loads the report in frames of several widths and writes what it measures into its own body.
_HARNESS = """<!doctype html><meta charset="utf-8"><body><pre id="measured"></pre><script>
const measure = (frame) => {
  const view = frame.contentWindow, page = view.document, width = page.documentElement.clientWidth;
  const color = (text) => { const c = text.match(/[\\d.]+/g).map(Number); return c.length === 3 ? [...c, 1] : c; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = color(view.getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const part = c[i] / 255;
    return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0);
  const faint = [], walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = view.getComputedStyle(element), ground = behind(element);
    const ink = color(style.color); ink[3] *= Number(style.opacity);
    const [high, low] = [light(over(ink, ground)), light(ground)].sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(walker.currentNode.data.trim());
  }
  const wide = [...page.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > width + 0.5);
  return {
    width, scroll_width: page.documentElement.scrollWidth, wide: wide.map((e) => e.outerHTML.slice(0, 80)), faint,
    title: page.title, text: page.body.innerText,
    verdict_bottom: page.querySelector(".verdict").getBoundingClientRect().bottom,
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name),
    scripts: page.scripts.length, images: page.images.length, open: page.querySelectorAll("details[open]").length,
    background: view.getComputedStyle(page.body).backgroundColor,
    bars: [...page.querySelectorAll(".bar:not(.before)")].map((e) => e.offsetWidth),
  };
};
const frames = WIDTHS.map((width) => {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "9000px"; frame.style.border = "0"; frame.src = "report.html";
  document.body.append(frame);
  return frame;
});
addEventListener("load", () => document.getElementById("measured").textContent = JSON.stringify(frames.map(measure)));
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """`.ci/install-browser` brings one; without any the test fails, it does not skip."""
    names = (os.environ.get("BROWSER_PATH", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    assert found, "no chromium or chrome: run .ci/install-browser, or set BROWSER_PATH"
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A web server that holds the report and the harness, and the list of what was asked of it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "report.html").write_bytes(_hostile_report())
    (folder / "harness.html").write_text(_HARNESS.replace("WIDTHS", json.dumps(WIDTHS), 1))
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def _hostile_report() -> bytes:
    """A bad day with every section, and a reason that would be HTML if it were let."""
    errors = {HOSTILE: 40, "engine: died 3 times on this shard, last: MemoryError": 50_000, "x" * 300: 2}
    figures, seconds = scored_day(
        shard_figures(errors=errors, poisoned=50_000, judged=18_240, reused=0.3, label_mass=0.7)
    )
    before, _ = scored_day(shard_figures(shares=(0.7, 0.2, 0.05, 0.05)))
    run = scoring_run("s3://search/scores/ds=2026-11-22", gpus_per_actor=1.0)
    previous = PreviousDay("ds=2026-11-21", "model/6:fp8", "another", before.as_dict())
    provenance = Provenance("0" * 40, {"python": "3.11.7"}, {"cpu": "AMD EPYC"})
    day = {**figures.as_dict(), "seconds": seconds}
    return report_files(run, day, previous, ReportSettings(), provenance)["report.html"]


def open_report(browser: str, url: str, profile: Path, *, dark: bool) -> list[dict[str, Any]]:
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ]
    command = [browser, *flags, scheme, f"--user-data-dir={profile}", "--dump-dom", f"{url}/harness.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    measured = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
    assert measured, done.stderr[-2000:]
    text = measured[1].replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u00a0").replace("&amp;", "&")
    return json.loads(text)


def test_the_report_in_a_browser(browser: str, site: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = site
    light = open_report(browser, url, tmp_path / "light", dark=False)
    dark = open_report(browser, url, tmp_path / "dark", dark=True)
    assert [page["width"] for page in light] == list(WIDTHS)
    for page in (*light, *dark):
        assert page["scroll_width"] == page["width"]
        assert page["wide"] == []
        assert page["faint"] == []
        assert page["requests"] == []
        assert (page["scripts"], page["images"], page["open"]) == (0, 0, 0)
        assert page["title"] == "! ds=2026-11-22 · relevance scores"
        assert page["verdict_bottom"] < 400
        assert HOSTILE in page["text"]
        for heading in (
            "Checks",
            "Labels",
            "Rows",
            "Confidence",
            "Label mass",
            "Agreement",
            "Errors",
            "How it was made",
        ):
            assert heading in page["text"]
        assert sorted(page["bars"], reverse=True) == [page["bars"][index] for index in (0, 1, 3, 2)]
        assert page["bars"][0] > 60
    assert light[0]["background"] != dark[0]["background"]
    assert set(asked) <= {"/harness.html", "/report.html", "/favicon.ico"}


def test_the_run_in_mlflow_holds_figures_plots_and_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    url = str(tmp_path / "scores" / "ds=2026-11-22")
    run = scoring_run(url, gpus_per_actor=0.0)
    figures, seconds = scored_day(shard_figures(judged=1_000))
    with tracked_run("relevance_score", ReportSettings(), tracking) as tracked:
        report = ScoringReport(run, ReportSettings(), tracked)
        files = report.files(figures, seconds)
        report.print_summary(ScoredDay(url, {**figures.as_dict(), "seconds": seconds}, already_done=False))
    client = MlflowClient(tracking_uri=tracking.uri)
    found = client.get_run(tracked.run_id)
    assert found.info.run_name == "ds=2026-11-22"
    assert found.data.tags["fingerprint"] == FINGERPRINT
    assert found.data.metrics["rows.read"] == 1_000_000
    assert found.data.metrics["share.exact"] == pytest.approx(0.482, abs=1e-3)
    assert found.data.metrics["agreement.alpha"] == pytest.approx(0.592, abs=1e-3)
    assert found.data.metrics["tokens_saved"] == figures.prompt_tokens - figures.computed_tokens
    assert "label_drift" not in found.data.metrics
    names = {file.path for file in client.list_artifacts(tracked.run_id)}
    assert names == {"plots", "report.html", "run.json"}
    assert len(client.list_artifacts(tracked.run_id, "plots")) == 4
    (stored,) = tmp_path.glob("mlartifacts/*/*/artifacts/report.html")
    assert stored.read_bytes() == files["report.html"]
    assert tracked.run_id in capsys.readouterr().out
