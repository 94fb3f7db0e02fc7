"""Who an event is about, as keyed digests: rows of one person can be found and removed, and nobody be read off them."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Collection, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator

from cluster import storage
from cluster.database.interface import Database
from cluster.places import Place, on_this_machine
from cluster.serving.service import secret_path
from cluster.settings import Settings

ROLES = ("order", "seller", "buyer")
"""Each is a field `<role>_id` of the event, and a column `<role>_digest` of the archive."""


def look_at_key(path: str, _job: Settings | None = None) -> str:
    """Say of a key's file that it is one.

    Raises:
        ValueError: As `PersonKey.load`.
    """
    PersonKey.load(Path(path))
    return "the key"


KeyPath = Annotated[str, AfterValidator(on_this_machine), Place("reads", look_at_key, look_at_key)]
"""The endpoint's key, a file of this machine, for what is looked up under it after hours of other work."""

LAYOUT = "CREATE TABLE IF NOT EXISTS person_keys (check_value TEXT NOT NULL);"
"""The one key under which people stand there."""
_AGREED = "SELECT check_value FROM person_keys"
_KEYS = "person_keys"
_MIN_LENGTH = 32
_DIGEST_BYTES = 16
_DIGEST = re.compile(rf"[0-9a-f]{{{2 * _DIGEST_BYTES}}}")


