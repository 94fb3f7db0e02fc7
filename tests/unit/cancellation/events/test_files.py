"""A backfill's files: cut without losing or doubling a row, and every error with its place."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.events.files import EventRow, find_event_shards, read_event_rows
from cancellation.events.table import labelled_table, write_labelled
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.unlabelled_chats import read_chats
from cluster import storage
from tests.builders.cancellation_events import sample_event
from tests.servers.s3 import S3Server

EVENTS = list(simulate(SimulationSettings(num_events=60), 3))


def read_all(url: Path, *, shard_bytes: int) -> list[EventRow]:
    return [row for shard in find_event_shards(str(url), shard_bytes=shard_bytes) for row in read_event_rows(shard)]


@pytest.mark.parametrize("shard_bytes", [1, 5_000, 20_000, 10**9])
@pytest.mark.parametrize("name", ["events.jsonl", "events.parquet"])
def test_however_a_file_is_cut_its_rows_are_the_same(tmp_path: Path, name: str, shard_bytes: int) -> None:
    write_labelled(str(tmp_path / name), EVENTS)
    rows = read_all(tmp_path / name, shard_bytes=shard_bytes)
    assert [row.event for row in rows] == [labelled.event for labelled in EVENTS]
    assert [row.label for row in rows] == [labelled.label for labelled in EVENTS]
    assert [row.place for row in rows] == [f"{name}:{number}" for number in range(1, 61)]


def test_a_parquet_file_is_cut_at_row_groups(tmp_path: Path) -> None:
    pq.write_table(labelled_table(EVENTS), tmp_path / "events.parquet", row_group_size=7)
    shards = find_event_shards(str(tmp_path), shard_bytes=1)
    assert len(shards) == 9
    rows = read_all(tmp_path, shard_bytes=30_000)
    assert [row.event for row in rows] == [labelled.event for labelled in EVENTS]
    assert rows[-1].place == "events.parquet:60"


def test_bad_lines_are_rows_that_name_what_is_wrong_and_nothing_of_the_text(tmp_path: Path) -> None:
    good = json.dumps(sample_event())
    late = sample_event()
    late["chat"][1]["at"] = "2099-01-01T00:00:00Z"
    lines = [
        good,
        "",
        '{"secret',
        json.dumps(late),
        '["secret"]',
        json.dumps({"event": sample_event(), "label": "secret"}),
        json.dumps({"event": sample_event(), "label": ["induced"]}),
        json.dumps({"event": sample_event(), "label": "inconclusive", "difficulty": "hard"}),
        json.dumps({"event": sample_event()}),
    ]
    content = "\n".join(lines).encode() + b'\n{"a": "\xff"}\n' + '{"event_id": "\u2028"}'.encode()
    (tmp_path / "events.jsonl").write_bytes(content)
    rows = read_all(tmp_path / "events.jsonl", shard_bytes=1)
    found = {int(row.place.rpartition(":")[2]): row.error for row in rows}
    assert list(found) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert {number for number, error in found.items() if error is None} == {1, 8, 9}
    assert found[4] == "chat[1].at: later than cancelled_at: an event ends with the cancellation"
    assert found[10] == "event: expected UTF-8, byte 7 is none"
    assert not any("secret" in (error or "") for error in found.values())
    assert [row.label for row in rows if row.error is None] == [None, "inconclusive", None]


def test_other_files_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.jsonl", "_staging/b.jsonl", "notes.txt", "sub/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(sample_event()))
    shards = find_event_shards(str(tmp_path), shard_bytes=10**6)
    assert [shard.url.rpartition("/")[2] for shard in shards] == ["a.jsonl", "c.jsonl"]
    assert [shard.name for shard in shards] == ["00000", "00001"]


def test_rows_of_files_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for market in ("BR", "ID"):
        (tmp_path / f"market={market}").mkdir()
        (tmp_path / f"market={market}" / "data.jsonl").write_text('{"event_id": 1}\n')
    places = ["market=BR/data.jsonl:1", "market=ID/data.jsonl:1"]
    assert [row.place for row in read_all(tmp_path, shard_bytes=1)] == places


def test_what_storage_refuses_later_is_named(bucket: str, s3_server: S3Server) -> None:
    """As with credentials that run out between the cut and a shard's turn."""
    url = f"{bucket}/b +%C3 ü=1.jsonl"
    storage.write_bytes(url, json.dumps(sample_event()).encode())
    (shard,) = find_event_shards(bucket, shard_bytes=10**6)
    assert [row.error for row in read_event_rows(shard)] == [None]
    with (
        s3_server.fail("GET", r"1\.jsonl$", status=403, times=9),
        pytest.raises(RuntimeError, match=rf"{re.escape(url)}: the storage refused to read it .*: renew"),
    ):
        list(read_event_rows(shard))


@pytest.mark.parametrize("name", ["late.jsonl.gz", "late.ndjson.xz", "late.jsonl.zst", "late.parquet.gz"])
def test_an_upload_that_broke_off_or_cannot_be_read_is_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(sample_event()))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name}: (0 bytes|compressed as|a parquet file that is compressed)"):
        find_event_shards(str(tmp_path), shard_bytes=10**6)


def test_input_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone: no \.jsonl, .* file there"):
        find_event_shards(str(tmp_path / "gone"), shard_bytes=1)
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable parquet file"):
        find_event_shards(str(tmp_path), shard_bytes=1)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'event_id' is missing \(required\); found x"):
        find_event_shards(str(tmp_path), shard_bytes=1)


