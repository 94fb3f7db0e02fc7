"""Units of work on Ray Data: one block each, through a pool of actors that Ray replaces when they die."""

from __future__ import annotations

import json
import logging
import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.session import require_cores, require_gpus

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_ADVICE = "\nFailed to apply UDF transform after"
_LIGHT = 0.4
"""CPU cores of the steps beside the actors. Unlike an actor's, or Ray Data would fuse them into the actors and let a
GPU wait while text is read; small enough that several jobs on a small machine always find room for one."""
_COORDINATOR = "AutoscalingCoordinator"
"""Name and namespace of Ray Data's actor that knows the cluster's nodes."""
_LOOK_SECONDS = 1.0


def configure_ray_data() -> None:
    """Set this driver's Ray Data up for jobs that report their own progress and errors."""
    # It warns that progress bars are off, as they should be, and prints hundreds of lines on what it raises anyway.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a damaged file is a ValueError here too


def one_block_each(items: Sequence[Mapping[str, Any]]) -> ray.data.Dataset:
    """Make a dataset in which every item is a block, so that each can be worked on, and retried, alone."""
    configure_ray_data()
    return ray.data.from_items(list(items), override_num_blocks=len(items))


def through_tasks(dataset: ray.data.Dataset, step: Callable[..., pa.Table], *arguments: Any) -> ray.data.Dataset:
    """Put each unit through a step that needs little more than a file or a tokeniser."""
    return dataset.map_batches(step, batch_format="pyarrow", batch_size=1, num_cpus=_LIGHT, fn_args=arguments)


def map_in_order(
    items: Sequence[Item], step: Callable[..., Result], *arguments: Any, num_cpus: float = 1.0
) -> Iterator[Result]:
    """Put items through a function in tasks, wherever there is room, and yield what it gives in the items' order.

    Like `map`: few results are here at once. What the function raises comes out as it was raised.

    Args:
        items: Each travels to a task; one is enough work for it.
        step: A function of a module, called with an item and the arguments.
        arguments: Sent once.
        num_cpus: Cores that a task reserves.
    """
    if not items:
        return
    dataset = one_block_each([{"item": item} for item in items]).map_batches(
        _Mapped(step), batch_format="numpy", batch_size=1, num_cpus=num_cpus, fn_args=arguments
    )
    dataset.context.execution_options.preserve_order = True
    with _as_it_was_raised():
        for row in dataset.iter_rows():
            yield row["result"]


class _Mapped:
    """A function of items, as a step of Ray Data's."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step

    def __call__(self, batch: dict[str, np.ndarray], *arguments: Any) -> dict[str, np.ndarray]:
        # A worker would warn that results are no numbers but objects, which Ray then serialises as it does arguments.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        results = np.empty(len(batch["item"]), object)  # as they are: a result that is a list is no array
        results[:] = [self._step(item, *arguments) for item in batch["item"]]
        return {"result": results}


def through_actors(
    dataset: ray.data.Dataset,
    actor: type,
    *arguments: Any,
    units: int,
    min_actors: int,
    max_actors: int,
    cpus_per_actor: float,
    gpus_per_actor: float = 0.0,
) -> ray.data.Dataset:
    """Put each unit through one of a pool of actors, made with the arguments and called with the unit's row.

    What an actor's constructor raises comes out of the dataset as it was raised, before any unit is worked on.

    Actors with a GPU are asked for all at once, and those that have no unit left are let go: as long as they wait for a
    GPU they are what a cluster's autoscaler adds machines for, and that demand ends with the driver. Ray Data itself
    would begin with the least, double every ten seconds, and only once units are done, which takes minutes each.
    Actors without a GPU compete with the steps beside them for cores and must not take all: Ray Data adds them.

    Args:
        dataset: Of blocks of one unit.
        actor: A class whose instances are called.
        arguments: Of its constructor.
        units: How many there are.
        min_actors: Kept until the end; without a GPU the pool begins with them.
        max_actors: The pool's largest size.
        cpus_per_actor: Cores that each reserves.
        gpus_per_actor: GPUs that each reserves.

    Raises:
        ValueError: If Ray will never have the GPUs and cores of one actor.
    """
    require_gpus(gpus_per_actor)
    require_cores(cpus_per_actor, gpus=gpus_per_actor)
    most = max(min_actors, max_actors)
    least = max(1, min(most, units)) if gpus_per_actor else min_actors
    pool = ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2)
    return dataset.map_batches(
        _Worker,
        batch_format="pyarrow",
        batch_size=1,
        fn_constructor_args=(actor, *arguments),
        compute=pool,
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor or None,
    )


class _Worker:
    """One actor of a pool, or the reason why it cannot be made.

    An actor whose constructor raises is to Ray an actor that died, which it reports in hundreds of lines; what a call
    raises comes back as it is (`raise_original_map_exception`).
    """

    def __init__(self, actor: type, *arguments: Any) -> None:
        self._refusal: Exception | None = None
        try:
            self._actor = actor(*arguments)
        except Exception as error:
            logger.debug("%s cannot be made", actor.__name__, exc_info=error)
            self._refusal = _as_sentence(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._refusal is not None:
            raise self._refusal
        return self._actor(batch)


def _as_sentence(error: Exception) -> Exception:
    """A refusal as it is; of what a library raised, its kind and first line. No text of an input can be in it yet."""
    if isinstance(error, ValueError):
        return ValueError(str(error))
    line = next(iter(str(error).splitlines()), "")
    return RuntimeError(f"a worker cannot start: {type(error).__name__}: {line}".rstrip(": "))


def as_report(figures: Mapping[str, Any]) -> pa.Table:
    """Make what a last step gives of what it has to say of its unit."""
    return pa.table({"figures": [json.dumps(figures)]})


def reports(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Run a dataset whose last step gives `as_report`, and yield each unit's figures as it is done."""
    with _as_it_was_raised(), _new_nodes_noticed():
        for row in dataset.iter_rows():
            yield json.loads(row["figures"])


