"""Label Studio's files: the tasks to import, and the export to read back, whatever the interface asks.

Format: https://labelstud.io/guide/task_format; checked against a running server by tests/slow/test_label_studio.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Annotation:
    """What one person chose for one task."""

    data: Mapping[str, Any]
    """The task's, as it was imported; in a project that was filled by a CSV, ids may have become numbers."""

    chosen: Mapping[str, tuple[str, ...]]
    """By the control's name: choices, or texts. A control that was left alone is not there."""

    user: str
    """E-mail where the export has it, else the number."""

    annotated_at: str

    def first(self, control: str) -> str | None:
        """The only choice of a control; None without one."""
        return next(iter(self.chosen.get(control, ())), None)


def import_tasks(tasks: Sequence[Mapping[str, str]]) -> bytes:
    """Write tasks, given as flat texts, in the format that a project imports."""
    return json.dumps([{"data": dict(task)} for task in tasks], ensure_ascii=False, indent=1).encode()


def read_export(content: bytes, *, name: str) -> list[Annotation]:
    """Read a project's JSON export; skipped tasks come with nothing chosen.

    Args:
        content: The export in the format that Label Studio calls JSON (not JSON-MIN or CSV).
        name: The file's, for errors.

    Raises:
        ValueError: If it is no such export.
    """
    try:
        tasks = json.loads(content)
        return [_annotation(task, annotation) for task in tasks for annotation in task["annotations"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name}: not a Label Studio export ({type(error).__name__}): export the project as JSON, not JSON-MIN"
        ) from None


def name_people(given: Iterable[tuple[str, str]], people: Mapping[str, str], *, name: str) -> list[str]:
    """Find who gave each annotation of a project: as `people` names a user, else as the task says, else the user.

    Args:
        given: The task's own annotator, empty where it has none, and the user, of each annotation.
        people: Names of users, by e-mail or number.
        name: The export's, for errors.

    Raises:
        ValueError: If a name stands for several users and not all of them are in `people`: their labels would be one
            person's, and the last of them would count.
    """
    names: list[str] = []
    users: dict[str, set[str]] = {}
    for assigned, user in given:
        names.append(people.get(user) or assigned or (f"user {user}" if user.isdecimal() else user))
        users.setdefault(names[-1], set()).add(user)
    for person, several in users.items():
        if len(several) > 1 and (unnamed := sorted(several - {*people})):
            raise ValueError(
                f"{name}: the project of annotator {person!r} has labels by {len(several)} users of Label Studio "
                f'({", ".join(sorted(several))}): say who they are, such as people={{"{unnamed[0]}": "{person}"}}'
            )
    return names


def _annotation(task: Mapping[str, Any], annotation: Mapping[str, Any]) -> Annotation:
    results = [result for result in annotation["result"] if "from_name" in result]  # a relation between two has none
    values = {result["from_name"]: result.get("value") or {} for result in results}
    skipped = annotation.get("was_cancelled")
    chosen = {name: tuple(value.get("choices") or value.get("text") or ()) for name, value in values.items()}
    user = annotation.get("completed_by")
    return Annotation(
        dict(task["data"]),
        {} if skipped else {name: found for name, found in chosen.items() if found},
        str(user.get("email") or user.get("id")) if isinstance(user, Mapping) else str(user),
        annotation.get("updated_at") or annotation.get("created_at") or "",
    )
