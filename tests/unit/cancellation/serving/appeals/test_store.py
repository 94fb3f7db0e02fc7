"""Cases in a database of one machine and in one of several: appended, never changed, one winner of any two."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cancellation.serving.appeals.case import OVERTURNED, UPHELD, AppealConflict, Case
from cancellation.serving.appeals.store import LAYOUT, AppealStore
from cluster.database.interface import Database, Execute, Rows
from cluster.database.postgres import PostgresDatabase
from cluster.database.sqlite import SqliteDatabase
from tests.builders.decision_records import NOON
from tests.servers.postgres import PostgresServer
from tests.unit.cancellation.serving.appeals.cases import KEY, contested, decide, lodged, open_case, take


class Gateways:
    """Stores over one database, each with connections of its own, as gateways have."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        self._connect = connect
        self.databases: list[Database] = []
        self.now = NOON + 100

    def store(self) -> AppealStore:
        self.databases.append(self._connect())
        return AppealStore(self.databases[-1], clock=lambda: self.now)


@pytest.fixture(params=["sqlite", "postgres"])
def gateways(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateways]:
    if request.param == "sqlite":
        made = Gateways(lambda: SqliteDatabase(tmp_path / "a.sqlite", LAYOUT, durable=True))
    else:
        url = request.getfixturevalue("postgres_server").database()
        made = Gateways(lambda: PostgresDatabase(url, LAYOUT))
    yield made
    for database in made.databases:
        database.close()


@pytest.fixture
def store(gateways: Gateways) -> AppealStore:
    return gateways.store()


def test_a_case_is_kept_as_it_was_opened_and_moved(gateways: Gateways, store: AppealStore) -> None:
    case = open_case(store)
    decide(store, take(store, case, "ann")[0], "ann", OVERTURNED)
    found = gateways.store().get(case.appeal_id)
    assert [(entry.state, entry.author) for entry in found.entries] == [
        ("open", "seller"),
        ("with_reviewer", "ann"),
        ("overturned", "ann"),
    ]
    assert (found.state, found.reviewer, found.entries[-1].label) == ("overturned", "ann", "not_induced")
    assert found.decision == contested()
    assert found.entries[0] == lodged()
    assert store.get("appeal-unknown") is None
    assert store.cases_of(case.event_id) == [found]


def test_the_same_appeal_is_the_same_case_and_another_waits_its_turn(store: AppealStore) -> None:
    case = open_case(store)
    logged: list[Case] = []

    def again(identity: str, **changes: Any) -> tuple[Case, bool]:
        return store.open(identity, contested(), lodged(**changes), deadline=NOON + 9, before=logged.append)

    assert again("i-0", at=NOON + 500) == (case, False)
    with pytest.raises(AppealConflict, match=f"an appeal under way, {case.appeal_id}; another can be lodged when"):
        again("another", reason="And another thing.")
    assert logged == []
    decide(store, take(store, case, "ann")[0], "ann", UPHELD)
    second, new = again("another", reason="And another thing.")
    assert (new, second.round, second.state, len(logged)) == (True, 2, "open", 1)
    assert store.cases_of(case.event_id)[-1] == second
    assert again("i-0")[0].appeal_id == case.appeal_id
    decide(store, take(store, second, "bob")[0], "bob", OVERTURNED)
    with pytest.raises(AppealConflict, match=r"taken back on appeal .*nothing left to contest"):
        again("a third")


def test_a_case_moves_only_as_it_may(store: AppealStore) -> None:
    case = open_case(store)
    with pytest.raises(AppealConflict, match="with nobody; take it first"):
        decide(store, case, "ann", UPHELD)
    assert take(store, case, "ann")[1] is True
    assert take(store, case, "ann")[1] is False
    for wrong in (None, "bob"):
        with pytest.raises(AppealConflict, match="is with ann; look at it again"):
            take(store, case, "cid", wrong)
    with pytest.raises(AppealConflict, match="is with ann; take it over first"):
        decide(store, case, "bob", UPHELD)
    assert take(store, case, "bob", "ann")[0].reviewer == "bob"
    assert decide(store, case, "bob", UPHELD)[1] is True
    assert decide(store, case, "bob", UPHELD)[1] is False
    for state, reason in ((OVERTURNED, "I looked."), (UPHELD, "Other words.")):
        with pytest.raises(AppealConflict, match="was upheld by bob before; a decision is not changed"):
            decide(store, case, "bob", state, reason)
    with pytest.raises(AppealConflict, match="is upheld already"):
        take(store, case, "cid", "bob")
    assert len(store.get(case.appeal_id).entries) == 4


