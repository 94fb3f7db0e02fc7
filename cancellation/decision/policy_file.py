"""A policy written as its TOML file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cancellation.decision.policy import END, MarketPolicy, Policy

_HEADER = """\
# What the model's scores lead to, market by market. Written by `python -m jobs.cancellation_calibrate`, which keeps
# state, classes and language of the file it starts from; those are people's decisions and may be edited.
# A penalty threshold stands here only with the evidence that precision above it is at least min_precision, on the
# labelled events that calibration was given: of the policy that ships, written ones.
# A verdict says induced above the score of that name alone: at it, that share of such verdicts was right there.
"""
_DEMO = """
# For trying things out: the evidence below may be of simulated or written cases, which prove nothing of real
# sellers. Every verdict's policy version then says +demo. Take this line out, and no penalty rests on such evidence."""


def render_policy(policy: Policy) -> str:
    """Write a policy as TOML that `parse_policy` reads back equal."""
    lines = [_HEADER, f"version = {_value(policy.version)}", f"min_precision = {_value(policy.min_precision)}"]
    if policy.demo:
        lines += [_DEMO, "demo = true"]
    lines += _market("default", policy.default)
    for code in sorted(policy.markets):
        lines += _market(f"markets.{code}", policy.markets[code])
    if not policy.markets:
        lines += ["", "[markets]"]
    return "\n".join([*lines, "", END]) + "\n"


def _market(name: str, market: MarketPolicy) -> Iterator[str]:
    fields = asdict(market)
    evidence = fields.pop("evidence")
    yield from ("", f"[{name}]", *_lines(fields))
    if evidence is not None:
        yield from ("", f"[{name}.evidence]", *_lines(evidence))


def _lines(fields: dict[str, Any]) -> Iterator[str]:
    return (f"{key} = {_value(value)}" for key, value in fields.items() if value not in (None, (), ""))


def _value(value: Any) -> str:
    # JSON's strings, numbers and lists of strings are TOML's too.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
