"""What must be one for all who may get the same event: answers, feedback, appeals, policy, kill switch, ledger.

Gateways of one machine share files in `data_dir`; those of several machines a PostgreSQL database (`serving.database`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cancellation.serving.appeals import store
from cancellation.serving.places import first_policy, ledger_path, policy_path
from cancellation.serving.records import people, recent
from cancellation.serving.records.people import PersonKey, agree_on_key
from cancellation.serving.rollout import policy_sources
from cancellation.serving.rollout.policy_sources import PolicyFiles, PolicySource, PolicyTables
from cancellation.serving.settings import ServingSettings
from cluster.database.interface import Database
from cluster.database.postgres import PostgresDatabase
from cluster.database.sqlite import SqliteDatabase


@dataclass(frozen=True, slots=True)
class SharedState:
    """All parts; `database` has the tables of `records/recent.py`, `appeals` those of `appeals/store.py`."""

    database: Database
    appeals: Database
    """Of several machines the same; of one a file of its own, which survives a crash of the machine."""
    policy: PolicySource

    def close(self) -> None:
        """Close what was opened."""
        self.database.close()
        self.appeals.close()


def open_state(settings: ServingSettings, person_key: PersonKey | None) -> SharedState:
    """Open what the settings name. A database without a policy begins with the one of the settings.

    With a `person_key`, people stand there under that one alone from then on; None: of who writes nobody.

    Raises:
        ValueError: If people stand there under another key.
        OSError: If it cannot be opened.
    """
    if settings.database is None:
        folder = Path(settings.data_dir)
        files = PolicyFiles(policy_path(settings), ledger_path(settings))
        recently = SqliteDatabase(folder / "recent.sqlite", recent.LAYOUT)
        appeals = SqliteDatabase(folder / "appeals.sqlite", store.LAYOUT + people.LAYOUT, durable=True)
        return _agreed(SharedState(recently, appeals, files), person_key)
    database, tables = open_tables(settings.database, whole=True)
    state = _agreed(SharedState(database, database, tables), person_key)
    if tables.read().policy is None:  # else the settings' own is not asked for, and may be gone
        tables.begin_with(first_policy(settings))
    return state


def _agreed(state: SharedState, person_key: PersonKey | None) -> SharedState:
    try:
        if person_key is not None:
            agree_on_key(state.appeals, person_key)
    except BaseException:
        state.close()
        raise
    return state


def open_tables(url: str, *, whole: bool = False) -> tuple[Database, PolicyTables]:
    """Open a database that several machines share, its tables made where they are not there.

    With `whole`, a role that may not use all of them is refused; a kill switch asks for no right but its own.

    Raises:
        ValueError: If the address is refused.
        OSError: If the server does not let us in.
    """
    database = PostgresDatabase(url, recent.LAYOUT + policy_sources.LAYOUT + store.LAYOUT + people.LAYOUT, whole=whole)
    return database, PolicyTables(database)
