"""A replica that comes back after a mistake was made beside it answers as the one before it did."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.servers.serving_replicas import serving, simulated_event


def test_a_replica_comes_back_with_the_policy_that_was_accepted_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            before = (await client.judge(simulated_event(1))).json()["policy_version"]
        policy = tmp_path / "policy.toml"
        policy.write_text(policy.read_text().replace('state = "live"', 'state = "lvie"', 1))
        async with serving(tmp_path) as client:
            assert (await client.judge(simulated_event(2))).json()["policy_version"] == before
            shown = (await client.http.get("/v1/policy/ID")).json()
            assert "expected off or shadow or live, found 'lvie'" in str(shown["refused"])

    asyncio.run(scenario())
