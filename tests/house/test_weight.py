"""What an embedded engine imports: a phone pays for each module in memory and in time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.source import ROOT

HEAVY = {
    "asyncio": "3.5 MiB and 20 ms",
    "ssl": "part of asyncio; for encrypted upstreams only",
    "logging": "events are how an engine speaks",
    "dataclasses": "1.4 MiB and 10 ms; see netstack/core/record.py",
    "inspect": "what makes dataclasses heavy",
    "hashlib": "0.6 MiB of OpenSSL; see netstack/runtime/entropy.py",
    "ipaddress": "0.5 MiB; see netstack/core/address.py",
    "json": "for files and events that are written",
    "pathlib": "for command lines",
    "traceback": "for defects",
    "dns": "6 MiB; see netstack/dns/message.py",
}
"""Modules that must stay out of an engine that needs none of them, and why."""

ENGINE = """
import sys, threading
from netstack.controller import PacketCaptureController
from netstack.link.queue import PacketQueueTunnel

ready = threading.Event()
controller = PacketCaptureController()
controller.subscribe(lambda event: getattr(event, "state", "") in ("running", "failed") and ready.set())
controller.start(lambda config, stats, emit, runtime: PacketQueueTunnel(
    runtime.codec, config.tunnel.mtu, lambda packets: None, stats=stats, emit=emit))
assert ready.wait(10)
assert controller.state == "running", controller.state
loaded = sorted(sys.modules)
controller.stop()
print(*loaded)
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules of a process in which an engine runs, without what a developer's environment adds."""
    import importlib.util

    paths = [str(ROOT)]
    backend = importlib.util.find_spec("_cffi_backend")
    if backend is not None and backend.origin is not None:
        paths.append(backend.origin.rpartition("/")[0])
    code = f"import sys\nsys.path[:0] = {paths!r}\n{ENGINE}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("name", HEAVY)
def test_an_embedded_engine_does_without(loaded: set[str], name: str) -> None:
    assert name not in loaded, HEAVY[name]


def test_the_engine_was_there(loaded: set[str]) -> None:
    assert {"netstack.engine", "netstack.runtime.driver", "netstack.upstream.proxy"} <= loaded
