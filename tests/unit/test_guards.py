"""Rules of the repository that a reviewer should not have to remember."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FLOORS = {
    "cluster": (
        "",
        "database",
        "pages",
        "annotation",
        "statistics",
        "sharded",
        "models",
        "pretrained",
        "serving",
        "training",
        "endpoint",
        "schedule",
    ),
    "relevance": (
        "",
        "prompting",
        "pairs",
        "weights",
        "engines",
        "training",
        "scoring",
        "evaluation",
        "annotation",
        "monitoring",
        "small_model_recipe",
        "finetuning",
        "publishing",
    ),
    "cancellation": (
        "events",
        "contact_data",
        "features",
        "text",
        "model",
        "simulation",
        "written",
        "decision",
        "training",
        "scoring",
        "llm",
        "comparison",
        "consistency",
        "new_market",
        "serving.observability",
        "serving.records",
        "serving.appeals",
        "serving.settings",
        "serving.rollout",
        "serving.inference",
        "serving.answering",
        "serving.http",
        "serving",
        "serving.demo",
        "monitoring",
        "relabelling",
    ),
    "jobs": ("",),
}
"""Rooms of each package, lowest first: a folder's own files (not those of its subfolders), or one file by its name;
"" holds what lies in the package itself. A file imports from its own room and from lower ones."""
BELOW = {"cluster": (), "relevance": ("cluster",), "cancellation": ("cluster",), "jobs": tuple(FLOORS)}
"""Packages that a package may import besides itself."""
MAY_SIMULATE = ("simulation", "written", "training", "comparison", "new_market", "serving.demo")
"""Rooms of `cancellation/` that may import the simulator: what judges real orders does without."""
PURE = [
    "relevance.labels",
    "relevance.prompting.guidelines",
    "relevance.prompting.prompts",
    "relevance.pairs.pair",
    "relevance.engines.interface",
    "relevance.engines.settings",
    "relevance.scoring.shard_steps",
    "relevance.agreement",
    "relevance.evaluation.figures",
    "relevance.evaluation.pairs",
    "relevance.evaluation.run",
    "relevance.evaluation.calibration",
    "relevance.small_model_recipe.catalogue",
    "cancellation.events.event",
    "cancellation.features.vector",
    "cancellation.text.timeline",
    "cancellation.decision.rules",
    "cancellation.text.encoding",
    "cancellation.model.verdict_model",
    "cancellation.decision.policy",
    "cancellation.decision.policy_file",
    "cancellation.decision.verdicts",
    "cancellation.decision.thresholds",
    "cancellation.decision.calibration",
    "cancellation.scoring.explanations",
    "cancellation.events.files",
    "cancellation.scoring.shard_steps",
    "cancellation.comparison.figures",
    "cancellation.llm.prompt",
    "cancellation.llm.answer",
    "cancellation.llm.judging",
    "cluster.settings",
    "cluster.commit",
    "cluster.sharded.input_files",
    "cluster.statistics.bootstrap",
    "cluster.statistics.calibration",
    "cluster.statistics.temperature",
]


def _paths(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((PROJECT / folder).rglob("*.py"))]


def _sources() -> dict[str, str]:
    """Every file of the code by its path from the project, with its text."""
    return {path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8") for path in _paths(*FLOORS)}


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(path: str, text: str, modules: Mapping[str, str]) -> list[str]:
    """Name the modules that a file imports, wherever in it: also in functions and for type checkers alone."""
    package = path.split("/")[:-1]
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            wholes = [f"{base}.{alias.name}" for alias in node.names]
            names += [whole if whole in modules else base for whole in wholes]
    return names


def _room(path: str) -> str | None:
    """Name the room that a file is in; None if its floor is not known."""
    package, _, inner = _module(path).partition(".")
    folder = ".".join(path.split("/")[1:-1])
    return next((name for name in (inner, folder) if name in FLOORS[package]), None)


def _wrong_imports(sources: Mapping[str, str]) -> list[str]:
    """Say of every import that goes up or sideways, and of every file without a floor, what is wrong with it."""
    modules = {_module(path): path for path in sources}
    wrong = []
    for path, text in sources.items():
        package, room = path.partition("/")[0], _room(path)
        if room is None and not path.endswith("__init__.py"):
            wrong.append(f"{path}: its folder has no floor; add it to FLOORS, above all that it imports")
            continue
        for name in _imported(path, text, modules):
            root = name.partition(".")[0]
            target = modules.get(name, name)
            if root == "tests" or (root in FLOORS and root != package and root not in BELOW[package]):
                wrong.append(f"{path} imports {target}: {package}/ may not import {root}/")
            elif root == package and room is not None and name in modules and (above := _room(target)) is not None:
                floors = FLOORS[package]
                if floors.index(above) > floors.index(room):
                    wrong.append(f"{path} imports {target}: {above or root} is above {room or package}")
            if name.startswith("cancellation.simulation") and package == "cancellation" and room not in MAY_SIMULATE:
                wrong.append(f"{path} imports {target}: it may not import the simulator")
    return wrong


def test_imports_go_down() -> None:
    assert _wrong_imports(_sources()) == []


def test_every_floor_is_there() -> None:
    for package, rooms in FLOORS.items():
        for room in rooms:
            place = PROJECT / package / room.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").is_file(), f"{package}/{room} has a floor, but no files"


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (
            "relevance/labels.py",
            "from relevance.scoring import day",
            "relevance/labels.py imports relevance/scoring/day.py: scoring is above relevance",
        ),
        (
            "relevance/pairs/pair.py",
            "def late():\n    import relevance.scoring.day",
            "relevance/pairs/pair.py imports relevance/scoring/day.py: scoring is above pairs",
        ),
        (
            "relevance/pairs/pair.py",
            "if TYPE_CHECKING:\n    from ..scoring.day import Day",
            "relevance/pairs/pair.py imports relevance/scoring/day.py: scoring is above pairs",
        ),
        (
            "relevance/labels.py",
            "import cancellation.new_market",
            "relevance/labels.py imports cancellation/new_market.py: relevance/ may not import cancellation/",
        ),
        (
            "cluster/storage.py",
            "from relevance.scoring.day import Day",
            "cluster/storage.py imports relevance/scoring/day.py: cluster/ may not import relevance/",
        ),
        (
            "cluster/storage.py",
            "from tests.conftest import PROJECT",
            "cluster/storage.py imports tests.conftest: cluster/ may not import tests/",
        ),
        (
            "cancellation/serving/records/archive.py",
            "from cancellation.serving.http import asgi",
            "cancellation/serving/records/archive.py imports cancellation/serving/http/asgi.py: "
            "serving.http is above serving.records",
        ),
        (
            "cancellation/serving/settings.py",
            "from cancellation.serving.app import build",
            "cancellation/serving/settings.py imports cancellation/serving/app.py: serving is above serving.settings",
        ),
        (
            "cancellation/serving/app.py",
            "from cancellation.simulation.simulator import simulate",
            "cancellation/serving/app.py imports cancellation/simulation/simulator.py: it may not import the simulator",
        ),
        (
            "cancellation/cellar/wine.py",
            "",
            "cancellation/cellar/wine.py: its folder has no floor; add it to FLOORS, above all that it imports",
        ),
        (
            "cancellation/serving/cellar/wine.py",
            "",
            "cancellation/serving/cellar/wine.py: its folder has no floor; add it to FLOORS, above all that it imports",
        ),
    ],
)
def test_an_import_that_goes_up_is_named(path: str, text: str, said: str) -> None:
    house = (
        "relevance/scoring/day.py",
        "cancellation/serving/app.py",
        "cancellation/serving/http/asgi.py",
        "cancellation/simulation/simulator.py",
        "cancellation/new_market.py",
    )
    assert _wrong_imports({**dict.fromkeys(house, ""), path: text}) == [said]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("relevance/scoring/day.py", "from relevance import labels\nimport cluster.storage"),
        ("cancellation/serving/http/asgi.py", "from cancellation.serving.records import archive"),
        ("cancellation/serving/demo/traffic.py", "from cancellation.simulation.simulator import simulate"),
        ("jobs/relevance_score.py", "from cancellation.simulation.simulator import simulate"),
    ],
)
def test_an_import_that_goes_down_is_allowed(path: str, text: str) -> None:
    house = (
        "relevance/labels.py",
        "cancellation/serving/records/archive.py",
        "cancellation/simulation/simulator.py",
        "cluster/storage.py",
    )
    assert _wrong_imports({**dict.fromkeys(house, ""), path: text}) == []


def test_production_does_not_reach_the_simulator() -> None:
    """Not through any other room either."""
    sources = _sources()
    modules = {_module(path): path for path in sources}
    open_ends = [
        path
        for path in sources
        if path.startswith(("cancellation/serving/", "cancellation/scoring/", "cancellation/decision/"))
        and _room(path) not in MAY_SIMULATE
    ]
    came_from = dict.fromkeys(open_ends, "")
    while open_ends:
        path = open_ends.pop()
        for name in _imported(path, sources[path], modules):
            if (target := modules.get(name)) and target not in came_from:
                assert not target.startswith("cancellation/simulation/"), f"{path} imports {target}"
                came_from[target] = path
                open_ends.append(target)


def test_a_folders_init_holds_its_description_and_nothing_else() -> None:
    for path, text in _sources().items():
        if path.endswith("__init__.py"):
            body = ast.parse(text).body
            assert len(body) == 1, f"{path}: one docstring is expected, found {len(body)} statements"
            assert ast.get_docstring(ast.parse(text)), f"{path}: a docstring is expected, found none"


def test_pure_modules_import_without_heavy_libraries() -> None:
    script = (
        f"import importlib, sys\nfor name in {PURE!r}: importlib.import_module(name)\n"
        "print(*sorted({'torch', 'ray', 'vllm', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.split() == []


def _job_files() -> list[Path]:
    return sorted((PROJECT / "jobs").glob("*.toml"))


@pytest.mark.parametrize("path", _job_files(), ids=lambda path: path.name)
def test_every_settings_file_of_a_job_is_accepted(path: Path) -> None:
    """Required settings may be missing from a file, a misspelt one may not be in it."""
    import importlib

    from cluster.settings import Settings, load_settings

    module = importlib.import_module(f"jobs.{path.name.partition('.')[0]}")
    (job,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__
    ]
    required = [f"{name}=x" for name, field in job.model_fields.items() if field.is_required()]
    load_settings(job, [str(path), *required])


def test_a_job_is_a_table_of_contents() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (PROJECT / "jobs").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 100} == {}


def test_files_stay_readable() -> None:
    lengths = {
        str(path.relative_to(PROJECT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in _paths(*FLOORS, "tests")
    }
    assert {name: length for name, length in lengths.items() if length >= 400} == {}


def test_folders_stay_rooms() -> None:
    """Jobs alone are a long list: one file each, found by its name."""
    sizes = Counter(str(path.parent.relative_to(PROJECT)) for path in _paths(*FLOORS, "tests"))
    assert {folder: size for folder, size in sizes.items() if size > 16 and folder != "jobs"} == {}
