"""The engine: packets in, verdicts, packets out. Sans-IO: it owns no socket, no clock and no thread.

Responsible for: dispatching what the codec parsed to the forwarder of its family, passing readiness and
time to whoever owns it, one write phase for each batch, reload, network change, stop.
Refuses to know: where packets come from (`link/`), who drives it (`runtime/`).

A driver calls `on_tunnel_readable`, `on_readable`, `on_writable` and `on_timeout` as things happen, then
`flush` once for all that happened together, and comes back no later than `next_timeout`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from netstack.codec.base import PacketBatch, PacketCodec
from netstack.config import Config
from netstack.core.address import parse_address
from netstack.core.drops import DropReason
from netstack.core.events import EventSink, PacketDropped
from netstack.core.packet import BadPacket, Datagram, DatagramRun, Fragment, IcmpMessage, OtherPacket, Segment
from netstack.core.ports import Dialer, Entropy, Resolver, Stream, Tunnel
from netstack.core.stats import Stats
from netstack.core.timers import TimerQueue
from netstack.dns.bridge import DnsBridge
from netstack.dns.stage import Stage
from netstack.forward.context import Context
from netstack.forward.dns import DnsForwarder
from netstack.forward.fragments import Reassembler
from netstack.forward.icmp import IcmpForwarder
from netstack.forward.limiter import RateLimiter
from netstack.forward.tcp import TcpForwarder
from netstack.forward.udp import UdpForwarder
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.lockdown import Lockdown
from netstack.policy.tracker import IpTracker
from netstack.wire import icmp

DNS_SHARE = 8  # DNS over TCP may hold this fraction of the memory
BATCHES = 2  # read in one go before sockets have their turn


class _ResolverTimer:
    """A resolver's deadlines in the engine's queue."""

    __slots__ = ("next_timeout", "on_timeout", "timer_at")

    def __init__(self, resolver: Resolver) -> None:
        self.timer_at: float | None = None
        self.serve(resolver)

    def serve(self, resolver: Resolver) -> None:
        """Have the deadlines of `resolver` from now on."""
        self.next_timeout = resolver.next_timeout
        self.on_timeout = resolver.on_timeout


class Engine:
    """One tunnel's engine."""

    def __init__(
        self,
        config: Config,
        *,
        tunnel: Tunnel,
        codec: PacketCodec,
        dialer: Dialer,
        resolver: Resolver,
        entropy: Entropy,
        emit: EventSink,
        stats: Stats | None = None,
        verify: bool = True,
        trace_drops: bool = False,
    ) -> None:
        """Nothing is read, written or dialled until the driver calls.

        `verify` False lets reassembled packets with wrong checksums pass; `trace_drops` emits an event
        for each packet that the codec refused.
        """
        self.config = config
        self.tunnel = tunnel
        self.codec = codec
        self.stats = stats if stats is not None else Stats()
        self.emit = emit
        self._verify = verify
        self._trace_drops = trace_drops
        self.timers = TimerQueue()
        self.tracker = IpTracker(config.tracker, config.limits)
        self.policy = FirewallPolicy(config, self.tracker)
        self.context = Context(
            config=config,
            tunnel=tunnel,
            dialer=dialer,
            policy=self.policy,
            tracker=self.tracker,
            timers=self.timers,
            entropy=entropy,
            emit=emit,
            stats=self.stats,
            gateways=gateways_of(config),
            icmp_limiter=RateLimiter(config.limits.icmp_errors_per_second),
            reset_limiter=RateLimiter(config.limits.resets_per_second),
        )
        self.resolver = resolver
        self._resolver_timer = _ResolverTimer(resolver)
        self.bridge = DnsBridge(resolver, self.tracker, config.dns, config.limits, self.stats, emit, entropy)
        resolver.start(self.bridge)
        self.dns = DnsForwarder(
            self.bridge, self._write_datagram, self.stats, mtu=tunnel.mtu, memory=config.limits.memory // DNS_SHARE
        )
        self.tcp = TcpForwarder(self.context, self._open_dns_stream)
        self.udp = UdpForwarder(self.context)
        self.icmp = IcmpForwarder(self.context)
        self.reassembler = Reassembler(config.limits, self.stats, self._reassembly_expired)
        self._batch = PacketBatch.for_tunnel(tunnel.mtu, tunnel.offload, packets=config.tunnel.batch)
        self._whole: PacketBatch | None = None  # for reassembled packets; its memory comes with the first
        self._dns_was_busy = False
        self._ready: list[tuple[Any, Stream]] = []
        self._dns_ports = frozenset(config.dns.ports)
        self._dispatch: dict[type, Callable[[Any, float], None]] = {
            Segment: self.tcp.on_segment,
            Datagram: self._on_datagram,
            DatagramRun: self._on_datagrams,
            IcmpMessage: self.icmp.on_message,
            Fragment: self._on_fragment,
            OtherPacket: self._on_other,
            BadPacket: self._on_bad,
        }

    # --- driven from outside ---

    def on_tunnel_readable(self, now: float) -> int:
        """Read and handle what is there, a bounded amount; the number of IP packets. Raises TunnelClosed."""
        total = 0
        batch, dispatch = self._batch, self._dispatch
        for _ in range(BATCHES):
            count = self.tunnel.read_batch(batch)
            if not count:
                break
            total += count
            self.stats.packets_in += count
            self.stats.octets_in += batch.octets
            self.stats.segments_in += batch.count
            for item in batch.items():
                dispatch[type(item)](item, now)
            if count < batch.capacity:
                break
            self.flush(now)
        return total

    def on_readable(self, socket: Any, now: float) -> None:
        """A watched socket is readable."""
        socket.owner.on_readable(socket, now)

    def on_writable(self, socket: Any, now: float) -> None:
        """A watched socket is writable."""
        socket.owner.on_writable(socket, now)

    def next_timeout(self) -> float | None:
        """When `on_timeout` must be called at the latest, or None."""
        return self.timers.next_timeout()

    def on_timeout(self, now: float) -> None:
        """Everything that is due."""
        timers = self.timers
        for owner in timers.due(now):
            owner.on_timeout(now)
            timers.touch(owner)

    def flush(self, now: float) -> None:
        """The write phase: once after everything that happened together."""
        self.dns.flush(now)
        while self._ready:
            ready, self._ready = self._ready, []
            for owner, stream in ready:
                owner.on_writable(stream, now)
                owner.on_readable(stream, now)
            self.dns.flush(now)
        self.tcp.flush(now)
        self._touch_services()
        self.tunnel.flush()

    def _touch_services(self) -> None:
        """Deadlines of what is not a flow. This runs for every batch, so nothing is asked that cannot have moved:
        the tracker's and the reassembler's first deadline only ever moves later."""
        timers = self.timers
        busy = self.stats.dns_pending > 0
        if busy or self._dns_was_busy:
            timers.touch(self.bridge)
            timers.touch(self._resolver_timer)
            self._dns_was_busy = busy
        if self.tracker.timer_at is None and len(self.tracker):
            timers.touch(self.tracker)
        if self.reassembler.timer_at is None and len(self.reassembler):
            timers.touch(self.reassembler)

    # --- dispatch ---

    def _on_datagram(self, datagram: Datagram, now: float) -> None:
        key = datagram.key
        if (key[36] << 8 | key[37]) in self._dns_ports and self.dns.on_datagram(datagram, now):
            return
        self.udp.on_datagram(datagram, now)

    def _on_datagrams(self, run: DatagramRun, now: float) -> None:
        key = run.key
        if (key[36] << 8 | key[37]) in self._dns_ports:
            for datagram in run.datagrams():
                self._on_datagram(datagram, now)
        else:
            self.udp.on_run(run, now)

    def _on_fragment(self, fragment: Fragment, now: float) -> None:
        packet = self.reassembler.add(fragment.packet, now)
        if packet is None:
            return
        if self._whole is None:
            self._whole = PacketBatch(capacity=1, slot=65_536)
        whole = self._whole
        self.codec.parse_batch([packet], whole, verify=self._verify)
        for item in whole.items():
            if type(item) is Fragment:  # a fragment within a fragment: nobody honest sends that
                self.context.drop(DropReason.BAD_FRAGMENT)
            else:
                self._dispatch[type(item)](item, now)

    def _reassembly_expired(self, first: bytes, now: float) -> None:
        self.context.send_error(icmp.reassembly_time_exceeded(first, self.context.gateway(first[0] >> 4)), now)

    def _on_other(self, packet: OtherPacket, now: float) -> None:
        self.context.drop(DropReason.UNSUPPORTED_PROTOCOL)
        self.context.send_error(icmp.unreachable(packet.packet, icmp.PROTOCOL), now)

    def _on_bad(self, packet: BadPacket, now: float) -> None:
        self.context.drop(packet.reason)
        if self._trace_drops:
            self.emit(PacketDropped(now, packet.reason, len(packet.packet)))

    def _open_dns_stream(self, flow: Any, owner: Any) -> Stream:
        return self.dns.open_stream(flow, owner, lambda stream: self._ready.append((owner, stream)))

    # --- changes while running ---

    def reconfigure(self, config: Config, now: float) -> None:
        """Take over policy settings and mode; live flows are judged again, the rest needs a new engine."""
        self.config = self.context.config = config
        self.policy.reconfigure(config)
        self.context.policy_changed()
        self._dns_ports = frozenset(config.dns.ports)
        self.tracker.reconfigure(config.tracker, config.limits)
        self.bridge.reconfigure(config.dns, config.limits)
        self._cut_blocked(now)

    def _cut_blocked(self, now: float) -> None:
        self.tcp.cut_blocked(now)
        self.udp.cut_blocked(now)
        self.icmp.cut_blocked(now)
        self.flush(now)

    def use_resolver(self, resolver: Resolver, now: float) -> None:
        """Ask another resolver from now on; queries on their way are answered all the same."""
        self.bridge.use_resolver(resolver, now)
        self._serve_resolver(resolver)

    def _serve_resolver(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self._resolver_timer.serve(resolver)
        self.resolver_has_work()

    def resolver_has_work(self) -> None:
        """Its deadlines have changed although nothing was asked."""
        self.timers.touch(self.bridge)
        self.timers.touch(self._resolver_timer)

    def use_lockdown(self, lockdown: Lockdown, stage: Resolver | None = None) -> None:
        """Obey the host's blocking state: flows that it forbids are cut as soon as it begins.

        `stage` is the `LockdownStage` of the same object over the resolver in force; without it the resolver has one.
        """
        self.policy.use_lockdown(lockdown)
        lockdown.watch(self._lockdown_changed)
        if stage is not None:
            self.bridge.put_in_front(stage)
            self._serve_resolver(stage)

    def _lockdown_changed(self, now: float) -> None:
        lockdown = self.policy.lockdown
        if lockdown is not None and lockdown.blocking:
            self.bridge.refuse_pending(now)
        self._cut_blocked(now)

    def replace_tunnel(self, tunnel: Tunnel, now: float) -> None:
        """Go on with another packet device; flows, sockets and leases stay. The old one belongs to the caller."""
        self.tunnel = self.context.tunnel = tunnel
        self._batch = PacketBatch.for_tunnel(tunnel.mtu, tunnel.offload, packets=self.config.tunnel.batch)
        self.dns.set_mtu(tunnel.mtu)
        self.tcp.tunnel_changed()
        self.flush(now)

    def _write_datagram(self, datagram: Datagram) -> bool:
        return self.tunnel.write_datagram(datagram)

    def network_changed(self, now: float, name: str | None = None) -> None:
        """Another network: resolvers start over, sockets of the old network are cut at once.

        `name` is what the host calls the new one, for rules that hold on some networks only.
        """
        if name is not None and isinstance(self.resolver, Stage):
            self.resolver.set_network(name, now)
        self.bridge.network_changed(now)
        self.resolver.network_changed(now)
        self.tcp.cut_dead(now)
        self.udp.network_changed(now)
        self.icmp.stop(now, "network-changed")
        self.flush(now)

    def gauges(self) -> Stats:
        """The counters, with table sizes as of now."""
        stats = self.stats
        stats.tcp_open = len(self.tcp.table) - len(self.tcp.table.finished)
        stats.tcp_half_open = len(self.tcp.table.half_open)
        stats.udp_sessions = len(self.udp.sessions)
        stats.icmp_sessions = len(self.icmp.sessions)
        stats.tracked_addresses = len(self.tracker)
        stats.buffered_octets = self.context.buffered + self.reassembler.octets + self.dns.held
        return stats

    def stop(self, now: float) -> None:
        """Reset every flow, close every socket; the tunnel itself belongs to the caller. Idempotent."""
        with ExitStack() as closing:  # in reverse order; one that fails keeps no other from being closed
            closing.callback(self.flush, now)
            closing.callback(self.resolver.close)
            closing.callback(self.bridge.close)
            closing.callback(self.icmp.stop, now)
            closing.callback(self.udp.stop, now)
            closing.callback(self.tcp.stop, now)


def gateways_of(config: Config) -> tuple[bytes, ...]:
    """The engine's own packed addresses."""
    addresses = (config.tunnel.address, config.tunnel.address6)
    return tuple(parse_address(address) for address in addresses if address)


