"""How long and how much: short and sampled in an ordinary run, everything when asked for.

    NETSTACK_RELIABILITY_SECONDS=60   each fuzz and soak runs for so long
    NETSTACK_RELIABILITY_FULL=1       every case instead of a sample
    NETSTACK_RELIABILITY_SEED=7       where the random cases begin
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from random import Random

FULL = os.environ.get("NETSTACK_RELIABILITY_FULL", "") not in ("", "0")
SEED = int(os.environ.get("NETSTACK_RELIABILITY_SEED", "1"))


def seconds(ordinary: float) -> float:
    """Seconds that a fuzz or soak may take."""
    return float(os.environ.get("NETSTACK_RELIABILITY_SECONDS", ordinary))


def rounds(ordinary: float) -> Iterator[Random]:
    """Random generators for one case each, until the time is over; each is named by its seed."""
    end = time.perf_counter() + seconds(ordinary)
    seed = SEED
    while seed == SEED or time.perf_counter() < end:
        random = Random(seed)
        random.name = f"seed {seed}"  # type: ignore[attr-defined]
        yield random
        seed += 1
