"""Repeating a piece of work and taking the median.

Responsible for: the clock of every benchmark that runs in this process. It counts the thread's own processor time,
user and system: on a machine with other work, wall time measures that work.
Refuses to know: what is measured.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable


def median_ns(work: Callable[[], int], runs: int) -> float:
    """Median nanoseconds of processor time for each thing; `work` returns how many it did.

    No garbage is collected within a run.
    """
    figures = []
    for _ in range(runs):
        gc.collect()
        gc.disable()
        try:
            begin = time.thread_time_ns()
            done = work()
            figures.append((time.thread_time_ns() - begin) / done)
        finally:
            gc.enable()
    return statistics.median(figures)
