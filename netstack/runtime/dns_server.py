"""The resolver without a tunnel: serves DNS on local addresses.

Responsible for: putting listeners, bridge and resolver together; telling them of readiness and time; starting and
ending.
Refuses to know: DNS, upstreams, rules.

Nothing here runs while nothing happens: the loop sleeps until a descriptor is ready or the next deadline.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from netstack.config import Config, parse_network, parse_server
from netstack.core.errors import NetstackError
from netstack.core.events import EngineError, EventSink
from netstack.core.network import Network
from netstack.core.ports import Entropy, Resolver
from netstack.core.stats import Stats
from netstack.dns.bridge import DnsBridge
from netstack.dns.stage import Stage
from netstack.policy.lockdown import Lockdown
from netstack.runtime.changes import Changes
from netstack.runtime.dns_connections import TcpClients, TcpListener
from netstack.runtime.dns_listeners import Peers, Repeats, UdpListener, bind, endpoint_text
from netstack.runtime.entropy import SystemEntropy
from netstack.runtime.loop import Loop, describe_defect
from netstack.runtime.poller import EnginePoller
from netstack.upstream.dialer import Protect, SocketDialer
from netstack.upstream.source import Make, Prepared, ResolverSource

if TYPE_CHECKING:
    from netstack.runtime.portal_check import PortalWatch
    from netstack.runtime.route_watch import RouteWatch


class NoBook:
    """An address book for a resolver that guards no traffic: events name the addresses, nothing is remembered."""

    def learn(self, name: str, address: bytes, ttl: int | None, now: float, app: str | None = None) -> bool:
        """Nobody asks later."""
        return True


class DnsServer:
    """Implements `poller.Served`. Make it, then `run` until a signal or `stop`."""

    def __init__(
        self,
        config: Config,
        *,
        emit: EventSink,
        logged: bool = True,
        protect: Protect | None = None,
        make_resolver: Make | None = None,
        entropy: Entropy | None = None,
        read_network: Callable[[Config], Network] | None = None,
        watch_routes: bool = False,
    ) -> None:
        """`read_network`: what is known of the network, asked again when it changes. `logged`: somebody reads the
        queries' events. `watch_routes`: notice by itself when this host is on another network; else the host says so.
        """
        self.config = config
        self.settings = config.server
        self.emit = emit
        self.stats = Stats()
        self.poller = EnginePoller()
        self.stopped_by: int | None = None
        self._read_network = read_network
        self._protect = protect
        self._portal_watch: PortalWatch | None = None
        entropy = entropy if entropy is not None else SystemEntropy()
        dialer = SocketDialer(self.poller, protect)
        source = ResolverSource(dialer, entropy, self.stats, emit, network=self._network(), make=make_resolver)
        self.resolver = source.first(config)
        book = NoBook() if logged else None
        self.bridge = DnsBridge(self.resolver, book, config.dns, config.limits, self.stats, emit, entropy)
        self.resolver.start(self.bridge)
        self.ask = self.bridge.ask
        self.lockdown: Lockdown | None = None
        self.clients = TcpClients(self)
        self._logged = logged
        self._repeats: list[Repeats] = []
        self._listeners: list[UdpListener | TcpListener] = []
        self._answering: set[UdpListener] = set()  # have answers to send
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._loop: Loop | None = None
        self.changes = Changes(self, source, config, emit, time.monotonic())
        self._routes: RouteWatch | None = None
        if watch_routes:
            from netstack.runtime.route_watch import RouteWatch, destinations_of

            self._routes = RouteWatch(self.poller, self.call_later, self._on_routes, destinations_of(config))

    # --- the run ---

    def listen(self) -> None:
        """Open the listeners. Raises NetstackError naming the address that cannot be had."""
        addresses = [parse_server(text) for text in self.settings.listen]
        peers = Peers([parse_network(each) for each in self.settings.allow_peers], [host for host, _ in addresses])
        for host, port in addresses:
            for kind, name in ((socket.SOCK_DGRAM, "UDP"), (socket.SOCK_STREAM, "TCP")):
                try:
                    sock = bind(host, port, kind)
                    if kind == socket.SOCK_DGRAM:
                        self._listeners.append(self._udp_listener(sock, peers))
                    else:
                        self._listeners.append(TcpListener(sock, self, peers, self.clients))
                except OSError as problem:
                    raise NetstackError(
                        f"cannot listen on {endpoint_text(host, port)} ({name}): {problem.strerror}"
                    ) from problem

    def _udp_listener(self, sock: socket.socket, peers: Peers) -> UdpListener:
        repeats = None
        # With a log every query is an event, so none is answered without being asked.
        if not self._logged:  # a rule may look at the address that was asked, so each listener has its own
            repeats = Repeats()
            self._repeats.append(repeats)
        return UdpListener(sock, self.poller, self.bridge.ask, peers, self.stats, repeats, waiting=self._answering)

    def run(
        self,
        *,
        on_ready: Callable[[], None] | None = None,
        stop_signals: Sequence[int] = (),
        handlers: dict[int, Callable[[], None]] | None = None,
    ) -> None:
        """Serve until a signal of `stop_signals` or `stop`; everything is closed then.

        `handlers` are called for other signals, on the loop's thread. Raises NetstackError when an address cannot be
        listened on.
        """
        loop = self._loop = Loop(self.poller, self._report)
        try:
            self.listen()
            for number in stop_signals:
                loop.add_signal_handler(number, self._on_signal, number)
            for number, handler in (handlers or {}).items():
                loop.add_signal_handler(number, handler)
            self.poller.served = self
            if self._routes is not None:
                self._routes.open()
            self._look_for_portal_if_wanted()
            if on_ready is not None:
                loop.call_soon(on_ready)
            loop.run_forever()
        finally:
            self.poller.served = None
            self._loop = None
            self.close()
            loop.close()
            self.poller.close()

    def _on_signal(self, number: int) -> None:
        self.stopped_by = number
        self.stop()

    def stop(self) -> None:
        """End the run. The loop's thread only."""
        if self._loop is not None:
            self._loop.stop()

    def close(self) -> None:
        """Close every socket."""
        if self._routes is not None:
            self._routes.close()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self.clients.close()
        self.resolver.close()
        self.bridge.close()

    # --- changes while running ---

    def reload(self, read: Callable[[], Config] | None = None) -> None:
        """Take over what `read` returns, or what the present files hold now; read on another thread meanwhile.

        What cannot be used is an event, and everything stays as it was.
        """
        loop = self._loop
        if loop is None:
            return

        def work() -> None:
            try:
                prepared = self.changes.prepare(None if read is None else read())
            except NetstackError as problem:
                self.emit(EngineError(time.monotonic(), "config", f"{problem} (the settings of before stay in force)"))
                return
            with contextlib.suppress(RuntimeError):  # the run ended meanwhile
                loop.call_soon_threadsafe(self._take_over, prepared)

        threading.Thread(target=work, name="reload", daemon=True).start()

    def _take_over(self, prepared: Prepared) -> None:
        now = time.monotonic()
        self.changes.reconfigure(prepared, now)
        self.changes.network_told(self._network(), now)

    def reconfigure(self, config: Config, now: float) -> None:
        """As `Carrier.reconfigure`. Listeners stay as they are."""
        self.config = config
        self.bridge.reconfigure(config.dns, config.limits)
        self.resolver_has_work()

    def use_resolver(self, resolver: Resolver, now: float) -> None:
        """As `Carrier.use_resolver`."""
        self.resolver = resolver
        self.bridge.use_resolver(resolver, now)
        self.resolver_has_work()

    def use_lockdown(self, lockdown: Lockdown, stage: Resolver | None = None) -> None:
        """As `Carrier.use_lockdown`; there is nothing to block here but names."""
        self.lockdown = lockdown
        lockdown.watch(self._lockdown_changed)
        if stage is not None:
            self.resolver = stage
            self.bridge.put_in_front(stage)

    def _lockdown_changed(self, now: float) -> None:
        if self.lockdown is not None and self.lockdown.blocking:
            self.bridge.refuse_pending(now)
        self.resolver_has_work()

    def resolver_has_work(self) -> None:
        """As `Carrier.resolver_has_work`: deadlines are asked for anyway, but repeats may have other answers now."""
        for repeats in self._repeats:
            repeats.clear()

    def network_changed(self, now: float, name: str | None = None) -> None:
        """As `Carrier.network_changed`."""
        if name is not None and isinstance(self.resolver, Stage):
            self.resolver.set_network(name, now)
        self.bridge.network_changed(now)
        self.resolver.network_changed(now)
        self.resolver_has_work()

    def _network(self) -> Network:
        return Network() if self._read_network is None else self._read_network(self.config)

    def _on_routes(self) -> None:
        self.changes.network_changed(self._network(), time.monotonic())
        self._look_for_portal_if_wanted()

    def change(self, change: Callable[[Changes, float], object]) -> bool:
        """Run ``change(changes, now)`` on the loop's thread. False when nothing runs."""
        loop = self._loop
        if loop is None:
            return False
        with contextlib.suppress(RuntimeError):  # the run ended meanwhile
            loop.call_soon_threadsafe(self._change, change)
        return True

    def _change(self, change: Callable[[Changes, float], object]) -> None:
        now = time.monotonic()
        change(self.changes, now)
        self.clients.flush(now)

    def _look_for_portal_if_wanted(self) -> None:
        if not self.config.captive.watch:
            return
        if self._portal_watch is None:
            from netstack.runtime.portal_check import PortalWatch

            self._portal_watch = PortalWatch(self.change, self.call_later, self._protect, self.emit)
        self._portal_watch.look()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """As `dns_listeners.Server.call_later`."""
        self._later.append((time.monotonic() + seconds, callback))

    # --- Served ---

    def next_deadline(self) -> float | None:
        """As `Served.next_deadline`: at once when something answered between rounds (new settings, another network)."""
        if self._answering or self.clients.waiting:
            return 0.0
        deadline = self.resolver.next_timeout()
        for other in (self.bridge.next_timeout(), self.clients.next_timeout()):
            if other is not None and (deadline is None or other < deadline):
                deadline = other
        for when, _ in self._later:
            if deadline is None or when < deadline:
                deadline = when
        return deadline

    def on_deadline(self, now: float) -> None:
        """As `Served.on_deadline`."""
        for owner in (self.resolver, self.bridge, self.clients):
            try:
                owner.on_timeout(now)
            except Exception as problem:
                self._report(problem)
        due = [callback for when, callback in self._later if when <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for callback in due:
            callback()

    def on_tunnel_readable(self, now: float) -> None:
        """There is none."""

    def on_readable(self, socket: Any, now: float) -> None:
        """As `Served.on_readable`."""
        try:
            socket.owner.on_readable(socket, now)
        except Exception as problem:
            self._give_up(socket, problem)

    def on_writable(self, socket: Any, now: float) -> None:
        """As `Served.on_writable`."""
        try:
            socket.owner.on_writable(socket, now)
        except Exception as problem:
            self._give_up(socket, problem)

    def finish(self, now: float) -> None:
        """As `Served.finish`."""
        try:
            while self._answering:
                self._answering.pop().flush()
            self.clients.flush(now)
        except Exception as problem:
            self._report(problem)

    # A defect must cost one query or connection, not the service.

    def _give_up(self, socket: Any, problem: Exception) -> None:
        self._report(problem)
        if not isinstance(socket, (UdpListener, TcpListener)):
            with contextlib.suppress(Exception):
                socket.watch(readable=False, writable=False)

    def _report(self, problem: Exception) -> None:
        self.emit(EngineError(time.monotonic(), "resolver", describe_defect(problem)))


__all__ = ["DnsServer", "NoBook"]