class PersonKey:
    """The key of the digests: the same on all machines, for as long as somebody may ask to be forgotten."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> PersonKey:
        """Read a key's file.

        Raises:
            ValueError: If it cannot be read, others may read it, or it is too short.
        """
        try:
            if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
                raise ValueError(f"person key {path}: expected no access for others; chmod 600 it")
            content = path.read_bytes().strip()
        except OSError as error:
            raise ValueError(
                f"person key {path}: cannot be read ({type(error).__name__}); give the endpoint's own: by its "
                "data_dir, by person_key_file, or by VERDICTS_PERSON_KEY_FILE"
            ) from None
        if len(content) < _MIN_LENGTH:
            raise ValueError(f"person key {path}: expected at least {_MIN_LENGTH} characters, found {len(content)}")
        return cls(blake2b(content, digest_size=32).digest())

    @property
    def check_value(self) -> str:
        """A digest of nobody, which tells keys apart; hex, 32 digits."""
        return blake2b(key=self._key, person=b"check", digest_size=_DIGEST_BYTES).hexdigest()

    def digest(self, role: str, name: str) -> str:
        """Give the digest of an id in one of `ROLES`; hex, 32 digits."""
        text = name.encode("utf-8", "surrogatepass")
        return blake2b(text, key=self._key, person=role.encode(), digest_size=_DIGEST_BYTES).hexdigest()

    def people(self, event: Mapping[str, Any]) -> dict[str, str]:
        """Give the digest of each role of an event in the contract's form."""
        return {role: self.digest(role, event[f"{role}_id"]) for role in ROLES}

    def hidden(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Give the event with digests in place of the ids, those of concurrent orders among them."""
        found = {**event, **{f"{role}_id": digest for role, digest in self.people(event).items()}}
        if found.get("concurrent_orders"):
            found["concurrent_orders"] = [
                {**order, "order_id": self.digest("order", order["order_id"])} for order in found["concurrent_orders"]
            ]
        return found


def one_id(role: str, names: Collection[str], key: PersonKey | None) -> dict[str, str]:
    """Find which ids are the digests of others: {digest: id}, so that one person is not taken for two.

    Args:
        role: One of `ROLES`.
        names: Ids from an archive, which are digests, and from elsewhere.
        key: The archive's.

    Raises:
        ValueError: If some look like digests and others do not, and there is no key to say whether they are the same.
    """
    known = set(names)
    if key is not None:
        return {digest: name for name in known if (digest := key.digest(role, name)) in known}
    digests = sum(_DIGEST.fullmatch(name) is not None for name in known)
    if 0 < digests < len(known):
        raise ValueError(
            f"person_key_file: {digests:,} of {len(known):,} {role}s stand under keyed digests, as in an archive, the "
            "others under ids, so that one may count as two; give the endpoint's key (serving.person_key_file, or "
            "person.key in its data_dir), in this setting or in VERDICTS_PERSON_KEY_FILE"
        )
    return {}


def with_one_seller(rows: pa.Table, key_file: str | None) -> pa.Table:
    """Give rows in which every `seller_id` is one seller's, and every seller has one.

    Raises:
        ValueError: As `one_id`, or `find_key`.
    """
    sellers = rows["seller_id"].to_pylist()
    ids = one_id("seller", [name for name in sellers if name is not None], find_key(key_file))
    place = rows.schema.get_field_index("seller_id")
    return rows.set_column(place, rows.schema.field(place), pa.array([ids.get(name, name) for name in sellers]))


def find_key(path: str | None) -> PersonKey | None:
    """Load the key that a setting `person_key_file` names, or else the environment; None: neither does.

    Raises:
        ValueError: If it cannot be read, others may read it, or it is too short.
    """
    found = path or secret_path("VERDICTS_PERSON_KEY_FILE")
    return PersonKey.load(Path(found)) if found else None


def make_key_file(path: Path) -> None:
    """Make a file with a key of its own; one that is there stays.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{secrets.token_urlsafe(32)}\n")
    try:
        path.hardlink_to(temporary)  # whole or not at all: another replica may be about to read it
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def agree_on_key(database: Database, key: PersonKey) -> None:
    """Keep to one key: of a decision under another, its seller would be told it is not theirs, and not be found.

    So that a disk or a database that takes nothing is no obstacle, what is agreed on already is only read.

    Raises:
        ValueError: If the first who came here had another.
        OSError: As from the database.
    """
    with database.reading() as execute:
        there = execute(_AGREED).fetchone()
    if there is None:
        with database.writing(alone="person key") as execute:
            there = execute(_AGREED).fetchone()
            if there is None:
                execute("INSERT INTO person_keys (check_value) VALUES (?)", (key.check_value,))
    if there not in (None, (key.check_value,)):
        raise ValueError(
            f"person key: expected the one under which people stand in {database.name}, found another; put its "
            "file back, and give all machines the same, by person_key_file or VERDICTS_PERSON_KEY_FILE: the first "
            "machine's is person.key in its data_dir"
        )


def name_key(archive_url: str, key: PersonKey) -> None:
    """Put a key's check value beside the rows that stand under it. Once is enough, more often is fine.

    Raises:
        OSError: If the archive cannot be written.
    """
    storage.create_exclusive(storage.join_url(archive_url, _KEYS, f"{key.check_value}.key"), key.check_value.encode())


def other_keys(archive_url: str, key: PersonKey) -> int:
    """Count the keys besides this one under which rows of an archive stand, such as those of other machines.

    Raises:
        ValueError: If the archive names its keys, and this is none of them.
    """
    named = {
        file.url.rpartition("/")[2] for file in storage.list_files(storage.join_url(archive_url, _KEYS), suffix=".key")
    }
    if named and f"{key.check_value}.key" not in named:
        raise ValueError(
            f"person key: expected one under which rows of the archive {archive_url} stand, found another; give the "
            "endpoint's, which is person.key in its data_dir unless person_key_file names another"
        )
    return max(0, len(named) - 1)


def lists_nobody(url: str) -> bool:
    """Tell whether a file of people is empty or not there."""
    return not storage.exists(url) or not storage.read_bytes(url).strip()


def read_people(url: str, key: PersonKey) -> frozenset[str]:
    """Read a file of people, local or s3://, a line each: role, then id; give their digests.

    An id that begins or ends with a space, begins with a quotation mark, or has a line break in it stands there as a
    string of JSON: events may have such ids, and whoever has one must be found.

    Raises:
        ValueError: If a line is something else, or there is none; its number is named, not what it holds.
        FileNotFoundError: If there is no file.
    """
    digests = set()
    try:
        lines = storage.read_bytes(url).decode("utf-8-sig").split("\n")  # other ends of lines may be part of an id
    except UnicodeDecodeError:
        raise ValueError(f"{url}: expected UTF-8, found another encoding; save it anew") from None
    for number, line in enumerate(lines, 1):
        role, _, name = line.strip().partition(" ")
        if not role:
            continue
        name = _read_name(name.strip())
        if role not in ROLES or not name:
            raise ValueError(
                f"{url} line {number}: expected {', '.join(ROLES[:-1])} or {ROLES[-1]}, then an id, as a string of "
                "JSON if it begins with a quotation mark"
            )
        digests.add(key.digest(role, name))
    if not digests:
        raise ValueError(f"{url}: expected a line with role and id, found none")
    return frozenset(digests)


def _read_name(text: str) -> str:
    """Read an id as it is, or as a string of JSON; empty if it is neither."""
    if not text.startswith('"'):
        return text
    try:
        name = json.loads(text)
    except ValueError:
        return ""
    return name if isinstance(name, str) else ""
