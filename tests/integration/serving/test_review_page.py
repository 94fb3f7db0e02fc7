"""The reviewers' page in a real browser: signed in, taken, decided, and deaf to what a seller's text says."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.measures.pages import assert_legible, rendered
from tests.servers.same_origin import same_origin
from tests.servers.serving_replicas import listening, simulated_event, token_of

HOSTILE = "<img src=/leak onerror=\"document.title='owned'\"><script>document.title='owned'</script> I never asked."

_CLICKS = """<!doctype html><body><iframe src="/reviews" style="width:1280px;height:2000px"></iframe><script>
const frame = document.querySelector("iframe"), seen = {};
const found = async (wanted) => {
  for (;;) {
    const element = frame.contentDocument && wanted(frame.contentDocument);
    if (element) return element;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
const still = (page) => {
  const copy = page.documentElement.cloneNode(true);
  copy.querySelectorAll("script").forEach((script) => script.remove());
  return `<!doctype html>${copy.outerHTML}`;
};
const text = (page, id) => page.getElementById(id).innerText;
(async () => {
  const button = await found((page) => page.querySelector("#sign button"));
  const page = frame.contentDocument;
  seen.outside = still(page);
  const sign = (token) => {
    page.getElementById("token").value = token;
    page.getElementById("reviewer").value = "ops-17";
    button.click();
  };
  sign("not-a-token-that-anybody-knows");
  await found(() => !page.getElementById("told").hidden);
  seen.stranger = text(page, "told");
  sign(TOKEN);
  const first = await found(() => page.querySelector("[data-appeal]"));
  seen.queue = text(page, "queue");
  first.click();
  (await found(() => page.getElementById("take"))).click();
  await found(() => page.getElementById("decide"));
  seen.case = text(page, "case");
  seen.marked = page.querySelectorAll(".talk .seen").length;
  seen.markup = page.querySelectorAll("#case img, #case script").length;
  page.querySelector("details").open = true;
  page.getElementById("overturn").click();
  await found(() => page.getElementById("label").offsetParent);
  seen.inside = still(page);
  page.getElementById("reason").value = "The buyer wanted it.";
  page.getElementById("decide").click();
  await found(() => text(page, "case").includes("overturned"));
  await found(() => text(page, "queue").includes("Nothing waits"));
  seen.told = text(page, "told");
  seen.title = page.title;
  const asked = frame.contentWindow.performance.getEntriesByType("resource");
  seen.asked = asked.map((entry) => new URL(entry.name).pathname);
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


def _appealed(http: httpx.Client) -> tuple[str, dict[str, Any]]:
    """A penalty that rests on a message, and its seller's appeal."""
    for index in range(30, 200):
        event = simulated_event(index)
        verdict = http.post("/v1/verdicts", json=event).json()
        if verdict["action"] == "none":
            continue
        about = {"event_id": event["event_id"], "seller_id": event["seller_id"]}
        statement = http.get(f"/v1/statements/{event['event_id']}").json()
        if any((why["place"] or "").startswith("chat[") for why in statement["why"]):
            return http.post("/v1/appeals", json={**about, "reason": HOSTILE}).json()["appeal_id"], event
    raise AssertionError("no verdict rests on a message")


def test_a_reviewer_decides_in_the_page(browser: str, tmp_path: Path) -> None:
    with listening(tmp_path / "data") as http:
        appeal_id, event = _appealed(http)
        clicks = _CLICKS.replace("TOKEN", json.dumps(token_of(tmp_path / "data" / "tokens.txt")))
        with same_origin(str(http.base_url), {"/clicks": clicks}) as url:
            page = rendered(browser, f"{url}/clicks", tmp_path / "browser")
        decided = http.get(f"/v1/appeals/{appeal_id}").json()
    found = re.search(r"<pre id=\"seen\">(.+?)</pre>", page, re.DOTALL)
    assert found, page[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert "expected a known bearer token" in seen["stranger"]
    assert f"ID · {event['event_id']}" in seen["queue"]
    assert "In time (1)" in seen["queue"]
    assert HOSTILE in seen["case"]
    assert (seen["markup"], seen["title"]) == (0, "Appeals")
    assert seen["marked"] >= 1
    assert seen["told"] == "Decided: overturned, the action is reversed."
    assert (decided["state"], decided["reviewer"]) == ("overturned", "ops-17")
    assert decided["history"][-1]["reason"] == "The buyer wanted it."
    assert set(seen["asked"]) == {"/v1/reviews", f"/v1/reviews/{appeal_id}"}
    for name in ("outside", "inside"):
        for shown in assert_legible(browser, seen[name].encode(), tmp_path / name):
            assert "Appeals" in shown["text"]
