"""The endpoint's page in a real browser: it asks for nothing, fits any screen, is legible in light and dark."""

from __future__ import annotations

import asyncio
import html
import json
import re
from pathlib import Path

from tests.measures.pages import assert_legible, rendered
from tests.servers.same_origin import same_origin
from tests.servers.serving_replicas import listening, serving


def test_the_page_of_the_calls_in_a_browser(browser: str, tmp_path: Path) -> None:
    async def shown() -> tuple[bytes, list[str]]:
        async with serving(tmp_path / "data") as client:
            described = (await client.http.get("/openapi.json")).json()
            return (await client.http.get("/docs")).content, list(described["paths"])

    page, paths = asyncio.run(shown())
    for seen in assert_legible(browser, page, tmp_path / "page"):
        assert seen["title"] == "Cancellation verdicts"
        assert all(path in seen["text"] for path in paths)
        assert '"decision_factors"' in seen["text"]
        assert seen["open"] == 0


_CLICKS = """<!doctype html><body><iframe src="/docs/try" style="width:1200px;height:5000px"></iframe><script>
const found = async (wanted) => {
  for (;;) {
    const element = wanted(document.querySelector("iframe").contentDocument);
    if (element) return element;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
(async () => {
  const call = await found((page) =>
    [...page.querySelectorAll(".opblock")].find((e) => e.innerText.includes("/healthz")));
  call.querySelector(".opblock-summary-control").click();
  (await found(() => call.querySelector(".execute"))).click();
  const answer = await found(() => call.querySelector(".live-responses-table tbody .response-col_description"));
  const frame = document.querySelector("iframe");
  const asked = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  const calls = frame.contentDocument.querySelectorAll(".opblock").length;
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify({ answer: answer.innerText, asked, calls });
})();
</script>"""


def test_a_person_can_try_a_call_in_the_page(browser: str, tmp_path: Path) -> None:
    with listening(tmp_path / "data", open_docs=True) as http:
        described = http.get("/openapi.json").json()

        with same_origin(str(http.base_url), {"/clicks": _CLICKS}) as url:
            page = rendered(browser, f"{url}/clicks", tmp_path / "browser")
    seen = re.search(r"<pre id=\"seen\">(.+?)</pre>", page, re.DOTALL)
    assert seen, page[-2000:]
    told = json.loads(html.unescape(seen[1]))
    assert '"alive"' in told["answer"]
    assert told["calls"] == sum(len(methods) for methods in described["paths"].values())
    assert {address.removeprefix(url) for address in told["asked"] if not address.startswith("data:")} == {
        *("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/openapi.json", "/healthz")
    }