def test_what_cannot_be_logged_has_not_happened(store: AppealStore) -> None:
    def fail(_: Case) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        store.open("i", contested(), lodged(), deadline=NOON, before=fail)
    assert store.queue() == []
    case = open_case(store)
    with pytest.raises(OSError, match="no room"):
        store.append(case.appeal_id, replace(lodged(), state=UPHELD), wanted=lambda _: True, before=fail)
    assert store.get(case.appeal_id) == case
    assert store.queue() == [case]


def _at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """Do things at the same moment; what each gave or raised."""
    barrier, results = threading.Barrier(len(works)), [None] * len(works)

    def run(place: int) -> None:
        barrier.wait()
        try:
            results[place] = works[place]()
        except AppealConflict as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_reviewers_who_decide_at_once_one_wins(gateways: Gateways, store: AppealStore) -> None:
    others = [gateways.store() for _ in range(3)]
    for number in range(12):
        case = take(store, open_case(store, number), "ann")[0]
        states = [UPHELD, OVERTURNED, UPHELD]
        works = [
            lambda one=one, state=state, case=case, place=place: decide(one, case, "ann", state, f"reason {place}")
            for place, (one, state) in enumerate(zip(others, states, strict=True))
        ]
        results = _at_once(works)
        (won,) = [result for result in results if not isinstance(result, AppealConflict)]
        assert store.get(case.appeal_id) == won[0]
        assert len(won[0].entries) == 3


def test_of_appeals_that_come_at_once_one_is_a_case(gateways: Gateways, store: AppealStore) -> None:
    others = [gateways.store() for _ in range(4)]

    def lodge(one: AppealStore, identity: str, number: int) -> tuple[Case, bool]:
        return one.open(identity, contested(number), lodged(), deadline=NOON, before=lambda _: None)

    for number in range(12):
        same = [lambda one=one, n=number: lodge(one, f"same-{n}", n) for one in others[:2]]
        other = [lambda one=one, n=number, i=i: lodge(one, f"{i}-{n}", n) for i, one in enumerate(others[2:])]
        results = _at_once([*same, *other])
        made = [result for result in results if not isinstance(result, AppealConflict)]
        assert sum(new for _, new in made) == 1
        assert len({case.appeal_id for case, _ in made}) == 1
    assert len(store.queue()) == 12


def test_the_queue_begins_with_what_is_overdue_and_ends_with_what_has_time(
    gateways: Gateways, store: AppealStore
) -> None:
    deadlines = {0: NOON + 500, 1: NOON + 50, 2: NOON + 90, 3: NOON + 300}
    cases = {number: open_case(store, number, deadline=deadline) for number, deadline in deadlines.items()}
    take(store, cases[2], "ann")
    decide(store, take(store, cases[3], "ann")[0], "ann", UPHELD)
    assert [case.event_id[-1] for case in store.queue()] == ["1", "2", "0"]
    assert [case.is_overdue(gateways.now) for case in store.queue()] == [True, True, False]
    assert store.queue("TH") == []
    assert len(store.queue("BR")) == 3
    assert len(store.queue(limit=1)) == 1
    counted = {(one.market, one.state): (one.cases, one.overdue) for one in store.waiting()}
    assert counted == {("BR", "open"): (2, 1), ("BR", "with_reviewer"): (1, 1)}


