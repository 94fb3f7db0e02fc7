"""The policy in force: good changes are taken over, bad ones refused, all on record; to kill takes only a word.

In files of one machine as in a database that several share.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cancellation.decision.policy import PolicyError
from cancellation.serving.rollout.policy_sources import LAYOUT, PolicyFiles, PolicyTables
from cancellation.serving.rollout.policy_store import PolicyStore
from cluster.database.postgres import PostgresDatabase
from tests.servers.postgres import PostgresServer

POLICY = """
version = "{version}"
[default]
state = "off"
classes = 3
language = "en"
[markets.BR]
state = "{state}"
classes = 2
language = "pt"
penalty = 0.97
[markets.BR.evidence]
cases = 400
correct = 395
lower_bound = 0.96
model_version = "m@1"
date = 2026-11-01
pooled = ["MX"]
[markets.TH]
state = "shadow"
classes = 3
language = "th"
# end of policy
"""


def label(version: str) -> str:
    """What people named a version, and what is killed in it, without the digest of its content between them."""
    named, plus, killed = version.partition("+")
    return f"{named.rpartition('-')[0]}{plus}{killed}"


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Files:
    """A policy, its kill switch and its ledger in a folder."""

    def __init__(self, folder: Path) -> None:
        self.policy, self.kill, self.ledger = (folder / name for name in ("p.toml", "p.toml.kill", "ledger.jsonl"))
        self.clock = Clock()
        self.write()

    def write(self, version: str = "1", state: str = "live") -> None:
        self.put(POLICY.format(version=version, state=state).encode())

    def put(self, content: bytes) -> None:
        self.policy.write_bytes(content)

    def throw(self, *markets: str) -> None:
        self.kill.write_text("\n".join(markets))

    def take_back(self) -> None:
        self.kill.unlink()

    def store(self) -> PolicyStore:
        return PolicyStore(PolicyFiles(self.policy, self.ledger), clock=self.clock)

    def lines(self) -> list[str]:
        return [line for line in self.ledger.read_text().splitlines() if line.endswith("}")]

    def entries(self) -> list[tuple[float, str]]:
        lines = [json.loads(line) for line in self.lines()]
        return [(line["at"], label(line["policy_version"])) for line in lines]


class Tables(Files):
    """The same in a database; each store has connections of its own, as on a machine of its own."""

    def __init__(self, url: str) -> None:
        self.url, self.clock = url, Clock()
        self.opened: list[PostgresDatabase] = []
        self.mine = self.open()
        self.write()

    def open(self) -> PolicyTables:
        self.opened.append(PostgresDatabase(self.url, LAYOUT))
        return PolicyTables(self.opened[-1])

    def put(self, content: bytes) -> None:
        self.mine.publish(content)

    def throw(self, *markets: str) -> None:
        self.mine.change_kill_switch(kill=markets)

    def take_back(self) -> None:
        self.mine.change_kill_switch(revive=self.mine.read().kill_switch.split())

    def store(self) -> PolicyStore:
        return PolicyStore(self.open(), clock=self.clock)

    def lines(self) -> list[str]:
        with self.opened[0].reading() as execute:
            return [line for (line,) in execute("SELECT line FROM policy_ledger ORDER BY number").fetchall()]

    def close(self) -> None:
        for database in self.opened:
            database.close()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def tables(postgres_server: PostgresServer) -> Iterator[Tables]:
    tables = Tables(postgres_server.database())
    yield tables
    tables.close()


@pytest.fixture(params=["files", "tables"])
def kept(request: pytest.FixtureRequest) -> Files:
    return request.getfixturevalue(request.param)


def test_a_version_is_the_files_content_whatever_was_typed(kept: Files) -> None:
    store = kept.store()
    first = store.current.version
    kept.write("1", "shadow")
    assert store.reload_if_changed()
    assert label(store.current.version) == label(first)
    assert store.current.version != first
    kept.write("1", "live")
    store.reload_if_changed()
    assert store.current.version == first


def test_a_file_that_was_cut_off_is_refused_wherever_that_was(files: Files) -> None:
    store, whole = files.store(), files.policy.read_text()
    for end in range(len(whole.rstrip())):
        files.policy.write_text(whole[:end])
        assert not store.reload_if_changed()
        assert store.last_refusal is not None
    assert "cut off" in store.last_refusal.problem
    files.policy.write_text(whole)
    assert not store.reload_if_changed()
    assert store.last_refusal is None


def test_a_changed_file_is_taken_over_and_an_unchanged_one_is_not(kept: Files) -> None:
    store = kept.store()
    assert (label(store.current.version), store.market("BR").state, store.reload_if_changed()) == ("1", "live", False)
    kept.write("2", "shadow")
    assert store.reload_if_changed()
    assert (label(store.current.version), store.market("BR").state, store.num_changes) == ("2", "shadow", 1)
    kept.write("2", "shadow")
    assert not store.reload_if_changed()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("version = "),
        lambda path: path.write_text(path.read_text().replace("penalty = 0.97", "penalty = nan")),
        lambda path: path.write_text(path.read_text().replace("0.96", "0.8")),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.unlink(),
    ],
)
def test_a_bad_file_is_refused_once_and_the_old_policy_kept(files: Files, damage: Callable[[Path], object]) -> None:
    store = files.store()
    files.clock.now = 2000.0
    damage(files.policy)
    assert [store.reload_if_changed() for _ in range(3)] == [False] * 3
    assert (label(store.current.version), store.num_refusals, store.last_refusal.at) == ("1", 1, 2000.0)
    assert "p.toml" in store.last_refusal.problem
    assert files.entries() == [(1000.0, "1")]
    files.write("2")
    assert store.reload_if_changed()
    assert store.last_refusal is None


def test_a_refusal_ends_when_the_old_file_is_put_back(kept: Files) -> None:
    store = kept.store()
    kept.put(b"bad")
    store.reload_if_changed()
    kept.write()
    assert not store.reload_if_changed()
    assert (store.last_refusal, store.num_refusals) == (None, 1)


def test_without_a_good_policy_there_is_no_start(files: Files) -> None:
    files.policy.write_text("bad")
    with pytest.raises(PolicyError, match=r"p\.toml: not TOML"):
        files.store()
    assert not files.ledger.exists()


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("BR", {"BR": "off", "TH": "shadow"}),
        ("br  # since the incident\n\n# all others stay\n", {"BR": "off", "TH": "shadow"}),
        ("BR\nTH\nZZ", {"BR": "off", "TH": "off", "ZZ": "off"}),
        ("*", {"BR": "off", "TH": "off", "ZZ": "off"}),
        ("Brazil", {"BR": "off", "TH": "off"}),
        ("", {"BR": "live", "TH": "shadow"}),
    ],
)
def test_a_kill_switch_turns_markets_off_and_back(files: Files, text: str, states: dict[str, str]) -> None:
    store = files.store()
    files.kill.write_text(text)
    changed = store.reload_if_changed()
    assert {code: store.market(code).state for code in states} == states
    assert {code: store.current.market(code).state for code in states} == states
    assert changed == (label(store.current.version) != "1")
    assert store.market("BR").penalty == 0.97, "the rest of the entry stays: a person must see what would be back"
    files.kill.unlink()
    assert store.reload_if_changed() == changed
    assert (label(store.current.version), store.market("BR").state) == ("1", "live")


@pytest.mark.parametrize("make", [Path.mkdir, lambda kill: kill.symlink_to("nowhere")], ids=["a folder", "a link"])
def test_a_kill_switch_that_cannot_be_read_turns_everything_off(files: Files, make: Callable[[Path], object]) -> None:
    store = files.store()
    make(files.kill)
    assert store.reload_if_changed()
    assert store.market("BR").state == store.market("TH").state == "off"


def test_a_kill_holds_at_the_start_and_with_a_policy_that_is_refused(kept: Files) -> None:
    kept.throw("BR")
    store = kept.store()
    assert (store.market("BR").state, store.killed) == ("off", {"BR"})
    kept.put(b"bad")
    kept.take_back()
    kept.throw("TH")
    assert store.reload_if_changed()
    assert (store.market("BR").state, store.market("TH").state, store.num_refusals) == ("live", "off", 1)


def test_a_kill_holds_when_the_ledger_cannot_be_written_and_is_recorded_later(files: Files) -> None:
    store = files.store()
    kept = files.ledger.read_text()
    files.ledger.unlink()
    files.ledger.mkdir()
    files.write("2", "shadow")
    files.kill.write_text("BR")
    assert store.reload_if_changed()
    assert not store.reload_if_changed()
    assert (label(store.current.version), store.market("BR").state) == ("1+kill:BR", "off")
    files.ledger.rmdir()
    files.ledger.write_text(kept)
    files.clock.now = 3000.0
    assert store.reload_if_changed()
    assert files.entries() == [(1000.0, "1"), (3000.0, "2+kill:BR")]


def test_a_kill_that_was_never_recorded_ends_with_its_file(files: Files) -> None:
    store = files.store()
    files.ledger.unlink()
    files.ledger.mkdir()
    files.kill.write_text("BR")
    store.reload_if_changed()
    files.kill.unlink()
    assert store.reload_if_changed()
    assert store.market("BR").state == "live"


def test_the_ledger_tells_what_was_in_force_where_and_when(kept: Files) -> None:
    store = kept.store()
    for now, version, state in ((2000.0, "2", "shadow"), (3000.0, "3", "live")):
        kept.clock.now = now
        kept.write(version, state)
        store.reload_if_changed()
    kept.clock.now = 4000.0
    kept.throw("BR")
    store.reload_if_changed()

    def found(instant: float) -> tuple[float, str, str, bool]:
        entry = store.at("BR", instant)
        return entry.since, label(entry.policy_version), entry.policy.state, entry.killed

    assert [found(instant) for instant in (1000.0, 1999.9, 2500.0, 3000.0, 9000.0)] == [
        (1000.0, "1", "live", False),
        (1000.0, "1", "live", False),
        (2000.0, "2", "shadow", False),
        (3000.0, "3", "live", False),
        (4000.0, "3+kill:BR", "off", True),
    ]
    assert store.at("ZZ", 3500.0).policy == store.current.default
    assert store.at("TH", 9000.0).killed is False
    with pytest.raises(ValueError, match="expected an entry up to 999, found none so early"):
        store.at("BR", 999.0)


def test_the_ledger_gives_an_entry_back_as_it_was(kept: Files) -> None:
    store = kept.store()
    assert store.at("BR", 1000.0).policy == store.market("BR")
    assert store.market("BR").evidence.pooled == ("MX",)


def test_a_change_is_recorded_once_however_many_replicas_see_it(kept: Files) -> None:
    stores = [kept.store() for _ in range(4)]
    kept.clock.now = 2000.0
    kept.write("2")
    threads = [threading.Thread(target=store.reload_if_changed) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {label(store.current.version) for store in stores} == {"2"}
    assert kept.entries() == [(1000.0, "1"), (2000.0, "2")]
    kept.store()
    assert len(kept.entries()) == 2


def test_a_line_that_a_crash_cut_off_harms_no_other(files: Files) -> None:
    files.store()
    with files.ledger.open("a") as ledger:
        ledger.write('{"at": 1500.0, "policy_ver')
    files.clock.now = 2000.0
    files.write("2")
    store = files.store()
    assert files.entries() == [(1000.0, "1"), (2000.0, "2")]
    assert label(store.at("BR", 1600.0).policy_version) == "1"


def test_a_kill_switch_thrown_once_is_in_force_everywhere_within_five_seconds(tables: Tables) -> None:
    with polling(tables, machines=3) as stores:
        tables.throw("BR")
        assert all_come_true(stores, lambda store: store.market("BR").state == "off") < 5
        assert [store.market("TH").state for store in stores] == ["shadow"] * 3
        tables.take_back()
        assert all_come_true(stores, lambda store: store.market("BR").state == "live") < 5
    answers = [(store.at("BR", 1000.0), store.at("TH", 2000.0)) for store in stores]
    assert answers == [answers[0]] * 3
    assert [version for _, version in tables.entries()] == ["1", "1+kill:BR", "1"]


def test_who_cannot_see_the_kill_switch_takes_it_for_thrown_until_it_can(
    tables: Tables, postgres_server: PostgresServer
) -> None:
    with polling(tables, machines=1) as stores:
        postgres_server.cut_off(tables.url)
        assert all_come_true(stores, lambda store: store.market("BR").state == "off") < 15
        postgres_server.let_in(tables.url)
        all_come_true(stores, lambda store: store.market("BR").state == "live")


@contextmanager
def polling(tables: Tables, *, machines: int) -> Iterator[list[PolicyStore]]:
    """Stores as so many machines have them, each looking at the database every second."""
    stores, over = [tables.store() for _ in range(machines)], threading.Event()

    def poll(store: PolicyStore) -> None:
        while not over.wait(1.0):
            store.reload_if_changed()

    threads = [threading.Thread(target=poll, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    try:
        yield stores
    finally:
        over.set()
        for thread in threads:
            thread.join()


def all_come_true(stores: list[PolicyStore], condition: Callable[[PolicyStore], bool]) -> float:
    """Wait until something holds of all; give the seconds that took."""
    started = time.monotonic()
    while not all(condition(store) for store in stores):
        assert time.monotonic() - started < 60, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - started