def test_damage_inside_a_parquet_is_named_when_it_is_met(tmp_path: Path) -> None:
    pq.write_table(labelled_table(EVENTS), tmp_path / "bad.parquet", compression="snappy")
    content = bytearray((tmp_path / "bad.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.parquet: not a readable parquet file"):
        read_all(tmp_path / "bad.parquet", shard_bytes=10**9)


ORDER = {"placed_at": "2026-11-01T08:00:00Z", "promised_ship_at": "2026-11-04T08:00:00Z"}


def _bare(**parts: object) -> dict[str, object]:
    ids = {name: name for name in ("event_id", "order_id", "buyer_id", "seller_id")}
    return {**ids, "market": "BR", "cancelled_at": "2026-11-03T08:00:00Z", "order": ORDER, **parts}


def test_structs_say_what_lines_say_that_have_some_fields_or_not(tmp_path: Path) -> None:
    """A struct has all its fields in every row: one that is null was not sent, and money is a decimal."""
    at = {"at": "2026-11-02T08:00:00Z"}
    calls = [{**at, "caller": "buyer", "answered": True, "duration_seconds": 3}, {**at, "caller": "seller"}]
    events = [
        _bare(order={**ORDER, "item_count": 2, "value": 19.9, "currency": "BRL"}, calls=calls[:1], seller_history={}),
        _bare(calls=[{**calls[1], "answered": False}], seller_history={"orders": 3}),
        _bare(calls=[], seller_history={"mean_reply_seconds": 2.5}),
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, events)))
    typed = [json.loads(json.dumps(event), parse_float=Decimal) for event in events]
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "structs.parquet")
    kind = pq.read_schema(tmp_path / "structs.parquet").field("order").type
    assert pa.types.is_decimal(kind.field("value").type)
    lines, structs = (read_all(tmp_path / name, shard_bytes=10**6) for name in ("lines.jsonl", "structs.parquet"))
    assert [row.error for row in structs] == [row.error for row in lines] == [None] * 3
    assert [row.event.order.value for row in structs if row.event] == [19.9, None, None]
    for field in ("order", "calls", "seller_history"):
        assert [getattr(row.event, field) for row in structs] == [getattr(row.event, field) for row in lines]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"order": {**ORDER, "item_count": None}}, "order.item_count: expected a number, found null"),
        ({"order": {**ORDER, "paid_at": None}}, None),  # the contract has this null
        ({"calls": [None]}, "calls[0]: expected an object, found null"),
    ],
)
def test_a_null_in_json_stays_what_the_contract_says_of_it(tmp_path: Path, part: dict, error: str | None) -> None:
    """In a line as in a column of JSON: the sender wrote it."""
    (tmp_path / "a.jsonl").write_text(json.dumps(_bare(**part)))
    row = {
        name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in _bare(**part).items()
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    assert [row.error for row in read_all(tmp_path, shard_bytes=10**6)] == [error] * 2


def test_what_the_contract_requires_is_missing_where_a_struct_has_null(tmp_path: Path) -> None:
    rows = [_bare(), _bare(order={**ORDER, "placed_at": None})]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [row.error for row in read_all(tmp_path, shard_bytes=1)] == [None, "order.placed_at: required, but missing"]


def test_a_weight_may_be_a_decimal(tmp_path: Path) -> None:
    rows = [_bare(sampling_weight=Decimal("2.5")), _bare(sampling_weight=Decimal("-1.0"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    good, bad = read_all(tmp_path, shard_bytes=1)
    assert good.sampling_weight == 2.5
    assert bad.error == "sampling_weight: expected a number above 0, found another value"


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [("chat", b"[]", "bytes"), ("event_id", Decimal(7), "Decimal"), ("event_id", 7, "number")],
)
def test_a_type_that_json_has_not_is_called_by_its_name(tmp_path: Path, name: str, value: object, found: str) -> None:
    """`chat: expected an array, found array` was said of bytes."""
    table = labelled_table(EVENTS[:1])
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, pa.array([value])), tmp_path / "a.parquet")
    (row,) = read_all(tmp_path, shard_bytes=1)
    assert row.error is not None
    assert row.error.startswith(f"{name}: ")
    assert row.error.endswith(f"found {found}")


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("cancelled_at", pa.array([2 * 10**18, 19 * 10**14], pa.int64()).cast(pa.timestamp("us", "UTC"))),
        ("buyer_reason", pa.array([b"\xff", b"fine"]).view(pa.string())),
    ],
)
def test_a_value_that_python_cannot_hold_fails_its_row_alone(tmp_path: Path, name: str, column: pa.Array) -> None:
    """Milliseconds taken for seconds make a year of 55,000; parquet's texts are whatever bytes their writer had."""
    rows = labelled_table(EVENTS[:2])
    pq.write_table(rows.set_column(rows.column_names.index(name), name, column), tmp_path / "a.parquet")
    bad, good = read_all(tmp_path, shard_bytes=10**6)
    assert bad.error is not None
    assert bad.error.startswith(f"{name}: bytes that are not UTF-8, or a time outside of the years 1 to 9999")
    assert good.error is None
    with pytest.raises(ValueError, match=rf"a\.parquet row 1: {name}: bytes that are not UTF-8"):
        list(read_chats(str(tmp_path / "a.parquet")))
