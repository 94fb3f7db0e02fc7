"""What a card can do at most: bytes copied and products of large matrices, to hold the engines' figures against.

    python -m tests.benchmarks.gpu_day.ceilings [--tiny]

One JSON object as the last line. Best of some rounds, after a warm-up; without a GPU the same on the CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

SIZE, COPIED_BYTES, ROUNDS = 8192, 4 * 2**30, 10


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time the quickest of some calls."""
    times = []
    for _ in range(ROUNDS + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[3:])


def ceilings(device: torch.device, *, size: int, copied_bytes: int) -> dict[str, object]:
    """Measure copies (bytes read and written) and products in bfloat16 and, where the card has them, in FP8."""
    source = torch.zeros(copied_bytes // 2, dtype=torch.int16, device=device)
    target = torch.empty_like(source)
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "copy_gb_per_second": 2e-9 * copied_bytes / best_seconds(lambda: target.copy_(source), device),
    }
    one, two = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    found["bf16_tflops"] = 2e-12 * size**3 / best_seconds(lambda: one @ two, device)
    if device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 9):
        first, second = one.to(torch.float8_e4m3fn), two.to(torch.float8_e4m3fn).t()
        scale = torch.ones((), device=device)
        product = lambda: torch._scaled_mm(  # noqa: E731
            first, second, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16
        )
        found["fp8_tflops"] = 2e-12 * size**3 / best_seconds(product, device)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, copied = (512, 2**24) if tiny else (SIZE, COPIED_BYTES)
    print(json.dumps(ceilings(device, size=size, copied_bytes=copied)))


if __name__ == "__main__":
    main()
