"""Lines about long work, as they come with the clock."""

from __future__ import annotations

import io

import pytest

from cluster.progress import Progress, format_seconds, watched
from cluster.training.train import STEP, STEPS, ShownReports


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(*steps: tuple[float, int], total: int = 1_000, **options: float) -> list[str]:
    clock, to = Clock(), io.StringIO()
    progress = Progress(total, "pairs", clock=clock, to=to, **options)
    for seconds, count in steps:
        clock.now += seconds
        progress.add(count)
    return [" ".join(line.split()) for line in to.getvalue().splitlines()]


def test_what_is_done_within_ten_seconds_says_nothing() -> None:
    assert lines_of((4, 500), (5, 500)) == []


def test_a_line_every_ten_seconds_says_where_it_is_and_when_it_will_be_done() -> None:
    assert lines_of((6, 100), (6, 140), (6, 10), (6, 230)) == [
        "240 of 1,000 pairs 20 pairs/s ETA 38 s",
        "480 of 1,000 pairs 20 pairs/s ETA 26 s",
    ]


def test_what_was_there_before_says_nothing_of_the_rate() -> None:
    assert lines_of((60, 1), total=10, done=8, every_seconds=0) == ["9 of 10 pairs ETA 1 min 00 s"]


def test_more_than_was_expected_is_done_now() -> None:
    assert lines_of((20, 1_100)) == ["1,100 of 1,000 pairs 55 pairs/s ETA 0 s"]


def test_watched_items_come_through() -> None:
    assert list(watched(iter("abc"), 3, "letters")) == ["a", "b", "c"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (7_260, "2 h 01 min")])
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_training_says_how_many_steps_there_are_and_when_they_will_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    shown = ShownReports(None, clock=clock)
    for step in (10, 20, 100):
        shown.add({STEP: step, STEPS: 100, "loss": 0.5, "note": "text"})
        clock.now += 30
    assert capsys.readouterr().out.splitlines() == [
        "step 10 of 100: loss 0.5",
        "step 20 of 100: loss 0.5  ETA 4 min 00 s",
        "step 100 of 100: loss 0.5",
    ]
