"""Memory and start-up of an embedded engine: what a phone pays before the first packet and for each flow.

Responsible for: private dirty memory from smaps_rollup, wall time of imports and of the first answer.
Refuses to know: devices; the engine is fed from a packet queue, as on iOS.

Every figure comes from a process of its own, because memory and imports do not come back. As a phone would, it runs
without the `site` module's directories (``-I``): those of a developer's environment cost milliseconds of their own.
Figures are printed as text, since `json` would be counted too.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# The engine's gateway answers an echo request: that is the first packet through everything.
_EMBEDDED = """
import sys, time
begin = time.perf_counter()
sys.path[:0] = {paths!r}
from netstack.controller import PacketCaptureController
from netstack.config import Config, DnsConfig, PolicyConfig
from netstack.link.queue import PacketQueueTunnel
imported = time.perf_counter()
import threading
answered = threading.Event()
tunnels = []
def make_tunnel(config, stats, emit, runtime):
    tunnels.append(PacketQueueTunnel(runtime.codec, config.tunnel.mtu, lambda packets: answered.set(), stats=stats,
                                     emit=emit, delay=0.0))
    return tunnels[0]
ready = threading.Event()
failed = []
controller = PacketCaptureController(Config(dns=DnsConfig(servers=("127.0.0.1:5354",))))
def told(event):
    state = getattr(event, "state", "")
    if state in ("running", "failed"):
        ready.set()
controller.subscribe(told)
controller.start(make_tunnel)
ready.wait(10)
running = time.perf_counter()
tunnels[0].push([bytes.fromhex({echo!r})])
assert answered.wait(10), "no answer"
first = time.perf_counter()
busy = time.process_time()
time.sleep(0.3)
figures = dict(import_ms=(imported - begin) * 1e3, running_ms=(running - begin) * 1e3, first_ms=(first - begin) * 1e3,
               cpu_ms=busy * 1e3)
for line in open("/proc/self/smaps_rollup"):
    if line.startswith("Private_Dirty:"):
        figures["idle_mib"] = int(line.split()[1]) / 1024
figures["modules"] = len(sys.modules)
print(figures, flush=True)
controller.stop()
"""

_INTERPRETER = """
for line in open("/proc/self/smaps_rollup"):
    if line.startswith("Private_Dirty:"):
        print(dict(idle_mib=int(line.split()[1]) / 1024), flush=True)
"""


def private_dirty_mib(pid: int) -> float:
    """What only this process holds and has written: the memory that a system counts against it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no Private_Dirty in smaps_rollup")


def _echo_request() -> str:
    from netstack.testing.world import World

    return World().echo_packet(destination=_gateway()).hex()


def _gateway() -> Any:
    from netstack.config import Config
    from netstack.core.flow import Endpoint

    return Endpoint.of(Config().tunnel.address, 0)


def _in_process(code: str) -> tuple[dict[str, float], float]:
    """What the code printed, and the whole process's wall milliseconds."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    wall = (time.perf_counter() - begin) * 1e3
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    found: dict[str, float] = ast.literal_eval(done.stdout)
    return found, wall


def measure(*, rounds: int) -> dict[str, float]:
    """Medians: milliseconds since the process began to run Python, MiB of private dirty memory."""
    import importlib.util

    paths = [str(ROOT)]
    cffi = importlib.util.find_spec("_cffi_backend")  # what the native codec needs, and nothing else of a developer's
    if cffi is not None and cffi.origin is not None:
        paths.append(os.path.dirname(cffi.origin))
    code = _EMBEDDED.format(paths=paths, echo=_echo_request())
    _in_process(code)  # compiles what was never compiled
    runs = [_in_process(code)[0] for _ in range(rounds)]
    bare = [_in_process(_INTERPRETER) for _ in range(rounds)]
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    found["interpreter_mib"] = statistics.median(run["idle_mib"] for run, _ in bare)
    found["interpreter_ms"] = statistics.median(wall for _, wall in bare)
    return found
