"""A stand-in for NVIDIA's driver library: two cards, a quarter and three quarters busy, on a machine without any."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int code) { return "stand-in"; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index > 1) return 2; /* NVML_ERROR_INVALID_ARGUMENT */
  *device = (void *)(unsigned long)(index + 1);
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
  rates->gpu = (unsigned long)device == 1 ? 25 : 75;
  rates->memory = 0;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
  memory->total = 80ULL << 30;
  memory->used = (unsigned long)device == 1 ? 8ULL << 30 : 72ULL << 30;
  memory->free = memory->total - memory->used;
  return 0;
}
"""


def build_driver(folder: Path) -> Path:
    """Compile the library and give the folder for a process's LD_LIBRARY_PATH; skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, which the stand-in for NVIDIA's driver needs")
    source = folder / "nvml.c"
    source.write_text(_SOURCE)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}", "-o", library, source], check=True
    )
    return folder
