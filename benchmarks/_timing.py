"""Timing of the benchmarks: tasks alternate, so that load affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def time_in_turn(
    tasks: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Return median seconds of each task; the tasks alternate, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
