"""The load of the serving benchmark, in a process of its own: one JSON line of figures to standard output.

python -m tests.benchmarks.serving.load URL TOKENS_FILE RATE SECONDS RUN [SEED]
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from cancellation.serving.demo.traffic import Sender, Sent, draw_samples, first_token, new_ids, send_at_rate

SAMPLES = 400
MARKETS = ("BR", "ID", "MY", "PH", "SG", "TH", "TW", "VN")
"""Those where the model answers under the shipped policy."""


def load(url: str, tokens: Path, *, rate: float, seconds: float, run: str, seed: int = 0) -> dict[str, Any]:
    """Send for a time; give latencies (ms) by status."""
    samples, answers = draw_samples(SAMPLES, seed=3, markets=MARKETS), []
    gc.freeze()
    sender = Sender(url, first_token(tokens))

    async def go() -> None:
        await send_at_rate(
            sender, samples, rate=rate, seconds=seconds, ids=new_ids(run), on_answer=answers.append, seed=seed
        )
        sender.close()

    asyncio.run(go())
    return figures(answers, seconds)


def figures(answers: list[Sent], seconds: float) -> dict[str, Any]:
    """Summarise answers."""
    by_status = Counter(answer.status for answer in answers)
    given = sorted(answer.latency_ms for answer in answers if answer.status == 200)
    refused = sorted(answer.latency_ms for answer in answers if answer.status == 429)
    sources = Counter(json.loads(answer.body)["source"] for answer in answers if answer.status == 200)
    start = min(answer.due_at for answer in answers)
    bad = [answer.due_at - start for answer in answers if answer.status != 200 or answer.latency_ms > 150]
    return {
        "sent": len(answers),
        "answered_per_second": round(by_status[200] / seconds, 1),
        "statuses": {str(status): count for status, count in sorted(by_status.items())},
        "sources": dict(sources),
        "p50_ms": quantile(given, 0.5),
        "p99_ms": quantile(given, 0.99),
        "max_ms": quantile(given, 1.0),
        "refused_p50_ms": quantile(refused, 0.5),
        "refused_p99_ms": quantile(refused, 0.99),
        "last_bad_second": round(max(bad), 2) if bad else 0.0,
    }


def quantile(values: list[float], share: float) -> float | None:
    """Give a quantile of sorted values; None of nothing."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 1) if values else None


if __name__ == "__main__":
    url, tokens, rate, seconds, run, *rest = sys.argv[1:]
    result = load(
        url, Path(tokens), rate=float(rate), seconds=float(seconds), run=run, seed=int(rest[0]) if rest else 0
    )
    print(json.dumps(result))
