"""Nothing in; every figure that waits for a GPU, in one JSON, out: `python -m tests.benchmarks.gpu_day`."""
