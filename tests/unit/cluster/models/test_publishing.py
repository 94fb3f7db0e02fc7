"""A folder is judged and registered once; the champion moves by the decision, and is never moved by two at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.models.publishing import Decision, Published, ReleaseSettings, publish_folder, roll_back
from cluster.models.registry import ModelRegistry
from cluster.tracking import open_client


@dataclass
class Run:
    """What a job's MLflow run is told."""

    run_id: str | None = None
    where: str = "nowhere"
    told: dict[str, Any] = field(default_factory=dict)

    def tags(self, values: dict[str, Any]) -> None:
        self.told |= values


class Desk:
    """Publishes folders of one file."""

    def __init__(self, name: str, uri: str, folder: Path) -> None:
        self.registry, self.folder = ModelRegistry(name, uri), folder
        self.client = open_client(uri)
        experiment = self.client.create_experiment(name, artifact_location=(folder / "kept").as_uri())
        self.run = Run(self.client.create_run(experiment).info.run_id)
        self.judged = 0

    def publish(self, content: str, decision: Decision, *, instead_of: str | None = None) -> Published:
        folder = self.folder / content
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(content)

        def decide() -> Decision:
            self.judged += 1
            return decision

        def register(decision: Decision, digest: str, run_id: str) -> str:
            return self.registry.register(folder, digest, run_id=run_id, card=decision.why, tags={})

        return publish_folder(folder, self.registry, self.run, instead_of=instead_of, decide=decide, register=register)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def desk(request: pytest.FixtureRequest, uri: str, tmp_path: Path) -> Desk:
    return Desk(request.node.name, uri, tmp_path)


def test_the_decision_moves_an_alias_and_is_kept(desk: Desk) -> None:
    name = desk.registry.name
    first = desk.publish("one", Decision(True, "passes"))
    assert first == Published(f"{name}/1", Decision(True, "passes"))
    assert desk.run.told == {"version": f"{name}/1", "champion": "True", "why": "passes"}
    desk.publish("two", Decision(False, "is worse"), instead_of="1")
    assert desk.registry.champion() == "1"
    assert str(desk.client.get_model_version_by_alias(name, "challenger").version) == "2"
    desk.publish("two", Decision(True, "forced", "a holiday"), instead_of="1")  # the same files, another decision
    assert desk.registry.champion() == "2"
    assert desk.client.get_model_version(name, "2").tags["forced"] == "a holiday"
    back = roll_back(ReleaseSettings(rollback=True), desk.registry, desk.run)
    assert back == f"champion of {name} is version 1 again, was 2"
    assert desk.run.told["reason"] == "no reason given"


def test_what_is_champion_already_is_not_judged_again(desk: Desk) -> None:
    desk.publish("one", Decision(True, "passes"))
    again = desk.publish("one", Decision(False, "never asked"), instead_of="1")
    assert again == Published(f"{desk.registry.name}/1", None)
    assert desk.judged == 1


def test_a_rival_that_moved_the_champion_stops_the_job(desk: Desk) -> None:
    desk.publish("one", Decision(True, "passes"))
    with pytest.raises(RuntimeError, match=r"became .*/1 while .*/2 was compared with none"):
        desk.publish("two", Decision(True, "passes"))


def test_without_a_run_nothing_is_registered(desk: Desk) -> None:
    desk.run.run_id = None
    with pytest.raises(RuntimeError, match=r"MLflow is not there \(nowhere\): the model is in .*one, run it again"):
        desk.publish("one", Decision(True, "passes"))
    assert desk.registry.champion() is None
