"""Pages in a real browser: what fits, what can be read, what is asked of the network."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (320, 760, 1280)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
]

# Loads the page in frames of several widths and writes what it measures into its own body.
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
    verdict_bottom: page.querySelector(".verdict")?.getBoundingClientRect().bottom,
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name),
    scripts: page.scripts.length, images: page.images.length, open: page.querySelectorAll("details[open]").length,
    background: view.getComputedStyle(page.body).backgroundColor,
    bars: [...page.querySelectorAll(".bar:not(.before)")].map((e) => e.offsetWidth),
  };
};
const frames = WIDTHS.map((width) => {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "30000px"; frame.style.border = "0"; frame.src = "page.html";
  document.body.append(frame);
  return frame;
});
addEventListener("load", () => document.getElementById("measured").textContent = JSON.stringify(frames.map(measure)));
</script>"""


def measure_page(browser: str, page: bytes, folder: Path) -> tuple[list[dict[str, Any]], set[str]]:
    """Open a page in frames of `WIDTHS`, in light and in dark.

    Returns:
        What was measured in each frame, light ones first, and the paths that the server was asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "page.html").write_bytes(page)
    (folder / "harness.html").write_text(_HARNESS.replace("WIDTHS", json.dumps(WIDTHS), 1))
    asked: set[str] = set()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.add(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        measured = [_open(browser, url, folder / f"profile{dark}", dark=dark) for dark in (False, True)]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    return [frame for frames in measured for frame in frames], asked


def assert_legible(browser: str, page: bytes, folder: Path) -> list[dict[str, Any]]:
    """Check that a page fits every width, is legible in light and dark, runs nothing and asks for nothing."""
    frames, asked = measure_page(browser, page, folder)
    assert [frame["width"] for frame in frames] == [*WIDTHS, *WIDTHS]
    for frame in frames:
        assert frame["scroll_width"] == frame["width"]
        assert frame["wide"] == []
        assert frame["faint"] == []
        assert frame["requests"] == []
        assert (frame["scripts"], frame["images"]) == (0, 0)
    assert frames[0]["background"] != frames[-1]["background"]
    assert asked <= {"/harness.html", "/page.html", "/favicon.ico"}
    return frames


def rendered(browser: str, url: str, profile: Path) -> str:
    """Give a page's text and tags after its scripts have fetched what they show."""
    command = [browser, *_FLAGS, f"--user-data-dir={profile}/browser", "--virtual-time-budget=60000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def _open(browser: str, url: str, profile: Path, *, dark: bool) -> list[dict[str, Any]]:
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [browser, *_FLAGS, scheme, f"--user-data-dir={profile}", "--dump-dom", f"{url}/harness.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    measured = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
    assert measured, done.stderr[-2000:]
    text = measured[1].replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u00a0").replace("&amp;", "&")
    return json.loads(text)
