"""Keyed digests of people: the same for the same person, of no use without the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cancellation.serving.inference.example_events import example_events
from cancellation.serving.records.people import PersonKey, lists_nobody, make_key_file, read_people


def key_of(path: Path) -> PersonKey:
    make_key_file(path)
    return PersonKey.load(path)


def test_a_person_has_one_digest_per_role_and_key(tmp_path: Path) -> None:
    key, other = key_of(tmp_path / "a"), key_of(tmp_path / "b")
    assert key.digest("seller", "s-1") == key_of(tmp_path / "a").digest("seller", "s-1")
    digests = {key.digest("seller", "s-1"), key.digest("buyer", "s-1"), other.digest("seller", "s-1")}
    assert len(digests) == 3
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_an_event_is_hidden_with_its_concurrent_orders_and_stays_an_event(tmp_path: Path) -> None:
    from cancellation.events.event import parse_event

    key, event = key_of(tmp_path / "key"), example_events()[0]
    order = {"order_id": "o-77", "placed_at": event["cancelled_at"], "status": "paid"}
    hidden = key.hidden({**event, "concurrent_orders": [order]})
    assert parse_event({**hidden, "concurrent_orders": []}).seller_id == key.digest("seller", event["seller_id"])
    assert hidden["concurrent_orders"][0]["order_id"] == key.digest("order", "o-77")
    assert not {event["order_id"], event["seller_id"], event["buyer_id"], "o-77"} & {str(v) for v in hidden.values()}


@pytest.mark.parametrize(("content", "mode", "said"), [("short", 0o600, "at least 32"), ("x" * 40, 0o644, "chmod 600")])
def test_a_key_that_guards_nothing_is_refused(tmp_path: Path, content: str, mode: int, said: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ValueError, match=said):
        PersonKey.load(path)


def test_a_file_of_people_is_read_and_a_bad_line_named_without_what_it_holds(tmp_path: Path) -> None:
    key, path = key_of(tmp_path / "key"), tmp_path / "people.txt"
    path.write_text("seller s-1\n\nbuyer b-2\n")
    assert read_people(str(path), key) == {key.digest("seller", "s-1"), key.digest("buyer", "b-2")}
    path.write_text("seller s-1\nsecret-2\n")
    with pytest.raises(ValueError, match=r"people.txt line 2: expected order, seller or buyer") as refused:
        read_people(str(path), key)
    assert "secret-2" not in str(refused.value)
    path.write_bytes("seller sé".encode("utf-16"))
    with pytest.raises(ValueError, match=r"people.txt: expected UTF-8"):
        read_people(str(path), key)
    path.write_text("\n")
    with pytest.raises(ValueError, match="found none"):
        read_people(str(path), key)
    assert lists_nobody(str(path))
    assert lists_nobody(str(tmp_path / "no_list.txt"))
    path.write_text("seller s-1\n")
    assert not lists_nobody(str(path))
    with pytest.raises(FileNotFoundError):
        read_people(str(tmp_path / "no_list.txt"), key)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("seller s-1\r", "s-1"),
        ("\ufeffseller s-1", "s-1"),
        ("seller a\u2028b", "a\u2028b"),
        ("seller a\x85b\x0bc", "a\x85b\x0bc"),
        ('seller s"1', 's"1'),
        (r'seller "a\nb"', "a\nb"),
        ('seller " s-1 "', " s-1 "),
        (r'seller "\"s-1\""', '"s-1"'),
    ],
)
def test_whoever_an_event_can_name_can_be_listed(tmp_path: Path, line: str, name: str) -> None:
    key, path = key_of(tmp_path / "key"), tmp_path / "people.txt"
    path.write_bytes(f"{line}\nbuyer b-2\n".encode())
    assert read_people(str(path), key) == {key.digest("seller", name), key.digest("buyer", "b-2")}


@pytest.mark.parametrize("line", ['seller "s-1', 'seller ""', 'seller "s-1" x'])
def test_a_name_that_is_half_quoted_is_no_other_persons(tmp_path: Path, line: str) -> None:
    path = tmp_path / "people.txt"
    path.write_text(line)
    with pytest.raises(ValueError, match="line 1: expected order, seller or buyer, then an id, as a string of JSON"):
        read_people(str(path), key_of(tmp_path / "key"))
