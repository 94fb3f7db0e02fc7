"""What a day of labels costs on GPUs of one's own and at a hosted model, and from what volume on the GPUs are cheaper.

Arithmetic on measured rates and on prices that people put in; nothing is asked of anybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from cluster.settings import Settings


class Day(Settings):
    """How much there is to label, and what a pair is made of."""

    pairs: int = Field(default=10_000_000, ge=1)
    """Pairs a day that a model has to read: those whose labels are known already cost nothing."""

    window_hours: float = Field(default=6.0, gt=0)
    """Hours in which the day has to be done."""

    guidelines_tokens: int = Field(default=384, ge=0)
    product_tokens: int = Field(default=250, ge=0)
    query_tokens: int = Field(default=20, ge=0)
    answer_tokens: int = Field(default=1, ge=1)

    pairs_per_product: float = Field(default=10.0, ge=1)
    """Pairs that share a product, and with it the beginning of their prompts."""


class OwnGpu(Settings):
    """A kind of GPU that the scoring job runs on."""

    name: str
    pairs_per_second: float = Field(gt=0)
    """Measured, of one GPU, with prompts like the day's; shared beginnings are in it."""

    usd_per_hour: float = Field(gt=0)
    wait_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of its time that the engine waits for shards, as every run's report says."""

    start_minutes: float = Field(default=10.0, ge=0)
    """Paid minutes of each GPU before its first pair: machine, image, weights."""

    fixed_usd_per_day: float = Field(default=15.0, ge=0)
    """What is paid whatever the volume: head node, storage, registry."""

    def usd_per_pair(self) -> float:
        """Price of one pair's share of a GPU."""
        return self.usd_per_hour / 3600 / (self.pairs_per_second * (1 - self.wait_fraction))

    def gpu_hours(self, day: Day) -> float:
        """Hours of GPUs at work, starts left out."""
        return day.pairs / (self.pairs_per_second * (1 - self.wait_fraction)) / 3600

    def gpus(self, day: Day) -> int:
        """GPUs that have the day done within its window, their start included.

        Raises:
            ValueError: If the window ends before a GPU has started.
        """
        working = day.window_hours - self.start_minutes / 60
        if working <= 0:
            raise ValueError(
                f"day.window_hours={day.window_hours:g}: {self.name} takes {self.start_minutes:g} minutes to start; "
                "give the day more time"
            )
        return math.ceil(self.gpu_hours(day) / working)

    def usd_per_day(self, day: Day) -> float:
        """Work, starts and what is fixed."""
        starts = self.gpus(day) * self.start_minutes / 60 * self.usd_per_hour
        return day.pairs * self.usd_per_pair() + starts + self.fixed_usd_per_day


class HostedModel(Settings):
    """A model behind somebody else's interface, a request per pair."""

    name: str
    input_usd: float = Field(ge=0)
    """USD per million tokens of prompts."""

    cached_input_usd: float | None = Field(default=None, ge=0)
    """USD per million tokens that an earlier prompt began with too; null: no discount."""

    cached_from_tokens: int = Field(default=1024, ge=0)
    """Shortest common beginning that gets the discount."""

    output_usd: float = Field(ge=0)
    """USD per million tokens of answers."""

    def cached_tokens(self, day: Day) -> float:
        """Tokens of a pair's prompt, on average, that get the discount."""
        with_product = day.guidelines_tokens + day.product_tokens
        repeated = 1 - 1 / day.pairs_per_product
        if self.cached_input_usd is None or with_product < self.cached_from_tokens:
            return 0.0
        first = day.guidelines_tokens if day.guidelines_tokens >= self.cached_from_tokens else 0
        return repeated * with_product + (1 - repeated) * first

    def usd_per_pair(self, day: Day) -> float:
        """Price of one pair's tokens."""
        prompt = day.guidelines_tokens + day.product_tokens + day.query_tokens
        cached = self.cached_tokens(day)
        cached_usd = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        return (
            (prompt - cached) * self.input_usd + cached * cached_usd + day.answer_tokens * self.output_usd
        ) / 1e6  # fmt: skip


def break_even_pairs(own: OwnGpu, hosted: HostedModel, day: Day) -> float | None:
    """Give the pairs a day above which own GPUs are cheaper, at least one GPU started; None: at no volume."""
    saved = hosted.usd_per_pair(day) - own.usd_per_pair()
    if saved <= 0:
        return None
    return (own.fixed_usd_per_day + own.start_minutes / 60 * own.usd_per_hour) / saved


def cost_lines(day: Day, own: Sequence[OwnGpu], hosted: Sequence[HostedModel]) -> list[str]:
    """Write the comparison as lines for a terminal.

    Raises:
        ValueError: If there is nothing to compare, or a day cannot be done within its window.
    """
    if not own or not hosted:
        raise ValueError("own, hosted: expected at least one of each; name them in the settings file")
    width = max(len(kind.name) for kind in (*own, *hosted))
    lines = [
        f"{day.pairs:,} pairs a day, {day.guidelines_tokens} + {day.product_tokens} + {day.query_tokens} tokens each, "
        f"{day.pairs_per_product:g} pairs per product",
        "",
        f"{'own GPU':<{width}}  pairs/s   $/hour  GPU hours  GPUs in {day.window_hours:g} h  $/million pairs     $/day",
    ]
    for gpu in own:
        lines.append(
            f"{gpu.name:<{width}} {gpu.pairs_per_second:>8,.0f} {gpu.usd_per_hour:>8.2f} {gpu.gpu_hours(day):>10.1f} "
            f"{gpu.gpus(day):>12} {gpu.usd_per_day(day) * 1e6 / day.pairs:>16.2f} {gpu.usd_per_day(day):>9,.2f}"
        )
    lines += ["", f"{'hosted model':<{width}}  tokens discounted  $/million pairs       $/day  own GPUs pay from"]
    for model in hosted:
        usd = model.usd_per_pair(day)
        volumes = [volume for gpu in own if (volume := break_even_pairs(gpu, model, day)) is not None]
        pays = f"{min(volumes):,.0f} pairs a day" if volumes else "no volume"
        lines.append(
            f"{model.name:<{width}} {model.cached_tokens(day):>18.0f} {usd * 1e6:>16.2f} {usd * day.pairs:>11,.2f}"
            f"  {pays}"
        )
    return lines
