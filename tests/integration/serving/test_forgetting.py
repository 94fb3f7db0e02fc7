"""A seller whom the endpoint judged is forgotten by the job, and another is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cancellation.serving.records.people import PersonKey, make_key_file, name_key
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


def forget_job(tmp_path: Path, data: Path, **serving: str) -> ForgetJob:
    people = tmp_path / "people.txt"
    people.write_text("seller seller-1\n")
    return ForgetJob(
        people=str(people), serving=ServingSettings(data_dir=str(data), output=str(tmp_path / "archive"), **serving)
    )


def test_nobody_is_looked_for_with_a_key_that_is_not_there_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"person key .*elsewhere/person\.key: cannot be read .*VERDICTS_PERSON_KEY"):
        main(forget_job(tmp_path, tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()


def test_nobody_is_looked_for_with_another_key_than_the_archives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other = tmp_path / "data", tmp_path / "other.key"

    async def serve(folder: Path) -> None:
        async with serving(folder, output=str(tmp_path / "archive")) as client:
            assert (await client.judge({**simulated_event(1), "seller_id": "seller-1"})).status_code == 200
            async with asyncio.timeout(60):
                while not (folder / "person.key").exists() or not any((tmp_path / "archive").glob("person_keys/*")):
                    await asyncio.sleep(0.01)

    asyncio.run(serve(data))
    make_key_file(other)
    with pytest.raises(ValueError, match="person key: expected one under which rows of the archive"):
        main(forget_job(tmp_path, data, person_key_file=str(other)))
    main(forget_job(tmp_path, data))
    assert "not searched" not in capsys.readouterr().out


def test_keys_of_other_machines_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = str(tmp_path / "archive")
    for name in ("a", "b"):
        make_key_file(tmp_path / name)
        name_key(archive, PersonKey.load(tmp_path / name))
        name_key(archive, PersonKey.load(tmp_path / name))
    main(forget_job(tmp_path, tmp_path / "data", person_key_file=str(tmp_path / "a")))
    assert "not searched: what 1 other keys wrote to the archive" in capsys.readouterr().out


def test_the_endpoint_does_not_start_on_what_was_written_under_a_key_that_has_gone_or_changed(tmp_path: Path) -> None:
    async def serve(**settings: str) -> None:
        async with serving(tmp_path, **settings) as client:
            assert (await client.judge(simulated_event(1))).status_code == 200

    asyncio.run(serve())
    asyncio.run(serve())
    make_key_file(tmp_path / "swapped.key")
    with pytest.raises(ValueError, match=r"under which people stand in database .*appeals\.sqlite, found another; put"):
        asyncio.run(serve(person_key_file=str(tmp_path / "swapped.key")))
    (tmp_path / "person.key").unlink()
    with pytest.raises(ValueError, match=r"expected the key under which recent\.sqlite, .* found none; put it back"):
        asyncio.run(serve())
    assert not (tmp_path / "person.key").exists()
