"""Drives an `Engine` on the wall clock: one thread, one loop.

Responsible for: putting codec, dialer, resolver and engine together; telling the engine of readiness and time; one
flush for everything that happened together; commands from other threads; ending.
Refuses to know: packets, policy, which platform it is on.

Nothing here runs while nothing happens: the loop sleeps until a descriptor is ready or the engine's next deadline.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from netstack import codec as codecs
from netstack.codec.base import PacketCodec
from netstack.config import Config
from netstack.core.errors import NetstackError, TunnelClosed
from netstack.core.events import EngineError, EventSink
from netstack.core.network import Network
from netstack.core.ports import Dialer, Entropy, FlowLookup, FlowOwner, Resolver, Tunnel
from netstack.core.stats import Stats
from netstack.runtime.changes import Changes
from netstack.runtime.driver import Driver
from netstack.runtime.entropy import SystemEntropy
from netstack.runtime.loop import Loop, describe_defect
from netstack.runtime.poller import EnginePoller
from netstack.upstream.bursts import native_bursts
from netstack.upstream.dialer import Protect, SocketDialer
from netstack.upstream.source import ResolverSource

if TYPE_CHECKING:
    import asyncio

    from netstack.engine import Engine
    from netstack.runtime.portal_check import PortalWatch

TunnelFactory = Callable[[Config, Stats, EventSink, "LiveRuntime"], Tunnel]
ResolverFactory = Callable[[Config, Dialer, Entropy, Stats, EventSink], Resolver]
READ_SHARE = 16  # one in so many octets of the memory limit may be kept for reading from sockets
EngineCommand = Callable[["Engine", float], Any]
Change = Callable[[Changes, float], Any]


class SystemClock:
    """time.monotonic, which is also what the loop uses."""

    now = staticmethod(time.monotonic)


class LiveRuntime:
    """One run of one engine: make it, `run` it on any thread, `stop` it from any other.

    `engine` is there from when `on_ready` is called until the run ended (and stays, for its counters).
    """

    def __init__(
        self,
        config: Config,
        *,
        emit: EventSink,
        protect: Protect | None = None,
        codec: PacketCodec | str = "auto",
        make_resolver: ResolverFactory | None = None,
        flow_owner: FlowOwner | None = None,
        make_engine: Callable[..., Engine] | None = None,
        entropy: Entropy | None = None,
        network: Network | None = None,
        blocked: str = "",
    ) -> None:
        """`codec` by name (auto, native, pure) or ready made. `network` is what is known of the network at the start;
        `blocked` says why everything is blocked from the start, and is empty when it is not.

        `make_engine` takes what `Engine` takes.
        """
        self.config = config
        self.emit = emit
        self.clock = SystemClock()
        self.codec = codecs.load(codec) if isinstance(codec, str) else codec
        self.entropy = entropy if entropy is not None else SystemEntropy()
        self.engine: Engine | None = None
        self.poller = EnginePoller()
        self.dialer = SocketDialer(
            self.poller, protect, native_bursts(self.codec.name), config.limits.memory // READ_SHARE
        )
        self._make_resolver = make_resolver
        self._flow_owner = flow_owner
        self.network = network or Network()
        self._blocked = blocked
        self._protect = protect
        self._portal_watch: PortalWatch | None = None
        self.changes: Changes | None = None  # while a run is on
        self._make_engine = make_engine if make_engine is not None else _engine_class()
        self._loop: Loop | None = None
        self._guest: Any = None
        self._lock = threading.Lock()
        self._stop_asked = False
        self._driver: Driver | None = None
        self._failure: BaseException | None = None
        self.stopped_by: int | None = None  # the signal that ended the run

    # --- the run ---

    def run(
        self,
        make_tunnel: TunnelFactory,
        *,
        on_ready: Callable[[], None] | None = None,
        stop_signals: Sequence[int] = (),
    ) -> None:
        """Serve until `stop` or the end of the tunnel. Returns after everything is closed, the tunnel too.

        `make_tunnel` gets configuration, counters, event sink and this runtime. `on_ready` is called once packets
        are carried. `stop_signals` end the run cleanly (main thread only). Raises TunnelClosed when the
        device went away by itself, and whatever `make_tunnel` raises.
        """
        loop = Loop(self.poller, self.report)
        with self._lock:
            self._loop = loop
            if self._stop_asked:
                loop.call_soon(loop.stop)
        try:
            stats = Stats()
            tunnel = make_tunnel(self.config, stats, self.emit, self)
            self._serve(loop, tunnel, stats, on_ready, stop_signals)
        finally:
            with self._lock:
                self._loop = None
            loop.close()
            self.poller.close()
        if self._failure is not None:
            raise self._failure

    def _serve(
        self,
        loop: Loop,
        tunnel: Tunnel,
        stats: Stats,
        on_ready: Callable[[], None] | None,
        stop_signals: Sequence[int],
    ) -> None:
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(tunnel.close)
            source = ResolverSource(
                self.dialer, self.entropy, stats, self.emit,
                apps=self._flow_lookup(), network=self.network, make=self._make_resolver,
            )  # fmt: skip
            resolver = source.first(self.config)
            engine = self._make_engine(
                self.config,
                tunnel=tunnel,
                codec=self.codec,
                dialer=self.dialer,
                resolver=resolver,
                entropy=self.entropy,
                emit=self.emit,
                stats=stats,
            )
            unfinished.pop_all()
        self.engine = engine
        self.changes = Changes(engine, source, self.config, self.emit, time.monotonic())
        if self._blocked:
            self.changes.block_network(self._blocked, time.monotonic())
        driver = self._driver = Driver(self.poller, loop, engine, tunnel, self)
        for number in stop_signals:
            loop.add_signal_handler(number, self._on_signal, number)
        driver.attach()
        if on_ready is not None:
            loop.call_soon(on_ready)
        try:
            loop.run_forever()
        finally:
            driver.detach()
            try:
                engine.stop(time.monotonic())
            finally:
                driver.close()
                if self._guest is not None:
                    self._guest.finish()

    def _flow_lookup(self) -> FlowLookup | None:
        """The host's word on whose flows are, without waiting for it."""
        if self._flow_owner is None:
            return None
        from netstack.runtime.owners import OwnerThreads

        return OwnerThreads(
            self._flow_owner,
            lambda call: self.call(lambda engine, now: call(now)),
            lambda problem: self.emit(EngineError(time.monotonic(), "host", f"flow owner failed: {problem!r}")),
        )

    # --- from any thread ---

    def stop(self) -> None:
        """End the run soon. Idempotent; before `run` it makes the run end at once."""
        with self._lock:
            self._stop_asked = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)

    def call(self, command: EngineCommand) -> bool:
        """Run ``command(engine, now)`` on the engine's thread, then flush. False when nothing runs."""
        return self.call_soon_threadsafe(self._obey, command)

    def change(self, change: Change) -> bool:
        """Run ``change(changes, now)`` on the engine's thread, then flush. False when nothing runs."""
        return self.call_soon_threadsafe(self._change, change)

    def _change(self, change: Change) -> None:
        if self.engine is not None and self.changes is not None:
            now = time.monotonic()
            change(self.changes, now)
            self.engine.flush(now)

    def reconfigure(self, config: Config | None = None) -> bool:
        """Take over other settings, or what the files of the present ones hold now. False when nothing runs.

        Files are read before this returns, on the caller's thread. Raises ConfigError naming what cannot be used, and
        nothing has changed then. A damaged list that was in force stays so as it was, and an event says so.
        """
        changes = self.changes
        if changes is None:
            return False
        prepared = changes.prepare(config)
        return self.change(lambda changes, now: changes.reconfigure(prepared, now))

    def look_for_portal(self) -> bool:
        """Look whether a captive portal is in the way; what is found is an event. False when nothing runs.

        The portal's API is asked when the network named one, `captive.probe` otherwise.
        """
        return self.call_soon_threadsafe(self._look_for_portal)

    def _look_for_portal(self) -> None:
        if self._portal_watch is None:
            from netstack.runtime.portal_check import PortalWatch

            self._portal_watch = PortalWatch(self.change, self.loop.call_later, self._protect, self.emit)
        self._portal_watch.look()

    def replace_tunnel(self, make_tunnel: TunnelFactory) -> bool:
        """Go on with another packet device (Android makes a new interface when routes change). False when nothing runs.

        `make_tunnel` is called on the engine's thread. Live flows stay; the old device is closed. When the new one
        cannot be had the old one stays, and an event says so.
        """
        return self.call_soon_threadsafe(self._replace_tunnel, make_tunnel)

    def _replace_tunnel(self, make_tunnel: TunnelFactory) -> None:
        engine, driver = self.engine, self._driver
        if engine is None or driver is None:
            return
        try:
            tunnel = make_tunnel(engine.config, engine.stats, self.emit, self)
        except (NetstackError, OSError) as problem:
            message = f"the old device stays, the new one cannot be had: {problem}"
            self.emit(EngineError(time.monotonic(), "tunnel", message))
            return
        now = time.monotonic()
        engine.flush(now)
        driver.replace(tunnel)
        engine.replace_tunnel(tunnel, now)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> bool:
        """Call back on the engine's thread. False when nothing runs."""
        with self._lock:
            if self._loop is None:
                return False
            self._loop.call_soon_threadsafe(callback, *arguments)
        return True

    def _on_signal(self, number: int) -> None:
        self.stopped_by = number
        self.stop()

    def lose(self, problem: TunnelClosed) -> None:
        """The device went away by itself: end the run; `run` raises `problem`. Engine's thread only."""
        self.emit(EngineError(time.monotonic(), "tunnel", str(problem), fatal=True))
        if self._failure is None:
            self._failure = problem
        self.stop()

    @property
    def loop(self) -> Loop:
        """The loop of the run. Engine's thread only."""
        assert self._loop is not None, "no run is on"
        return self._loop

    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop:
        """An asyncio loop on the same thread, for resolvers that are asyncio protocols. Engine's thread only."""
        if self._guest is None:
            from netstack.runtime.asyncio_guest import GuestLoop

            self._guest = GuestLoop(self.loop)
        guest: asyncio.AbstractEventLoop = self._guest
        return guest

    def report(self, problem: Exception, where: str = "engine") -> None:
        """Say that something raised what it should not have."""
        self.emit(EngineError(time.monotonic(), where, describe_defect(problem)))

    def _obey(self, command: EngineCommand) -> None:
        if self.engine is not None:
            now = time.monotonic()
            command(self.engine, now)
            self.engine.flush(now)


def _engine_class() -> type[Engine]:
    from netstack.engine import Engine

    return Engine
