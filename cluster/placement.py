"""Heavy work of a job: in its own process, or as a Ray task on a machine that has the GPUs for it.

A submitted job's driver sits on the head, which has neither a GPU nor the memory for a large model.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster import storage
from cluster.session import require_cores, require_gpus

T = TypeVar("T")


def run_placed(work: Callable[..., T], *arguments: Any, gpus: float, cpus: float, **named: Any) -> T:
    """Call `work` here where it asks for no GPU, else in a Ray task that has as many to itself; returns what it does.

    A task's process ends with it, and so does what it held of a GPU. One whose machine goes away is begun again.

    Args:
        work: A function of a module; what it takes and returns travels.
        arguments: Of the function.
        gpus: To be reserved; 0: the call is made here.
        cpus: Cores to be reserved for a task, and its threads.
        named: Further arguments of the function.

    Raises:
        ValueError: If Ray will never have the GPUs and cores. What `work` raises comes out as it was raised.
        RuntimeError: If the task's process died again and again.
    """
    if not gpus:
        return work(*arguments, **named)
    import ray
    from ray.exceptions import RayError, RayTaskError

    require_gpus(gpus)
    require_cores(cpus, gpus=gpus)
    task = ray.remote(num_gpus=gpus, num_cpus=cpus, max_calls=1)(work)
    try:
        return ray.get(task.remote(*arguments, **named))
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        line = (str(error).splitlines() or [""])[0]
        raise RuntimeError(f"the worker with the GPU died ({type(error).__name__}: {line}): run it again") from None


@contextmanager
def shown_folders(outputs: Sequence[str], inputs: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Make folders of this machine known to `require_shared` for the length of a block; those in s3:// need it not.

    Args:
        outputs: Written to; each gets a mark, since a folder of the same name is found on many machines.
        inputs: Read from.

    Yields:
        What to look for of each folder.
    """
    looked_for = {url: url for url in inputs if Path(url).is_absolute()}
    marks = []
    try:
        for url in outputs:
            if not url.startswith("s3://"):
                folder = Path(storage.absolute_url(url))
                folder.mkdir(parents=True, exist_ok=True)
                marks.append(folder / f".{uuid.uuid4().hex}")
                marks[-1].touch()
                looked_for[str(folder)] = str(marks[-1])
        yield looked_for
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def require_shared(looked_for: Mapping[str, str]) -> None:
    """Check, on a worker, that it sees the driver's folders.

    Raises:
        ValueError: If one lies on the driver's machine alone.
    """
    for folder, path in looked_for.items():
        if not Path(path).exists():
            raise ValueError(
                f"{folder} is a folder of the job's own machine, and the worker with the GPU does not see it: give "
                "s3://…, or a folder that all machines share"
            )
