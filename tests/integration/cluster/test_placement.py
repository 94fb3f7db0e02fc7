"""Work that is sent to where the GPUs are: reserved, refused in its own words, lost with its process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster.placement import require_shared, run_placed, shown_folders
from cluster.session import SessionSettings, ray_session
from tests.conftest import PROJECT

PLACED = {"gpus": 1, "cpus": 0.5}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ray_with_a_gpu() -> Iterator[None]:
    """A Ray that believes in a GPU, as a driver on a head finds it."""
    os.environ["PYTHONPATH"] = str(PROJECT)
    ray.init(
        "local", num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False
    )
    yield
    ray.shutdown()


def where() -> tuple[int, list[str]]:
    return os.getpid(), ray.get_runtime_context().get_accelerator_ids()["GPU"] if ray.is_initialized() else []


def refuse(text: str) -> None:
    raise ValueError(text)


def end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_work_that_asks_for_no_gpu_is_done_here() -> None:
    assert run_placed(where, gpus=0, cpus=1) == (os.getpid(), [])


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_work_that_asks_for_a_gpu_gets_it_to_itself_in_another_process() -> None:
    process, gpus = run_placed(where, **PLACED)
    assert process != os.getpid()
    assert gpus == ["0"]


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_a_refusal_there_is_the_same_sentence_here() -> None:
    with pytest.raises(ValueError, match=r"^no such base$") as refused:
        run_placed(refuse, text="no such base", **PLACED)
    assert type(refused.value) is ValueError


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_a_worker_that_dies_again_and_again_is_a_failure_of_its_own() -> None:
    with pytest.raises(RuntimeError, match=r"the worker with the GPU died \(WorkerCrashedError: .* run it again"):
        run_placed(end_this_process, **PLACED)


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_a_folder_of_one_machine_is_told_from_one_that_all_share(tmp_path: Path) -> None:
    """What another machine sees is what the worker is shown: a folder of the same name without the mark."""
    with shown_folders([str(tmp_path / "out"), "s3://bucket/out"], [str(tmp_path)]) as looked_for:
        run_placed(require_shared, looked_for, **PLACED)
        assert len(looked_for) == 2
    with pytest.raises(ValueError, match=rf"{tmp_path}/out is a folder of the job's own machine.* give s3://"):
        run_placed(require_shared, looked_for, **PLACED)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_local_ray_never_waits_for_gpus_that_it_has_not() -> None:
    if ray.is_initialized():
        ray.shutdown()
    with (
        ray_session(SessionSettings(num_cpus=1, object_store_gib=0.1)),
        pytest.raises(ValueError, match=r"gpus_per_actor=99, but this machine has \d+ GPUs: set it to 0, or give sess"),
    ):
        run_placed(where, gpus=99, cpus=0.5)