class _Overheard:
    """A database that remembers what it was asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked: list[tuple[str, Sequence[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def reading(self) -> Iterator[Execute]:
        with self._database.reading() as execute:

            def remembered(statement: str, values: Sequence[Any] = ()) -> Rows:
                self.asked.append((statement, values))
                return execute(statement, values)

            yield remembered


def test_what_waits_is_found_without_a_look_at_what_was_decided(gateways: Gateways, store: AppealStore) -> None:
    for number in range(300):
        case = open_case(store, number)
        if number % 100:
            decide(store, take(store, case, "ann")[0], "ann", UPHELD)
    overheard = _Overheard(store.database)
    watched = AppealStore(overheard, clock=lambda: gateways.now)
    assert [len(watched.queue()), len(watched.queue("BR")), sum(one.cases for one in watched.waiting())] == [3, 3, 3]
    with store.database.writing() as execute:
        execute("ANALYZE")  # else the plans hang on when the server last did so itself
        explain = "EXPLAIN" if store.database.shared else "EXPLAIN QUERY PLAN"
        statements = [one for one in overheard.asked if " appeals " in one[0]]
        plans = [str(execute(f"{explain} {statement}", values).fetchall()) for statement, values in statements]
    assert len(plans) == 3
    for plan in plans:
        assert "appeals_waiting" in plan
        assert "Seq Scan" not in plan
        assert "appeal_entries" not in plan


def test_who_is_forgotten_leaves_no_case_and_no_entry(store: AppealStore) -> None:
    gone, stays = open_case(store, 1, seller="s-1"), open_case(store, 2, seller="s-2")
    digests = {KEY.digest("seller", "s-1")}
    assert store.about(digests, remove=False) == [gone.event_id]
    assert store.get(gone.appeal_id) is not None
    assert store.about(digests, remove=True) == [gone.event_id]
    assert store.about(digests, remove=True) == []
    assert (store.get(gone.appeal_id), store.get(stays.appeal_id)) == (None, stays)
    with store.database.reading() as execute:
        assert execute("SELECT COUNT(*) FROM appeal_entries").fetchone()[0] == 1


class _Overtaken:
    """A database in whose first transaction another gateway is quicker, after so many statements."""

    def __init__(self, database: Database, other: Callable[[], object], *, after: int = 1) -> None:
        self._database, self._other, self._after = database, other, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def writing(self, *, alone: str | None = None) -> Iterator[Execute]:
        with self._database.writing(alone=alone) as execute:

            def overtaken(statement: str, values: Sequence[Any] = ()) -> Rows:
                rows = execute(statement, values)
                self._after -= 1
                if self._after == 0:
                    self._other()
                return rows

            yield overtaken


def test_an_appeal_that_another_gateway_opens_between_two_looks_is_the_same_case(
    postgres_server: PostgresServer,
) -> None:
    with closing(PostgresDatabase(postgres_server.database(), LAYOUT)) as database:
        opened: list[Case] = []
        behind = AppealStore(_Overtaken(database, lambda: opened.append(open_case(AppealStore(database)))))
        found, new = behind.open("i-0", contested(), lodged(), deadline=NOON + 1000, before=lambda _: None)
    assert (found, new) == (opened[0], False)


def test_a_step_that_comes_twice_at_once_is_taken_once_and_answered_twice(postgres_server: PostgresServer) -> None:
    with closing(PostgresDatabase(postgres_server.database(), LAYOUT)) as database:
        store = AppealStore(database)
        case = open_case(store)
        taken: list[Case] = []

        behind = AppealStore(_Overtaken(database, lambda: taken.append(take(store, case, "ann")[0]), after=2))
        found, new = take(behind, case, "ann")
        assert (found, new) == (taken[0], False)
        with pytest.raises(AppealConflict, match="with ann"):
            take(AppealStore(database), case, "bob")


def test_what_is_overdue_does_not_depend_on_a_gateways_own_clock(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time()
    store = gateways.store()
    for number, days in enumerate((-1, 1)):
        store.open(str(number), contested(number), lodged(), deadline=right + days * 86_400, before=lambda _: None)
    monkeypatch.setattr(time, "time", lambda: right + 30 * 86_400)
    by_database = AppealStore(store.database)
    assert by_database.now() == pytest.approx(right, abs=600)
    assert sum(one.overdue for one in by_database.waiting()) == 1
