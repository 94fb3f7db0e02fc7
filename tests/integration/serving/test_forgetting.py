"""A seller whom the endpoint judged is forgotten by the job, and another is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cancellation.serving.settings import ServingSettings
from jobs.cancellation_forget import ForgetJob, main
from tests.servers.serving_replicas import serving, simulated_event


def test_what_the_endpoint_wrote_of_a_seller_goes_and_the_rest_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, events = tmp_path / "data", [{**simulated_event(n), "seller_id": f"seller-{n}"} for n in range(3)]

    async def judge() -> None:
        async with serving(data) as client:
            for event in events:
                assert (await client.judge(event)).status_code == 200
                feedback = {"event_id": event["event_id"], "outcome": "appealed"}
                assert (await client.http.post("/v1/feedback", json=feedback)).status_code == 202

    async def known() -> list[int]:
        async with serving(data) as client:
            return [(await client.http.get(f"/v1/verdicts/{event['event_id']}")).status_code for event in events]

    asyncio.run(judge())
    log = b"".join(path.read_bytes() for path in (data / "log").glob("*/*-*"))
    assert events[1]["event_id"].encode() in log
    for role in ("order", "seller", "buyer"):
        assert f'"{events[1][f"{role}_id"]}"'.encode() not in log
    people = tmp_path / "people.txt"
    people.write_text("seller seller-1\n")
    job = ForgetJob(people=str(people), serving=ServingSettings(data_dir=str(data), output=str(tmp_path / "archive")))
    for found in (
        "2 and 0 lines of sealed and open segments, 1 recent",
        "0 and 0 lines of sealed and open segments, 0",
    ):
        main(job)
        first, last = capsys.readouterr().out.splitlines()
        assert found in first
        assert last == (
            "left: 0 rows of the archive, 0 and 0 lines of sealed and open segments, 0 recent answers, 0 appeals, "
            "0 rows of monitored days, 0 relabelled or labelled events"
        )
    assert asyncio.run(known()) == [200, 404, 200]
    left = b"".join(path.read_bytes() for path in (data / "log").glob("*/*-*"))
    assert [event["event_id"].encode() in left for event in events] == [True, False, True]
