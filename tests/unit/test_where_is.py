"""docs/where_is.md: every row leads to a file that is there and to a name that is defined in it."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import PROJECT

_PAGE = (PROJECT / "docs" / "where_is.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|`]+) \| `([^`]+)` \| `([^`]+)` \| (.+) \|$", _PAGE, re.MULTILINE)


def _defined(text: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_row_is_read() -> None:
    lines = [line for line in _PAGE.splitlines() if line.startswith("|") and not line.startswith(("|---", "| Where"))]
    assert len(lines) == len(ROWS) > 20


@pytest.mark.parametrize(("what", "path", "name", "sentence"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_leads_somewhere(what: str, path: str, name: str, sentence: str) -> None:
    assert (PROJECT / path).is_file(), f"{what}: {path} is not there"
    assert name in _defined((PROJECT / path).read_text(encoding="utf-8")), f"{what}: {path} defines no {name}"
    for other in re.findall(r"`([\w/]+\.\w+)`", sentence):
        assert (PROJECT / other).is_file(), f"{what}: {other} is not there"
