"""A job cut into shards and committed once: the order of the steps, and what stops them.

    open the output for a plan -> work the shards off -> require their manifests -> publish -> _SUCCESS

Every step may be killed and run again, and raced by another run of the same plan. What a shard is, what is done with it
and what is counted comes from the caller.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.commit import AGAIN, Output

logger = logging.getLogger(__name__)

SHARD_STAGE = "shards"


class Shard(Protocol):
    """A part of the work; its name orders the published files."""

    @property
    def name(self) -> str: ...


AnyShard = TypeVar("AnyShard", bound=Shard)
Counted = TypeVar("Counted")


@dataclass(frozen=True)
class Finished:
    """A committed output."""

    manifest: dict[str, Any]
    """As `_SUCCESS` keeps it."""
    already_done: bool
    """True if an earlier run, or a rival, had committed it."""


def commit_once(
    output: Output,
    plan: Mapping[str, Any],
    work: Callable[[], Counted],
    *,
    summary: Callable[[Counted, float], Mapping[str, Any]],
    extras: Callable[[Counted, float], Mapping[str, bytes]] | None = None,
    started: float,
    replace: bool = False,
) -> Finished:
    """Do the work and publish it, unless that is done; safe to call again after any crash.

    Args:
        output: Where to.
        plan: What the output is a function of; two runs may share an output only if this is equal.
        work: Commits every shard (see `commit_shard`) and gives what was counted.
        summary: Counts and seconds -> what `_SUCCESS` keeps beside the names of the files.
        extras: Counts and seconds -> files to lay beside the output, by name.
        started: When the run began, as of `time.monotonic`.
        replace: Take the place of what another plan has committed (see `Output.open`).

    Raises:
        ValueError: If the output belongs to another plan.
    """
    committed = output.open(plan, replace=replace)
    if committed is not None:
        output.clean_up()  # whoever committed may have been killed before it got to this
        return Finished(committed, already_done=True)
    try:
        counted = work()
        seconds = time.monotonic() - started
        if (committed := output.committed(plan)) is not None:
            output.clean_up()
            return Finished(committed, already_done=True)
        names = _publish(output, plan, extras(counted, seconds) if extras else {})
        manifest = {"files": names, **summary(counted, seconds)}
        first = output.commit(plan, manifest)
        output.clean_up()
        return Finished(manifest, already_done=not first)
    except (FileNotFoundError, RuntimeError):
        # A rival run of the same plan that commits first also cleans up, under our feet.
        if (committed := output.committed(plan)) is None:
            raise
        logger.info("another run of the same plan has committed %s", output.url)
        return Finished(committed, already_done=True)


def number_plan(
    output: Output, plan: Mapping[str, Any], *, redo: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any]:
    """Tell a plan apart from its own committed output where that is to be done anew, by a number under `AGAIN`.

    `redo` is asked about the job manifest of an output of this very plan; without one, the plan stays as it is.
    """
    committed = output.job_manifest()
    before = dict((committed or {}).get("plan", {}))
    number = before.pop(AGAIN, 0)
    if committed is None or before != json.loads(json.dumps(plan)):
        return dict(plan)
    number += bool(redo(committed))
    return {**plan, AGAIN: number} if number else dict(plan)


def _publish(output: Output, plan: Mapping[str, Any], extras: Mapping[str, bytes]) -> list[str]:
    manifests = output.manifests(SHARD_STAGE)
    own = output.make_way(plan)
    files = {f"part-{name}{own}.parquet": manifests[name]["data"] for name in sorted(manifests)}
    output.publish(files)
    for name, content in extras.items():
        storage.write_bytes(storage.join_url(output.url, name), content)
    return list(files)


def work_off(
    output: Output,
    shards: Sequence[AnyShard],
    run: Callable[[Sequence[AnyShard]], Iterable[Mapping[str, Any]]],
    *,
    given_up: Callable[[Mapping[str, Any]], str | None],
    progress: Callable[[Mapping[str, Any]], None],
    max_given_up_fraction: float = 1.0,
) -> dict[str, str]:
    """Run the shards that have no manifest yet; return those that were given up, uncommitted, with the reason.

    Args:
        output: Where their manifests are.
        shards: All of them.
        run: Works on shards, commits each and yields figures that name it (`shard`) as it is done.
        given_up: Figures -> why the shard was given up, or None.
        progress: Called with the figures of every shard that was committed.
        max_given_up_fraction: A larger share, or all, means that it is not the shards; one shard always may be.

    Raises:
        RuntimeError: If too many were given up: a rerun should try them again.
    """
    finished = output.manifests(SHARD_STAGE)
    lost: dict[str, str] = {}
    for figures in run([shard for shard in shards if shard.name not in finished]):
        if reason := given_up(figures):
            lost[figures["shard"]] = reason
            logger.error("shard %s: given up, %s", figures["shard"], reason)
        else:
            progress(figures)
    if lost and (len(lost) > max(1.0, max_given_up_fraction * len(shards)) or len(lost) == len(shards)):
        report = "; ".join(f"{shard}: {reason}" for shard, reason in sorted(lost.items())[:5])
        raise RuntimeError(
            f"the workers gave up {len(lost)} of {len(shards)} shards, so it is not the shards; nothing was "
            f"published, a rerun goes on from the finished ones ({report})"
        )
    return lost


def commit_shard(output: Output, name: str, table: pa.Table, figures: Mapping[str, Any]) -> None:
    """Write a shard's rows and create its manifest; where another attempt's is there, that one stands."""
    commit_written(output, name, write_shard(output, name, table, figures))


def write_shard(output: Output, name: str, table: pa.Table, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Write a shard's rows without a manifest: nobody reads them yet, and a rerun does the shard again.

    Returns:
        The manifest, for `commit_written`.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return {**figures, "data": output.write_data(f"shard-{name}", buffer.getvalue())}


def commit_written(output: Output, name: str, manifest: Mapping[str, Any]) -> None:
    """Create the manifest of a shard that `write_shard` wrote; where another attempt's is there, that one stands."""
    created = output.commit_unit(SHARD_STAGE, name, manifest)
    # The one line of a unit in the log: what went before it is as many lines again, and says no more.
    logger.info("shard %s of %s: %s", name, output.url, "committed" if created else "was there already")


