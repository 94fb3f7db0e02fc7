"""Live figures of a stream of answers: how many, how fast, what they said."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence

from cancellation.events.factors import VERDICTS
from cancellation.serving.demo.traffic import Sample, Sender, Sent, new_ids, send_at_rate

_WINDOW_SECONDS = 5.0


class LiveFigures:
    """Counts answers; latencies and rates are of the last five seconds."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._window: deque[tuple[float, float, int]] = deque()
        self._verdicts: dict[str, Counter[str]] = {}
        self.statuses: Counter[int] = Counter()
        self.sources: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.demo = False
        """Whether a verdict was stamped as a demo's: its penalty rests on simulated or written cases."""

    def add(self, sent: Sent) -> None:
        """Count an answer."""
        self.statuses[sent.status] += 1
        self._window.append((time.perf_counter(), sent.latency_ms, sent.status))
        if sent.status == 200:
            verdict = json.loads(sent.body)
            self.sources[verdict["source"]] += 1
            self.actions[verdict["action"]] += 1
            self.demo |= "+demo" in verdict.get("policy_version", "")
            self._verdicts.setdefault(sent.market, Counter())[verdict["verdict"]] += 1

    def render(self) -> str:
        """Write a screen of figures."""
        now = time.perf_counter()
        while self._window and self._window[0][0] < now - _WINDOW_SECONDS:
            self._window.popleft()
        answered = sorted(latency for _, latency, status in self._window if status == 200)
        seconds = min(_WINDOW_SECONDS, now - self._started) or 1.0
        failed = sum(count for status, count in self.statuses.items() if status not in (200, 429))
        lines = [
            f"{now - self._started:6.0f} s   {len(self._window) / seconds:6.1f} requests/s   "
            f"p50 {_quantile(answered, 0.5):6.1f} ms   p99 {_quantile(answered, 0.99):6.1f} ms",
            f"answered {self.statuses[200]}   shed {self.statuses[429]}   failed {failed}   "
            f"by model {self.sources['model']}, rules {self.sources['rules']}, fallback {self.sources['fallback']}",
            "   ".join(f"{name} {self.actions[name]}" for name in ("penalty", "investigate", "none")),
            "market   " + "".join(f"{name:>14}" for name in VERDICTS),
        ]
        for market, counts in sorted(self._verdicts.items()):
            lines.append(f"{market:<9}" + "".join(f"{counts[name]:>14}" for name in VERDICTS))
        if self.demo:
            lines.append("DEMO: penalties rest on proof that nobody lived (demo = true in the policy)")
        return "\n".join(lines)


async def show_stream(
    sender: Sender, samples: Sequence[Sample], *, rate: float, seconds: float, show: Callable[[str], None]
) -> LiveFigures:
    """Send events at a rate and show figures every second; give them at the end."""
    figures = LiveFigures()
    run = f"demo-{uuid.uuid4().hex[:8]}"
    sending = asyncio.create_task(
        send_at_rate(sender, samples, rate=rate, seconds=seconds, ids=new_ids(run), on_answer=figures.add)
    )
    while not sending.done():
        await asyncio.wait([sending], timeout=1.0)
        show(figures.render())
    sender.close()
    await sending
    return figures


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
