"""How busy the GPUs of this process are, as NVIDIA's driver says; nothing where there is no driver or no GPU."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0


class GpuMeter:
    """Samples in a thread, as long as its process lives, what share of the time a kernel ran on the process's GPUs."""

    def __init__(self, nvml: Any, devices: list[Any]) -> None:
        self._nvml, self._devices = nvml, devices
        self._lock = threading.Lock()
        self._busy_seconds = self._seconds = 0.0
        threading.Thread(target=self._watch, name="gpu-meter", daemon=True).start()

    @classmethod
    def start(cls) -> GpuMeter | None:
        """Begin to sample the GPUs that Ray gave to this process; None if it has none or nobody can be asked.

        Needs `nvidia-ml-py`, which vLLM brings along.
        """
        if not (names := [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]):
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            return cls(pynvml, [_device(pynvml, name.strip()) for name in names])
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
        before = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            try:
                shares = [self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100 for device in self._devices]
            except Exception as error:
                logger.info("GPU utilisation is no longer measured: %s", type(error).__name__)
                return
            now = time.monotonic()
            with self._lock:
                self._seconds += now - before
                self._busy_seconds += (now - before) * sum(shares) / len(shares)
            before = now


def _device(nvml: Any, name: str) -> Any:
    """A device by its number or, as in containers and on parts of a card, by its identity."""
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
