"""A training loop in this process: no Ray, the same session."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from cluster.training.session import training_session
from cluster.training.train import TrainerSettings, train


def _loop(config: dict[str, Any]) -> list[int]:
    session = training_session()
    assert (session.rank, session.world_size) == (dist.get_rank(), dist.get_world_size()) == (0, 1)
    for step, score in enumerate(config["scores"]):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "step.txt").write_text(str(step))
            session.report({"step": step, "score": score}, checkpoint=Path(folder))
    return config["scores"]


@pytest.mark.parametrize(("score", "kept"), [("score", "1"), (None, "2")])
def test_the_best_checkpoint_is_kept_or_the_last(tmp_path: Path, score: str | None, kept: str) -> None:
    settings = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    outcome = train(_loop, {"scores": [0.1, 0.9, 0.4]}, settings, name="run", score=score)
    assert outcome.returned == [0.1, 0.9, 0.4]
    assert (outcome.fetch_checkpoint(tmp_path / "fetched") / "step.txt").read_text() == kept
    assert not dist.is_initialized()


def _stoppable(config: dict[str, Any]) -> list[int]:
    session, done = training_session(), []
    session.resume(lambda folder: done.extend(map(int, (folder / "done.txt").read_text().split())))
    for step in range(len(done), len(config["scores"])):
        if step == config["dies_at"]:
            raise KeyboardInterrupt
        done.append(step)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "done.txt").write_text(" ".join(map(str, done)))
            session.report({"step": step, "score": config["scores"][step]}, checkpoint=Path(folder))
    return done


@pytest.mark.parametrize(("score", "kept"), [("score", "0 1"), (None, "0 1 2 3")])
def test_a_run_that_was_broken_off_goes_on_from_its_last_checkpoint(
    tmp_path: Path, score: str | None, kept: str
) -> None:
    settings, config = TrainerSettings(num_workers=0, checkpoints=str(tmp_path)), {"scores": [0.1, 0.9, 0.4, 0.5]}
    with pytest.raises(KeyboardInterrupt):
        train(_stoppable, {**config, "dies_at": 3}, settings, name="run", score=score)
    for dies_at in (0, 3):  # what is done is not done again
        outcome = train(_stoppable, {**config, "dies_at": dies_at}, settings, name="run", score=score)
        assert outcome.returned == [0, 1, 2, 3]
    assert (outcome.fetch_checkpoint(tmp_path / "fetched") / "done.txt").read_text() == kept


def test_a_loop_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    settings = TrainerSettings(num_workers=0, checkpoints=str(tmp_path))
    with pytest.raises(RuntimeError, match="training run left no checkpoint"):
        train(_loop, {"scores": []}, settings, name="run")


def test_checkpoints_below_home_lie_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    train(_loop, {"scores": [0.1]}, TrainerSettings(num_workers=0, checkpoints="~/kept"), name="run")
    assert (tmp_path / "kept/run/last/step.txt").is_file()


def test_checkpoints_of_this_process_lie_on_this_machine() -> None:
    with pytest.raises(ValueError, match="checkpoints: expected a local folder"):
        TrainerSettings(num_workers=0, checkpoints="s3://bucket/checkpoints")
