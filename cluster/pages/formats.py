"""Numbers as people write them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Write seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def format_share(fraction: float) -> str:
    """Write a fraction in per cent, never rounding something to nothing or to all."""
    text = f"{fraction:.1%}"
    if fraction > 0 and text == "0.0%":
        return "<0.1%"
    return ">99.9%" if fraction < 1 and text == "100.0%" else text


def format_count(count: float) -> str:
    """Write a large count shortly: 52.3 M, 1.2 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if abs(count) >= limit:
            return f"{count / limit:.1f}\u00a0{unit}"
    return f"{count:,.0f}"
