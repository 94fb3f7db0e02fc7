"""A batch's body taken apart: what is in it, and that no body takes more time than its length."""

from __future__ import annotations

import time

import pytest

from cancellation.events.fields import EventError
from cancellation.serving.http.batches import split_events

DEEP = b"[" * 3000


def _split(events: bytes) -> list[bytes]:
    return split_events(b'{"events":[' + events + b"]}", max_events=256)


@pytest.mark.parametrize(
    "strange",
    [
        DEEP + b"]" * 3000,
        DEEP + rb'"]}\"][\\"' + b"]" * 3000,
        DEEP + rb'{"a\\\"b":"","c":"\n"}' + b"]" * 3000,
        b'{"a":[' + b"9" * 5000 + rb',"\\",{}]}',
    ],
)
def test_what_the_parser_gives_up_on_ends_where_its_brackets_do(strange: bytes) -> None:
    assert _split(b'{"a":1},' + strange + b', "b"') == [b'{"a":1}', strange, b'"b"']


@pytest.mark.parametrize("end", [b"", b'"', b'"a', rb'"\"', b'"\\', rb'"\"\\', rb'"a" "\"'])
def test_a_body_that_ends_inside_an_event_is_refused(end: bytes) -> None:
    with pytest.raises(EventError, match="found its end inside an event"):
        split_events(b'{"events":[' + DEEP + end, max_events=256)


@pytest.mark.parametrize(("before", "repeated"), [(DEEP + b'"', rb"\""), (DEEP, b'"a" '), (DEEP + b'"', b"a")])
def test_a_body_four_times_as_long_takes_about_four_times_as_long(before: bytes, repeated: bytes) -> None:
    def seconds(length: int) -> float:
        body = b'{"events":[' + before + repeated * (length // len(repeated))
        started = time.thread_time()
        with pytest.raises(EventError):
            split_events(body, max_events=256)
        return time.thread_time() - started

    short, long = (min(seconds(length) for _ in range(3)) for length in (10_000, 40_000))
    assert long < 8 * short, "a body that takes the square of its length stops the whole gateway"
