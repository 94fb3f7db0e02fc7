"""Champions come, go back, get lost, and are never moved by two at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.models.files import fetch_model, resolve_model
from cluster.models.registry import ModelRegistry
from cluster.tracking import open_client

Add = Callable[[str], str]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return open_client(uri)


@pytest.fixture
def registry(uri: str, request: pytest.FixtureRequest) -> ModelRegistry:
    return ModelRegistry(request.node.name, uri)


@pytest.fixture
def add(registry: ModelRegistry, client: MlflowClient, tmp_path: Path) -> Add:
    """Register files with the given content."""
    experiment = client.get_experiment_by_name("e")
    kept = (tmp_path / "kept").as_uri()
    number = experiment.experiment_id if experiment else client.create_experiment("e", artifact_location=kept)

    def register(content: str) -> str:
        folder = tmp_path / content
        folder.mkdir()
        (folder / "config.json").write_text(content)
        run_id = client.create_run(number).info.run_id
        return registry.register(folder, f"digest-{content}", run_id=run_id, card=f"# {content}", tags={"base": "b"})

    return register


def test_a_version_holds_the_files_and_says_where_it_came_from(
    registry: ModelRegistry, add: Add, client: MlflowClient, tmp_path: Path
) -> None:
    assert registry.champion() is None
    assert registry.version_with("digest-one") is None
    version = add("one")
    assert registry.version_with("digest-one") == version
    found = client.get_model_version(registry.name, version)
    assert (found.tags["base"], found.description) == ("b", "# one")
    folder = fetch_model(resolve_model(f"models:/{registry.name}/{version}", registry_uri=registry.uri), cache_dir="")
    assert (folder / "config.json").read_text() == "one"


def test_champion_and_challenger(registry: ModelRegistry, add: Add, client: MlflowClient) -> None:
    first, second = add("one"), add("two")
    registry.promote(first, "first", instead_of=None)
    registry.challenge(second, "not surely as good")
    assert registry.champion() == first
    assert str(client.get_model_version_by_alias(registry.name, "challenger").version) == second
    assert client.get_model_version(registry.name, second).tags["why"] == "not surely as good"
    registry.promote(second, "forced", instead_of=first, forced="holiday")
    assert registry.champion() == second
    assert client.get_model_version(registry.name, second).tags["forced"] == "holiday"
    assert "challenger" not in client.get_registered_model(registry.name).aliases


def test_a_rival_that_was_faster_is_not_overwritten(registry: ModelRegistry, add: Add) -> None:
    first, second, third = add("one"), add("two"), add("three")
    registry.promote(first, "", instead_of=None)
    registry.promote(second, "", instead_of=first)
    with pytest.raises(RuntimeError, match=f"became .*/{second} while .*/{third} was compared with {first}: run the"):
        registry.promote(third, "", instead_of=first)
    assert registry.champion() == second


def test_rolling_back_goes_step_by_step(registry: ModelRegistry, add: Add, client: MlflowClient) -> None:
    versions = [add("one"), add("two"), add("three")]
    for before, version in zip([None, *versions], versions, strict=False):
        registry.promote(version, "", instead_of=before)
    assert registry.roll_back("complaints") == (versions[2], versions[1])
    assert registry.champion() == versions[1]
    assert client.get_model_version(registry.name, versions[2]).tags["rolled_back"] == "complaints"
    assert registry.roll_back("more") == (versions[1], versions[0])
    with pytest.raises(ValueError, match=r"no earlier champion .* is left .*\(champions so far: 1\): publish one"):
        registry.roll_back("even more")
    assert registry.champion() == versions[0]


def test_a_deleted_champion_is_an_error_with_a_way_out(registry: ModelRegistry, add: Add, client: MlflowClient) -> None:
    versions = [add("one"), add("two"), add("three")]
    for before, version in zip([None, *versions], versions, strict=False):
        registry.promote(version, "", instead_of=before)
    client.delete_model_version(registry.name, versions[1])
    client.delete_model_version(registry.name, versions[2])
    with pytest.raises(ValueError, match=r"/3 was deleted, .* rollback=true goes back to the last champion that is"):
        registry.champion()
    assert registry.roll_back("it was deleted") == (versions[2], versions[0])
    assert registry.champion() == versions[0]


def test_a_champion_whose_alias_was_taken_away(registry: ModelRegistry, add: Add, client: MlflowClient) -> None:
    version = add("one")
    registry.promote(version, "", instead_of=None)
    client.delete_registered_model_alias(registry.name, "champion")
    with pytest.raises(ValueError, match="/1 has lost its alias"):
        registry.champion()
    assert registry.roll_back("alias removed by hand") == (version, version)
    assert registry.champion() == version


def test_a_job_that_died_before_the_alias_moved_leaves_the_old_champion(
    registry: ModelRegistry, add: Add, client: MlflowClient
) -> None:
    first, second, third = add("one"), add("two"), add("three")
    registry.promote(first, "", instead_of=None)
    client.set_registered_model_tag(registry.name, "champion_trail", json.dumps([first, second]))
    assert registry.champion() == first
    registry.promote(third, "", instead_of=first)
    assert registry.roll_back("") == (third, first)


def test_an_alias_that_people_moved_in_the_ui_counts(registry: ModelRegistry, add: Add, client: MlflowClient) -> None:
    first, second = add("one"), add("two")
    registry.promote(first, "", instead_of=None)
    client.set_registered_model_alias(registry.name, "champion", second)
    assert registry.champion() == second
    assert registry.roll_back("") == (second, first)
