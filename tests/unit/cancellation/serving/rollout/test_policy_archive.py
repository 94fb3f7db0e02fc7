"""Policies that were accepted are kept: to start with after a mistake, and for those who appeal later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cancellation.serving.rollout.policy_archive import PolicyArchive
from cancellation.serving.rollout.policy_sources import PolicyFiles, PolicySource
from tests.servers.postgres import PostgresServer
from tests.unit.cancellation.serving.rollout.test_policy_store import Files, Tables, label


@pytest.fixture(params=["files", "tables"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "files":
        yield Files(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    tables = Tables(server.database())
    yield tables
    tables.close()


def source_of(stored: Files) -> PolicySource:
    return stored.mine if isinstance(stored, Tables) else PolicyFiles(stored.policy, stored.ledger)


def shipped(archive: Path) -> list[str]:
    return sorted(label(path.stem) for path in archive.glob("policies/*.toml"))


def test_a_replica_that_starts_after_a_mistake_goes_on_with_the_policy_of_before(stored: Files) -> None:
    stored.store()
    stored.write("2", "shadow")
    stored.store()
    stored.put(b"bad")
    for _ in range(2):
        store = stored.store()
        assert (label(store.current.version), store.market("BR").state) == ("2", "shadow")
        assert store.last_refusal is not None
        assert "not TOML" in store.last_refusal.problem
        assert not store.reload_if_changed()
    stored.write("3")
    assert store.reload_if_changed()
    assert (label(store.current.version), store.last_refusal) == ("3", None)
    assert [version for _, version in stored.entries()] == ["1", "2", "3"]


def test_a_kill_holds_at_a_start_with_the_policy_of_before(stored: Files) -> None:
    stored.store()
    stored.put(b"bad")
    stored.throw("BR")
    assert stored.store().market("BR").state == "off"


def test_policies_that_came_and_went_while_the_archive_was_away_are_shipped_later(
    stored: Files, tmp_path: Path
) -> None:
    archive, store = tmp_path / "archive", stored.store()
    policies = PolicyArchive(source_of(stored), str(archive))
    archive.write_text("in the way of a folder")
    for version in ("2", "3"):
        with pytest.raises(OSError, match="archive"):
            policies.ship(store.digest)
        stored.write(version)
        assert store.reload_if_changed()
    archive.unlink()
    policies.ship(store.digest)
    assert shipped(archive) == ["1", "2", "3"]


def test_what_was_not_shipped_is_by_the_next_start(stored: Files, tmp_path: Path) -> None:
    stored.store()
    stored.write("2")
    stored.store()
    stored.put(b"bad")
    store = stored.store()
    policies = PolicyArchive(source_of(stored), str(tmp_path / "archive"))
    policies.ship(store.digest)
    policies.ship(store.digest)
    assert shipped(tmp_path / "archive") == ["1", "2"]