def require_manifests(output: Output, stage: str, units: Iterable[str], seen: Iterable[str]) -> None:
    """Stop if work that was reported done cannot be seen from here, before a part is taken for the whole.

    Raises:
        RuntimeError: If a unit is not among those seen.
    """
    known = set(seen)
    if missing := [unit for unit in units if unit not in known]:
        raise RuntimeError(
            f"{output.url}: {len(missing)} of the {stage} that workers finished cannot be seen from the driver, "
            f"{missing[0]} first: the output has to be storage that all nodes share"
        )


def require_rows(output: Output, url: str, num_rows: int, *, what: str, setting: str) -> None:
    """Stop at an input without a row, and give up the claim, which would keep the rows out that come later.

    Args:
        output: Claimed for the input.
        url: The input.
        num_rows: All rows.
        what: What the rows are.
        setting: What allows none, on the command line.

    Raises:
        RuntimeError: If there is no row: the same command is right later.
    """
    if num_rows:
        return
    if output.job_manifest() is None:
        output.release()
    raise RuntimeError(f"{url}: no row there: run again when its {what} are there, or allow none ({setting}=true)")


def refuse_failures(
    url: str,
    errors: Mapping[str, int],
    num_rows: int,
    *,
    failed: int,
    max_failed_fraction: float,
    what: str,
    setting: str = "scoring.max_failed_fraction",
) -> None:
    """Stop, with the most frequent reasons, before an output with too many failed rows is published.

    Args:
        url: The input.
        errors: Rows by what is wrong with them.
        num_rows: All rows.
        failed: Those that count as failed.
        max_failed_fraction: The largest share of these that is fine.
        what: What is so of the failed rows, as a verb phrase.
        setting: What the share is called on the command line.

    Raises:
        ValueError: If the share is larger.
    """
    fraction = failed / max(1, num_rows)
    if fraction > max_failed_fraction:
        frequent = sorted(errors.items(), key=lambda item: -item[1])[:5]
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in frequent)
        raise ValueError(
            f"{url}: {fraction:.2%} of {num_rows:,} rows {what}, at most {max_failed_fraction:.2%} may "
            f"({setting}); nothing was published. Most frequent: {reasons}"
        )
