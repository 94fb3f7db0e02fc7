"""README.md and docs/: what they point to is there, every page can be found, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

README = PROJECT / "README.md"
INDEX = PROJECT / "docs" / "README.md"
PAGES = [README, *sorted((PROJECT / "docs").glob("*.md")), PROJECT / "cancellation" / "written" / "README.md"]
README_LINES = 150

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_QUOTED = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?:\]\(|src=\")([^)\s\"]+)")
_PATH = re.compile(r"(?<![\w./~-])(?:\.ci|cancellation|cluster|docs|jobs|relevance|tests)/[\w./-]*\w/?")
_ROOT_FILE = re.compile(r"`([A-Za-z_]+\.(?:toml|txt|yaml)|LICENSE|NOTICE|Makefile)`")
_MODULE = re.compile(r"-m ((?:jobs|tests)(?:\.\w+)+)")
_TARGET = re.compile(r"(?:^|`| {4})make ([a-z][a-z-]*)", re.MULTILINE)
_WRITTEN_BY_JOBS = ("policy.toml", "labelled.csv")
"""Names that a job gives to files of its own."""

ROOMS = sorted(
    path for name in ("jobs", "relevance", "cancellation", "cluster") for path in (PROJECT / name).rglob("__init__.py")
)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())


def _code(text: str) -> str:
    """Everything that is set as code, a piece a line."""
    blocks = _FENCE.findall(text)
    rest = _FENCE.sub("", text)
    return "\n".join([*blocks, *_INDENTED.findall(rest), *_QUOTED.findall(rest)])


def _anchors(text: str) -> set[str]:
    """The places of a page that a link may name, as GitHub forms them from headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for link in _LINK.findall(_FENCE.sub("", text)):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / name).resolve() if name else page
        if not target.is_relative_to(PROJECT) or not target.exists():
            dead.append(link)
        elif anchor and anchor not in _anchors(target.read_text(encoding="utf-8")):
            dead.append(f"{link}: no such heading")
    return dead


def _dead_names(text: str) -> list[str]:
    """Repository paths, modules and make targets in a page's code that are not there."""
    code = _code(text)
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    paths = [*_PATH.findall(code), *(name for name in _ROOT_FILE.findall(text) if name not in _WRITTEN_BY_JOBS)]
    dead = [path for path in paths if not (PROJECT / path).exists()]
    dead += [module for module in _MODULE.findall(code) if not _can_be_run(PROJECT / module.replace(".", "/"))]
    return dead + [f"make {name}" for name in _TARGET.findall(code) if f"\n{name}:" not in makefile]


def _can_be_run(module: Path) -> bool:
    return module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert _dead_links(page, page.read_text(encoding="utf-8")) == []


@pages
def test_every_path_module_and_make_target_is_there(page: Path) -> None:
    assert _dead_names(page.read_text(encoding="utf-8")) == []


def test_what_is_gone_is_named() -> None:
    page = (
        "[gone](docs/gone.md), [gone too](docs/README.md#no-such-heading), [there](docs/README.md#documentation)\n"
        '<img src="docs/gone.png"> <img src="docs/report.png">\n'
        "`relevance/gone.py`, `relevance/labels.py` and `gone.toml`; a table: | `make gone` | `make demo` |\n"
        "```\npython -m jobs.gone jobs/gone.toml\npython -m jobs.relevance_score s3://bucket/jobs/x var/jobs/x\n```\n"
    )
    assert _dead_links(README, page) == [
        "docs/gone.md",
        "docs/README.md#no-such-heading: no such heading",
        "docs/gone.png",
    ]
    assert _dead_names(page) == ["jobs/gone.toml", "relevance/gone.py", "gone.toml", "jobs.gone", "make gone"]


@pytest.mark.parametrize("index", [README, INDEX], ids=["README.md", "docs/README.md"])
def test_every_page_is_linked(index: Path) -> None:
    text = index.read_text(encoding="utf-8")
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(text)}
    assert sorted(set((PROJECT / "docs").glob("*.md")) - linked - {INDEX}) == []


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_job_is_in_the_readme() -> None:
    named = set(re.findall(r"`(\w+)`", README.read_text(encoding="utf-8")))
    jobs = {path.stem for path in (PROJECT / "jobs").glob("*.py")} - {"__init__"}
    assert jobs - named == set()


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.parent.relative_to(PROJECT).as_posix())
def test_a_room_says_where_to_start(room: Path) -> None:
    text = room.read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+(?:\.\w+|/))`", text)
    assert re.search(r"Start with\s+`", text), "expected a sentence that begins with: Start with `file`"
    assert [name for name in named if not (room.parent / name).exists()] == []
