"""How busy the GPUs of this process are, as NVIDIA's driver says; nothing where there is no driver or no GPU."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
BUSY, MEMORY, WAITING = "gpu_busy_fraction", "gpu_memory_fraction", "engine_wait_fraction"
GAUGES = {
    BUSY: ("Share of the last second in which a kernel ran on a GPU of this actor.", ("pool", "gpu")),
    MEMORY: ("Share of a GPU's memory that is taken, by whomever.", ("pool", "gpu")),
    WAITING: ("Share of the time since its last shard in which this actor's engine waited for the next.", ("pool",)),
}
"""Ray's metrics of every actor that has an engine or a GPU: description and tags, to which Ray adds `WorkerId` and
`NodeAddress`; it exports them with `ray_` before the name. `cluster/grafana/gpus.json` shows them."""


def gauge(name: str) -> Gauge | None:
    """Open one of the gauges; None in a process without Ray, which has nobody to tell."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util.metrics import Gauge

    description, tags = GAUGES[name]
    return Gauge(name, description, tags)


class GpuMeter:
    """Samples in a thread, as long as its process lives, what share of the time a kernel ran on the process's GPUs.

    Each sample goes to Ray's metrics; `take` gives the mean for a run's own figures.
    """

    def __init__(self, nvml: Any, devices: dict[str, Any], *, pool: str) -> None:
        self._nvml, self._devices, self._pool = nvml, devices, pool
        self._lock = threading.Lock()
        self._busy_seconds = self._seconds = 0.0
        threading.Thread(target=self._watch, name="gpu-meter", daemon=True).start()

    @classmethod
    def start(cls, pool: str) -> GpuMeter | None:
        """Begin to sample the GPUs that Ray gave to this process; None if it has none or nobody can be asked.

        `pool` says what the process does, for people who look at the metrics.
        """
        if not (names := [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]):
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            return cls(pynvml, {name.strip(): _device(pynvml, name.strip()) for name in names}, pool=pool)
        except Exception as error:  # a figure that is missing must not end a day of labels
            logger.info("GPU utilisation is not measured: %s", type(error).__name__)
            return None

    def take(self) -> tuple[float, float]:
        """Give busy seconds and seconds since this was last called, means over the GPUs; both to the next second."""
        with self._lock:
            taken = self._busy_seconds, self._seconds
            self._busy_seconds = self._seconds = 0.0
        return taken

    def _watch(self) -> None:
        busy, memory = gauge(BUSY), gauge(MEMORY)
        before = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            try:
                shares = [self._sample(name, device, busy, memory) for name, device in self._devices.items()]
            except Exception as error:
                logger.info("GPU utilisation is no longer measured: %s", type(error).__name__)
                return
            now = time.monotonic()
            with self._lock:
                self._seconds += now - before
                self._busy_seconds += (now - before) * sum(shares) / len(shares)
            before = now

    def _sample(self, name: str, device: Any, busy: Gauge | None, memory: Gauge | None) -> float:
        share = self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
        if busy is not None and memory is not None:
            taken = self._nvml.nvmlDeviceGetMemoryInfo(device)
            busy.set(share, {"pool": self._pool, "gpu": name})
            memory.set(taken.used / taken.total, {"pool": self._pool, "gpu": name})
        return share


def _device(nvml: Any, name: str) -> Any:
    """A device by its number or, as in containers and on parts of a card, by its identity."""
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
