"""Send simulated cancellations to the endpoint at a chosen rate and show live figures in the terminal.

Needs `python -m jobs.cancellation_serve` running beside it, and its tokens file. Writes nothing itself.

    python -m jobs.cancellation_serve_demo rate=50 seconds=60
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pydantic import Field

from cancellation.serving.demo.live_figures import show_stream
from cancellation.serving.demo.traffic import Sender, draw_samples, first_token
from cluster.launch import run_job
from cluster.serving.service import secret_path
from cluster.settings import Settings

_CLEAR = "\033[H\033[J"


class ServeDemoJob(Settings):
    """The stream's settings."""

    url: str = "http://127.0.0.1:8000"
    """Address of the endpoint, http://host:port."""

    tokens_file: str = "var/serving/tokens.txt"
    """Its tokens file, of which the first token is used; VERDICTS_TOKENS_FILE goes before it."""

    rate: float = Field(default=20.0, gt=0, le=5000)
    """Requests per second, on average."""

    seconds: float = Field(default=30.0, gt=0)
    """How long to send."""

    markets: tuple[str, ...] = ()
    """Markets to draw from; empty: all that the simulation knows."""

    samples: int = Field(default=300, ge=1)
    """Different events; they are repeated under new ids."""


def _show(screen: str) -> None:
    print(f"{_CLEAR if sys.stdout.isatty() else ''}{screen}\n", flush=True)


def main(job: ServeDemoJob) -> None:
    """Send, show, and fail if nothing was answered."""
    token = first_token(Path(secret_path("VERDICTS_TOKENS_FILE") or job.tokens_file))
    sender = Sender(job.url, token)
    samples = draw_samples(job.samples, markets=job.markets)
    stream = show_stream(sender, samples, rate=job.rate, seconds=job.seconds, show=_show)
    figures = asyncio.run(stream)
    if not figures.statuses[200]:
        found = ", ".join(f"{count} of status {status}" for status, count in sorted(figures.statuses.items()) if status)
        remedy = "give a token of its file with the scope verdict" if found else "is `make serve` running?"
        raise RuntimeError(f"{job.url}: expected answers, found {found or 'none'}; {remedy}")


if __name__ == "__main__":
    run_job(main, ServeDemoJob, defaults=Path(__file__).with_suffix(".toml"), estimate="it runs until it is stopped")
