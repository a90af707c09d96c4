"""The rows: each check under its name, what it is given, and how it says no.

Responsible for: `check` (the decorator), `Case` (addresses, connections and the servers' record for one check),
`Failure` and `require`.
Refuses to know: how checks are run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import packets as p
from .app import Failure, TcpApp, UdpApp, require
from .bench import Bench
from .upstream import ECHO

__all__ = ["CHECKS", "Case", "Check", "Failure", "check", "require"]


@dataclass(frozen=True, slots=True)
class Check:
    """One row. `alone`: not beside others, as it measures time, memory or CPU, or is a flood."""

    name: str
    source: str
    run: Callable[[Case], None]
    group: str
    alone: bool
    order: int


CHECKS: dict[str, Check] = {}


def check(
    source: str, *, group: str = "wire", alone: bool = False, order: int = 0
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a check under its function's name (DNS rows without the ``dns_`` that keeps them apart)."""

    def register(run: Callable[[Case], None]) -> Callable[[Case], None]:
        CHECKS[run.__name__] = Check(run.__name__, source, run, group, alone, order)
        return run

    return register


class Case:
    """What a check works with. Every connection has a server address of its own unless told otherwise."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.wire = bench, bench.wire
        self._addresses: dict[bool, bytes] = {}

    @property
    def kernel(self) -> bool:
        return self.bench.kernel

    def client(self, v6: bool = False, *, fresh: bool = False) -> bytes:
        if fresh or v6 not in self._addresses:
            made = self.bench.client(v6)
            self.wire.address(made)
            if fresh:
                return made
            self._addresses[v6] = made
        return self._addresses[v6]

    def destination(self, v6: bool = False) -> bytes:
        return self.bench.destination(v6)

    def tcp(
        self, port: int = ECHO, *, v6: bool = False, dst: bytes | None = None, src: bytes | None = None, **options: Any
    ) -> TcpApp:
        """A client that has sent nothing yet."""
        return TcpApp(self.wire, src or self.client(v6), dst or self.destination(v6), port, **options)

    def connect(self, port: int = ECHO, **options: Any) -> TcpApp:
        app = self.tcp(port, **options)
        app.connect()
        return app

    def udp(
        self,
        port: int,
        *,
        v6: bool = False,
        dst: bytes | None = None,
        src: bytes | None = None,
        sport: int | None = None,
    ) -> UdpApp:
        return UdpApp(self.wire, src or self.client(v6), dst or self.destination(v6), port, sport)

    def variants(self) -> Iterator[dict[str, Any]]:
        """IPv4 with every option, IPv4 with none but MSS, IPv6 with every option."""
        yield {}
        yield {"ts": False, "sack": False, "wscale": None}
        yield {"v6": True}

    def stray(
        self,
        timeout: float,
        wanted: Callable[[p.Packet], bool] = lambda _: True,
        *,
        v6: bool = False,
        address: bytes | None = None,
    ) -> p.Packet | None:
        """The next packet to the check's address that belongs to no flow (ICMP, above all)."""
        inbox, end = self.wire.address(address or self.client(v6)), time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            packet = inbox.get(left)
            if packet is not None and wanted(packet):
                return packet
        return None

    def connections(self, app: TcpApp | bytes) -> list[dict[str, Any]]:
        found = self.bench.control(do="state", address=app if isinstance(app, bytes) else app.dst)
        return list(found)

    def datagrams(self, dst: bytes) -> list[tuple[int, bytes]]:
        return [(port, bytes.fromhex(data)) for port, data in self.bench.control(do="datagrams", address=dst)]

    def puppet(self, app: TcpApp, do: str, **order: Any) -> None:
        """Make the server's side of this connection do something. It exists once the engine has dialled."""
        end = time.monotonic() + 2
        while not self.bench.control(do=do, address=app.dst, **order):
            require(time.monotonic() < end, "the server never saw the connection")
            time.sleep(0.01)

    def upstream(
        self, app: TcpApp | bytes, wanted: Callable[[dict[str, Any]], bool], what: str, timeout: float = 3.0
    ) -> dict[str, Any]:
        """Wait until the server's record of the newest connection satisfies `wanted`."""
        end, state = time.monotonic() + timeout, None
        while True:
            found = self.connections(app)
            state = found[-1] if found else None
            if state is not None and wanted(state):
                return state
            if time.monotonic() > end:
                raise Failure(f"the server did not see {what} (it saw {_brief(state)})")
            time.sleep(0.02)

    def serving(self, within: float = 3.0, *, v6: bool = False) -> float:
        """A fresh connection echoes within so many seconds (SYNs repeated as a stack does). The seconds it took."""
        start = time.monotonic()
        app = self.tcp(v6=v6, src=self.client(v6, fresh=True))
        app.connect(timeout=within, repeat=1.0)
        app.write(b"still there?")
        require(app.read(12, timeout=within) == b"still there?", "no echo on a fresh connection")
        app.reset()
        return time.monotonic() - start

    def settle(self, growth: int, before: int) -> None:
        """The engine rests (no busy loop) and has not grown by more than `growth` octets over `before`."""
        if self.kernel:
            return
        require(self.bench.alive(), "the engine is dead")
        grown = self.bench.resident() - before
        require(grown <= growth, f"RSS grew by {grown / 1048576:.1f} MiB, over {growth / 1048576:.0f}")
        used, start = self.bench.cpu_seconds(), time.monotonic()
        time.sleep(1.0)
        busy = (self.bench.cpu_seconds() - used) / (time.monotonic() - start)
        require(busy < 0.35, f"the idle engine uses {busy:.0%} of a core")


def _brief(state: dict[str, Any] | None) -> str:
    if state is None:
        return "no connection"
    return ", ".join(f"{key}={state[key]}" for key in ("count", "eof", "reset", "closed"))
