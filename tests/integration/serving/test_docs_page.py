"""The endpoint's page in a real browser: it asks for nothing, fits any screen, is legible in light and dark."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.measures.pages import assert_legible
from tests.servers.serving_replicas import serving


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
