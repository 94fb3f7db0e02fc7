"""Recent decisions: the first one stands, for all replicas and after them, and for as long as was said.

In a file of one machine as in a database that several share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cancellation.serving.inference.example_events import example_events
from cancellation.serving.records.recent import LAYOUT, RecentDecisions
from cluster.database.postgres import PostgresDatabase
from cluster.database.sqlite import SqliteDatabase
from tests.builders.decision_records import decision_record
from tests.conftest import PROJECT
from tests.servers.postgres import PostgresServer


def pass_time(recent: RecentDecisions, seconds: float) -> None:
    """As if so long had passed since all that is there: the clock of a database's server is no test's to move."""
    with recent.database.writing() as execute:
        execute("UPDATE decisions SET recorded_at = recorded_at - ?", (seconds,))
        execute("UPDATE messages SET recorded_at = recorded_at - ?", (seconds,))


@dataclass
class Place:
    """One database, which any number may open."""

    kind: str
    address: str
    opened: list[RecentDecisions] = field(default_factory=list)

    def open(self, **settings: Any) -> RecentDecisions:
        kind = {"sqlite": SqliteDatabase, "postgres": PostgresDatabase}[self.kind]
        self.opened.append(RecentDecisions(kind(self.address, LAYOUT), **settings))
        return self.opened[-1]

    def close(self) -> None:
        for recent in self.opened:
            recent.close()
            recent.database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    sqlite = request.param == "sqlite"
    address = str(tmp_path / "r.sqlite") if sqlite else request.getfixturevalue("postgres_server").database()
    place = Place(request.param, address)
    yield place
    place.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Place]:
    place = Place("sqlite", str(tmp_path / "r.sqlite"))
    yield place
    place.close()


@pytest.fixture
def recent(place: Place) -> RecentDecisions:
    return place.open(retention_seconds=100, max_entries=1000)


def test_what_was_put_is_found_and_nothing_else(recent: RecentDecisions) -> None:
    assert recent.get("e-1") is None
    put = recent.put("e-1", "f1", decision_record(1))
    assert put.decision == decision_record(1)
    assert recent.get("e-1") == put
    assert recent.get("e-2") is None


def test_the_first_stands_and_the_second_gets_it(recent: RecentDecisions) -> None:
    recent.put("e-1", "f1", {"n": 1})
    second = recent.put("e-1", "f2", {"n": 2})
    assert (second.fingerprint, second.decision) == ("f1", {"n": 1})
    assert recent.get("e-1") == second


def test_without_a_limit_all_of_the_time_is_kept_and_takes_little_room(file: Place, tmp_path: Path) -> None:
    recent, event = file.open(), example_events()[0]
    for number in range(3000):
        recent.put(f"e-{number}", "f", {**decision_record(number), "event": event})
    recent.drop_old()
    assert len(recent) == 3000
    file.close()
    found = (tmp_path / "r.sqlite").stat()
    assert found.st_size / 3000 < 2500
    assert found.st_mode & 0o777 == 0o600


def test_a_decision_is_forgotten_after_its_time_and_may_then_be_another(recent: RecentDecisions) -> None:
    recent.put("e-1", "f1", {"n": 1})
    pass_time(recent, 40)
    assert recent.get("e-1") is not None
    pass_time(recent, 60)
    assert recent.get("e-1") is None
    assert recent.put("e-1", "f2", {"n": 2}).decision == {"n": 2}
    assert recent.get("e-1").fingerprint == "f2"


def test_old_ones_and_those_too_many_are_dropped_the_oldest_first(recent: RecentDecisions) -> None:
    for number in range(1500):
        recent.put(f"e-{number}", "f", {})
    dropped = recent.drop_old()
    while len(recent) > 1000:  # the keeper may have been at it at the same time
        dropped += recent.drop_old()
    assert (len(recent), recent.get("e-499"), recent.get("e-500") is None) == (1000, None, False)
    pass_time(recent, 100)
    recent.put("new", "f", {})
    recent.drop_old()
    assert (len(recent), recent.get("new") is not None) == (1, True)


def test_what_is_dropped_while_a_backup_runs_is_not_read_again_with_each_step(postgres_server: PostgresServer) -> None:
    place, rows = Place("postgres", postgres_server.database()), 3000
    recent = place.open(retention_seconds=100)
    recent.close()  # its keeper would drop them first
    with psycopg.connect(place.address, autocommit=True) as connection, psycopg.connect(place.address) as backup:
        connection.execute(
            "INSERT INTO decisions (event_id, fingerprint, recorded_at, decision, logged) "
            "SELECT 'e-' || n, 'f', n, '', TRUE FROM generate_series(1, %s) AS n",
            (rows,),
        )
        connection.execute("ANALYZE decisions")  # as a server does by itself
        backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert backup.execute("SELECT COUNT(*) FROM decisions").fetchone() == (rows,)
        assert (recent.drop_old(), len(recent)) == (rows, 0)
        place.close()  # then the server counts what its connections did
        looked = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'decisions_by_time'"
        until = time.monotonic() + 20
        while (num_read := connection.execute(looked).fetchone()[0]) < rows:
            assert time.monotonic() < until, num_read
            time.sleep(0.05)
        assert num_read < 5 * rows


def test_an_explanation_stands_beside_the_answer_and_changes_nothing_of_it(recent: RecentDecisions) -> None:
    recent.put("e-1", "f", decision_record(1))
    factors = [{"code": "chat.out_of_stock", "probability": 0.5, "evidence": "chat[3]"}]
    assert recent.add_explanation("e-1", factors)
    found = recent.get("e-1")
    assert found.explanation == factors
    assert found.decision == decision_record(1)
    assert not recent.add_explanation("e-2", factors)


def test_replicas_see_each_others_decisions_also_after_their_death(place: Place) -> None:
    mine = place.open()
    script = (
        "import os, signal, sys\n"
        "from cancellation.serving.records.recent import LAYOUT, RecentDecisions\n"
        "from cluster.database.postgres import PostgresDatabase as postgres\n"
        "from cluster.database.sqlite import SqliteDatabase as sqlite\n"
        "recent = RecentDecisions(globals()[sys.argv[1]](sys.argv[2], LAYOUT))\n"
        "for number in range(20): recent.put(f'e-{number}', 'f', {'n': number})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, place.kind, place.address]
    done = subprocess.run(command, cwd=PROJECT, timeout=120)
    assert done.returncode == -9
    assert [mine.get(f"e-{number}").decision for number in range(20)] == [{"n": number} for number in range(20)]
    mine.put("e-20", "f", {})
    assert len(place.open()) == 21


def test_of_many_at_once_one_stands_and_one_is_logged(place: Place) -> None:
    replicas = [place.open() for _ in range(4)]
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


def test_what_is_on_record_before_it_is_logged_is_logged_once_by_whoever_finds_it(place: Place) -> None:
    machines, logged = [place.open() for _ in range(4)], []
    machines[0].put("e-1", "f", {"by": 0}, logged=False)
    assert [machine.put("e-1", "f", {"by": 1}).logged for machine in machines] == [False] * 4

    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        machines[1].log_once("e-1", fail)
    assert not machines[0].get("e-1").logged
    threads = [
        threading.Thread(target=machine.log_once, args=("e-1", lambda: logged.append(1))) for machine in machines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logged == [1]
    assert [(found.decision, found.logged) for found in (machine.get("e-1") for machine in machines)] == [
        ({"by": 0}, True)
    ] * 4


def test_what_could_not_be_logged_is_not_recorded(recent: RecentDecisions) -> None:
    def fail(_encoded: bytes) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        recent.put("e-1", "f", {"n": 1}, before=fail)
    assert recent.get("e-1") is None
    assert recent.put("e-1", "f", {"n": 2}).decision == {"n": 2}


def test_a_message_is_written_once_on_whichever_machine_it_comes(place: Place) -> None:
    machines, written = [place.open(retention_seconds=100) for _ in range(3)], []
    said = "a" * 32, "b" * 32

    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        machines[0].put_once(*said, fail)
    assert [machine.put_once(*said, lambda: written.append(1)) for machine in machines] == [True, False, False]
    assert written == [1]
    pass_time(machines[0], 100)
    assert machines[1].put_once(*said, lambda: written.append(2))


def test_whoever_goes_back_to_what_they_said_before_has_said_something_new(place: Place) -> None:
    one, other, said = place.open(), place.open(), []

    def say(subject: str, content: str) -> bool:
        one_of_both = other if len(said) % 2 else one
        return one_of_both.put_once(subject * 32, content * 32, lambda: said.append(subject + content))

    assert [say(*words) for words in ("a0", "af", "a0", "a0", "b0", "a0")] == [True, True, True, False, True, False]
    assert said == ["a0", "af", "a0", "b0"]


def test_what_one_machine_decided_and_explained_is_found_from_another(place: Place) -> None:
    one, other = place.open(), place.open()
    one.put("e-1", "f", {"by": "one"})
    assert other.put("e-1", "f", {"by": "other"}).decision == {"by": "one"}
    factors = [{"code": "chat.out_of_stock", "probability": 0.5, "evidence": "chat[3]"}]
    assert other.add_explanation("e-1", factors)
    assert one.get("e-1").explanation == factors


@pytest.mark.parametrize("hours", [25, -25])
def test_a_machine_whose_clock_is_off_neither_takes_decisions_from_the_others_nor_gives_them_any_that_expired(
    postgres_server: PostgresServer, hours: int
) -> None:
    place = Place("postgres", postgres_server.database())
    mine, said = place.open(), "a" * 64
    assert mine.put("e-1", "f", {"by": "mine"}).decision == {"by": "mine"}
    mine.put_once(said[:32], said[32:], lambda: None)
    script = (
        "import sys, time\n"
        "right = time.time\n"
        "time.time = lambda: right() + 3600 * float(sys.argv[2])\n"
        "from cancellation.serving.records.recent import LAYOUT, RecentDecisions\n"
        "from cluster.database.postgres import PostgresDatabase\n"
        "recent = RecentDecisions(PostgresDatabase(sys.argv[1], LAYOUT))\n"
        "assert recent.put('e-1', 'f', {'by': 'theirs'}).decision == {'by': 'mine'}\n"
        "assert not recent.put_once('a' * 32, 'a' * 32, lambda: None)\n"
        "assert recent.put('e-2', 'f', {'by': 'theirs'}).decision == {'by': 'theirs'}\n"
        "assert recent.get('e-2').decision == {'by': 'theirs'}\n"
        "recent.drop_old()"
    )
    done = subprocess.run([sys.executable, "-c", script, place.address, str(hours)], cwd=PROJECT, timeout=120)
    mine.drop_old()
    assert done.returncode == 0
    assert (mine.get("e-1").decision, mine.get("e-2").decision) == ({"by": "mine"}, {"by": "theirs"})
    assert mine.put("e-2", "f", {"by": "mine"}).decision == {"by": "theirs"}
    place.close()


def test_a_file_harmed_by_a_crash_of_the_machine_is_begun_anew_and_a_whole_one_kept(
    file: Place, tmp_path: Path
) -> None:
    path, mark = tmp_path / "r.sqlite", tmp_path / "r.sqlite.boot"
    recent = file.open()
    for number in range(200):
        recent.put(f"e-{number}", "f", decision_record(number))
    file.close()
    mark.write_text("another start of the machine")
    assert len(file.open()) == 200
    file.close()
    mark.write_text("another start of the machine")
    content = bytearray(path.read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    path.write_bytes(content)
    harmed = file.open()
    assert (len(harmed), harmed.put("e-1", "f", {"n": 1}).decision) == (0, {"n": 1})


def test_sqlites_own_log_is_folded_into_the_file_and_gives_its_room_back(file: Place, tmp_path: Path) -> None:
    recent, log = file.open(), tmp_path / "r.sqlite-wal"
    largest, deadline = 0, time.monotonic() + 60
    for number in range(300):
        recent.put(f"e-{number}", "f", {"text": "x" * 50_000, "noise": os.urandom(40_000).hex()})
        largest = max(largest, log.stat().st_size)
    assert largest > 2**20
    while log.stat().st_size > 8 * 2**20:
        assert time.monotonic() < deadline, "was not folded"
        time.sleep(0.05)
    assert len(recent) == 300


def test_a_closed_one_says_so(place: Place) -> None:
    recent = place.open()
    place.close()
    place.close()
    with pytest.raises(OSError, match=r"(SQLite|PostgreSQL) failed"):
        recent.get("e-1")


def test_a_database_that_is_away_is_an_error_soon_and_nothing_once_it_is_back(postgres_server: PostgresServer) -> None:
    place = Place("postgres", postgres_server.database())
    recent = place.open()
    recent.put("e-1", "f", {"n": 1})
    postgres_server.cut_off(place.address)
    started = time.monotonic()
    with pytest.raises(OSError, match="PostgreSQL failed") as failed:
        recent.get("e-1")
    assert time.monotonic() - started < 10
    assert place.address.rpartition("/")[2] in str(failed.value)
    postgres_server.let_in(place.address)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert recent.get("e-1").decision == {"n": 1}
            break
        except OSError:
            assert time.monotonic() < deadline
    place.close()