def run_to_end(dataset: ray.data.Dataset) -> None:
    """Run a dataset whose steps leave files and give nothing to look at."""
    with _as_it_was_raised(), _new_nodes_noticed():
        for _ in dataset.iter_batches(batch_size=None):
            pass


@contextmanager
def _as_it_was_raised() -> Iterator[None]:
    """Take Ray Data's advice on its own retries off what a step has raised: it is no part of the sentence."""
    try:
        yield
    except Exception as error:
        cause = getattr(error, "cause", error)
        if cause.args and isinstance(cause.args[0], str):
            cause.args = (cause.args[0].partition(_ADVICE)[0], *cause.args[1:])
        raise


@contextmanager
def _new_nodes_noticed() -> Iterator[None]:
    """Let Ray Data find new nodes at once, for as long as a dataset runs.

    Its tasks may use the cores that its coordinator has found, which looks every 20 s (Ray 2.60). On a cluster that
    begins with none, units are prepared one at a time until then, or not at all, while engines are loaded and wait.
    """
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            try:
                coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
                ray.get(coordinator.get_reserved_resources.remote("nobody", recompute=True), timeout=_LOOK_SECONDS)
            except GetTimeoutError:
                continue
            except (ValueError, AttributeError, TypeError, RayError) as error:
                logger.debug("Ray Data notices new nodes in its own time", exc_info=error)

    looking = threading.Thread(target=look, name="new-nodes", daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()


@dataclass(frozen=True)
class Deaths:
    """What actors know of each other's deaths. Cheap to send to them."""

    counter: Any
    most: int
    """A unit on which actors died this often is given up."""

    @staticmethod
    def counted(*, most: int) -> Deaths:
        """Start to count, for as long as this driver holds the result.

        The count is kept on the driver's node: a worker's may be taken away, and everybody's memory of deaths with it.
        Where its own process dies the count begins anew, and whoever was asking asks again.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        counter = ray.remote(DeathCounter).options(
            num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1
        )
        return Deaths(counter.remote(), most)

    def too_many(self, unit: str) -> str | None:
        """Note that a unit is begun; say why it is to be given up instead, or None."""
        node = ray.get_runtime_context().get_node_id()
        deaths, reason = ray.get(self.counter.start.remote(unit, node))
        return f"died {deaths} times on this shard, last: {reason}" if deaths >= self.most else None

    @contextmanager
    def of_errors(self, unit: str, *, refusals: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """End this process when the engine fails inside the block: Ray starts a fresh one, with a fresh engine.

        Args:
            unit: What is worked on.
            refusals: Errors that are raised as they are, since no other process would do better.
        """
        try:
            yield
        except refusals:
            raise
        except Exception as error:
            # The text of an engine's error may quote its input: the type and the places are enough.
            places = "".join(traceback.format_tb(error.__traceback__))
            logger.error("engine failed on shard %s: %s\n%s", unit, type(error).__name__, places)
            ray.get(self.counter.explain.remote(unit, type(error).__name__))
            os._exit(1)


class DeathCounter:
    """Counts how often a worker was given each unit: every time but the first, one died on it before.

    A worker whose node went with it died of that (preempted, scaled down), and not of the unit.
    """

    def __init__(self, alive_nodes: Callable[[], set[str]] | None = None) -> None:
        self._alive_nodes = alive_nodes or _alive_nodes
        self._deaths: Counter[str] = Counter()
        self._begun_on: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    def start(self, unit: str, node: str) -> tuple[int, str]:
        """Say how often workers died on a unit so far, and of what last; `node` is where it is begun now."""
        before = self._begun_on.get(unit)
        self._begun_on[unit] = node
        if before is not None and before in self._alive_nodes():
            self._deaths[unit] += 1
        return self._deaths[unit], self._reasons.get(unit, "its process was killed")

    def explain(self, unit: str, reason: str) -> None:
        """Note what a worker is about to die of."""
        self._reasons[unit] = reason


def _alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
