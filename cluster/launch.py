"""The whole command line of a job: settings in, one line of error out."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from cluster.logs import log_as_driver
from cluster.places import check_places, require_places
from cluster.settings import Settings, describe_settings, load_settings

S = TypeVar("S", bound=Settings)
_GPUS = ("gpus_per_actor", "num_gpus", "use_gpu")
_ESTIMATE = "estimate=true"
_QUIET = ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")


class NotFineError(Exception):
    """What a job was to do is done, but what came of it does not look fine, and another try would say the same."""


Estimate = Callable[[Callable[[S], None], S], None] | str
"""Prints what `main` would take under some settings and writes nothing; or says why a job has no such estimate."""

_NOTHING_TO_TIME = "no model's work is in it"


def run_job(
    main: Callable[[S], None],
    cls: type[S],
    *,
    defaults: Path | None = None,
    estimate: Estimate[S] = _NOTHING_TO_TIME,
    arguments: Sequence[str] | None = None,
) -> None:
    """Read settings, run `main`, and leave with a status that a scheduler understands.

    `--help` lists the settings; `--dry-run` prints them resolved, looks at the places that they name and says what the
    job would read, write and run on, without Ray; `--estimate` says what the job would take, from a part of its work
    that is done and not kept, or why that cannot be said; `--NAME` is short for `NAME=true`.
    Status 0: done; 1: an outside system failed, run it again; 2: input or settings are wrong; 3: done, but what came of
    it does not look fine; 130 and 143: stopped by Ctrl-C or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    log_as_driver()
    for variable in _QUIET:
        os.environ.setdefault(variable, "true")  # before any library that would report home is imported
    if {"--help", "-h"} & set(arguments):
        _show(_help(main, cls, defaults, estimate))
        return
    dry_run = "--dry-run" in arguments
    overrides = [_expand_flag(argument) for argument in arguments if argument != "--dry-run"]
    run: Callable[[S], None] = main
    if "estimate" not in cls.model_fields and _ESTIMATE in overrides:
        overrides = [argument for argument in overrides if argument != _ESTIMATE]
        run = partial(_estimate, estimate, main)
    terminated = threading.Event()
    try:
        job = load_settings(cls, overrides, defaults=defaults)
        if dry_run:
            _dry_run(job)
            return
        with _exit_at_sigterm(terminated):
            require_places(job)
            if getattr(job, "estimate", False):  # a setting of the job's own
                check_places(job)
            run(job)
    except ValueError as error:
        _leave(error, status=2)
    except (RuntimeError, OSError) as error:
        _leave(error, status=1)
    except NotFineError as error:
        _leave(error, status=3)
    except (KeyboardInterrupt, SystemExit) as left:
        # No job leaves by itself: this is our handler, or one of Ray or Ray Train, who would end with status 0. Through
        # a call of Ray's an exit comes out as an interrupt, hence the event.
        by_term = terminated.is_set() or getattr(left, "code", None) == signal.SIGTERM
        _leave_stopped(signal.SIGTERM if by_term else signal.SIGINT)


def _show(text: str) -> None:
    """Print text of which a reader such as `head` may have seen enough before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end


def _estimate(estimate: Estimate[S], main: Callable[[S], None], job: S) -> None:
    if isinstance(estimate, str):
        raise ValueError(f"--estimate: this job has none ({estimate}); --dry-run says what it would read and write")
    check_places(job)
    estimate(main, job)


def _dry_run(job: Settings) -> None:
    """Print the settings to standard output, which stays JSON, and what they come to beside it."""
    _show(job.model_dump_json(indent=2))
    for line in [*check_places(job), *_asked_of_ray(job)]:
        print(f"dry run: {line}", file=sys.stderr, flush=True)


def _asked_of_ray(job: Settings) -> list[str]:
    """Say which Ray a job would use and what its actors and workers would ask for; nothing of a job without Ray."""
    session = getattr(job, "session", None)
    if session is None:
        return []
    asked = [f"{name}={value}" for name, value in _leaves(job) if name.endswith(_GPUS) and value]
    address = session.address or os.environ.get("RAY_ADDRESS")
    where = f"the Ray at {address}" if address else "a Ray of this machine, for this run alone"
    return [f"runs on {where}, {'with ' + ', '.join(asked) if asked else 'without a GPU'}"]


def _leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings:
        if isinstance(value, Settings):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _expand_flag(argument: str) -> str:
    if argument.startswith("--") and "=" not in argument:
        return f"{argument[2:].replace('-', '_')}=true"
    return argument


def _leave(error: Exception, *, status: int) -> None:
    """Print the sentence, not the stack: LOG_LEVEL=debug shows where it came from."""
    logging.getLogger(__name__).debug("job failed", exc_info=error)
    cause = getattr(error, "cause", None)  # Ray wraps what a worker raised
    kind = f"{type(error).__name__}: " if isinstance(error, OSError) else ""
    print(f"error: {kind}{cause or error}", file=sys.stderr, flush=True)
    sys.exit(status)


@contextmanager
def _exit_at_sigterm(terminated: threading.Event) -> Iterator[None]:
    """End like Ctrl-C does, by an exception, so that whatever was started is ended too; but once, and note it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        terminated.set()
        sys.exit(number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_stopped(number: signal.Signals) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    print(
        f"stopped by {name} before it was done: run it again, it goes on from what is finished",
        file=sys.stderr,
        flush=True,
    )
    sys.exit(128 + number)


def _help(main: Callable[[S], None], cls: type[Settings], defaults: Path | None, estimate: Estimate[S]) -> str:
    module = sys.modules[main.__module__]
    rows = [f"  {name} = {default}\n      {text}".rstrip() for name, default, text in describe_settings(cls)]
    source = f"Defaults are read from {defaults.name}.\n" if defaults and defaults.exists() else ""
    flags = ["--dry-run: settings, places and Ray are looked at, nothing is done"]
    if "estimate" in cls.model_fields or not isinstance(estimate, str):
        flags.append("--estimate: what it would take is printed, nothing is written")
    source += "".join(f"  {flag}\n" for flag in flags)
    return f"{(module.__doc__ or '').strip()}\n\nSettings ([file.toml] [name=value …]):\n{source}" + "\n".join(rows)
