"""Time and memory of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path


def time_in_turn(
    tasks: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Return median seconds of each task, after a warm-up.

    The tasks alternate, so that load affects all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Clock:
    """CPU and wall seconds since its creation."""

    def __init__(self) -> None:
        self.start, self.wall_start = time.process_time(), time.perf_counter()

    def cpu(self) -> float:
        return time.process_time() - self.start

    def wall(self) -> float:
        return time.perf_counter() - self.wall_start


def resident_memory() -> float:
    """Return the resident memory of this process, in MiB (Linux)."""
    return _memory("VmRSS")


def peak_memory() -> float:
    """Return the peak resident memory of this process, in MiB (Linux).

    The value of `getrusage` would include that of the parent process.
    """
    return _memory("VmHWM")


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) / 1024
