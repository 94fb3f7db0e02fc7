"""Recent decisions: the first one stands, for all replicas and after them, and for as long as was said."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cancellation.serving.records.recent import RecentDecisions
from tests.builders.decision_records import decision_record
from tests.conftest import PROJECT
from tests.servers.serving_replicas import simulated_event


class Clock:
    """Stands still until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(tmp_path: Path, clock: Clock) -> Iterator[RecentDecisions]:
    opened = RecentDecisions(tmp_path / "r.sqlite", retention_seconds=100, max_entries=1000, clock=clock)
    yield opened
    opened.close()


def test_what_was_put_is_found_and_nothing_else(recent: RecentDecisions) -> None:
    assert recent.get("e-1") is None
    put = recent.put("e-1", "f1", decision_record(1))
    assert put.decision == decision_record(1)
    assert recent.get("e-1") == put
    assert recent.get("e-2") is None
    assert recent.path.stat().st_mode & 0o777 == 0o600


def test_the_first_stands_and_the_second_gets_it(recent: RecentDecisions) -> None:
    recent.put("e-1", "f1", {"n": 1})
    second = recent.put("e-1", "f2", {"n": 2})
    assert (second.fingerprint, second.decision) == ("f1", {"n": 1})
    assert recent.get("e-1") == second


def test_without_a_limit_all_of_the_time_is_kept_and_takes_little_room(tmp_path: Path) -> None:
    recent, event = RecentDecisions(tmp_path / "r.sqlite"), simulated_event(1)
    for number in range(3000):
        recent.put(f"e-{number}", "f", {**decision_record(number), "event": event})
    recent.drop_old()
    assert len(recent) == 3000
    recent.close()
    assert (tmp_path / "r.sqlite").stat().st_size / 3000 < 2500


def test_a_decision_is_forgotten_after_its_time_and_may_then_be_another(recent: RecentDecisions, clock: Clock) -> None:
    recent.put("e-1", "f1", {"n": 1})
    clock.now += 99
    assert recent.get("e-1") is not None
    clock.now += 1
    assert recent.get("e-1") is None
    assert recent.put("e-1", "f2", {"n": 2}).decision == {"n": 2}
    assert recent.get("e-1").fingerprint == "f2"


def test_old_ones_and_those_too_many_are_dropped_the_oldest_first(recent: RecentDecisions, clock: Clock) -> None:
    for number in range(1500):
        recent.put(f"e-{number}", "f", {})
    dropped = recent.drop_old()
    while len(recent) > 1000:  # the keeper may have been at it at the same time
        dropped += recent.drop_old()
    assert (len(recent), recent.get("e-499"), recent.get("e-500") is None) == (1000, None, False)
    clock.now += 100
    recent.put("new", "f", {})
    recent.drop_old()
    assert (len(recent), recent.get("new") is not None) == (1, True)


def test_an_explanation_stands_beside_the_answer_and_changes_nothing_of_it(recent: RecentDecisions) -> None:
    recent.put("e-1", "f", decision_record(1))
    factors = [{"code": "chat.out_of_stock", "probability": 0.5, "evidence": "chat[3]"}]
    assert recent.add_explanation("e-1", factors)
    found = recent.get("e-1")
    assert found.explanation == factors
    assert found.decision == decision_record(1)
    assert not recent.add_explanation("e-2", factors)


def test_replicas_see_each_others_decisions_also_after_their_death(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    mine = RecentDecisions(path)
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from cancellation.serving.records.recent import RecentDecisions\n"
        "recent = RecentDecisions(Path(sys.argv[1]))\n"
        "for number in range(20): recent.put(f'e-{number}', 'f', {'n': number})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=PROJECT, timeout=120)
    assert done.returncode == -9
    assert [mine.get(f"e-{number}").decision for number in range(20)] == [{"n": number} for number in range(20)]
    mine.put("e-20", "f", {})
    mine.close()
    again = RecentDecisions(path)
    assert len(again) == 21
    again.close()


def test_of_many_at_once_one_stands_and_one_is_logged(tmp_path: Path) -> None:
    replicas = [RecentDecisions(tmp_path / "r.sqlite") for _ in range(4)]
    logged: list[int] = []
    answers: list[object] = []

    def answer(number: int, replica: RecentDecisions) -> None:
        for event in range(20):
            standing = replica.put(f"e-{event}", "f", {"by": number}, before=lambda _: logged.append(event))  # noqa: B023
            answers.append((event, standing.decision["by"]))

    threads = [threading.Thread(target=answer, args=pair) for pair in enumerate(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(logged) == list(range(20))
    assert len(answers) == 80
    assert len(set(answers)) == 20
    for replica in replicas:
        replica.close()


def test_what_could_not_be_logged_is_not_recorded(recent: RecentDecisions) -> None:
    def fail(_encoded: bytes) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        recent.put("e-1", "f", {"n": 1}, before=fail)
    assert recent.get("e-1") is None
    assert recent.put("e-1", "f", {"n": 2}).decision == {"n": 2}


def test_a_file_harmed_by_a_crash_of_the_machine_is_begun_anew_and_a_whole_one_kept(tmp_path: Path) -> None:
    path, mark = tmp_path / "r.sqlite", tmp_path / "r.sqlite.boot"
    recent = RecentDecisions(path)
    for number in range(200):
        recent.put(f"e-{number}", "f", decision_record(number))
    recent.close()
    mark.write_text("another start of the machine")
    again = RecentDecisions(path)
    assert len(again) == 200
    again.close()
    mark.write_text("another start of the machine")
    content = bytearray(path.read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    path.write_bytes(content)
    harmed = RecentDecisions(path)
    assert (len(harmed), harmed.put("e-1", "f", {"n": 1}).decision) == (0, {"n": 1})
    harmed.close()


def test_sqlites_own_log_is_folded_into_the_file_and_gives_its_room_back(tmp_path: Path) -> None:
    recent = RecentDecisions(tmp_path / "r.sqlite")
    log = tmp_path / "r.sqlite-wal"
    largest, deadline = 0, time.monotonic() + 60
    for number in range(300):
        recent.put(f"e-{number}", "f", {"text": "x" * 50_000})
        largest = max(largest, log.stat().st_size)
    assert largest > 2**20
    while log.stat().st_size > 8 * 2**20:
        assert time.monotonic() < deadline, "was not folded"
        time.sleep(0.05)
    assert len(recent) == 300
    recent.close()


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    recent = RecentDecisions(tmp_path / "r.sqlite")
    recent.close()
    recent.close()
    with pytest.raises(OSError, match="SQLite failed"):
        recent.get("e-1")
