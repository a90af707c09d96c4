"""TCP flows: verdict on the SYN, then the dial, then SYN|ACK, then the relay.

Responsible for: opening and refusing flows, replacing a finished flow whose pair is used again, the
table's caps, sharing the tunnel's queue and the memory budget among flows, one write phase per batch.
Refuses to know: the state machine (`tcp/`), the splice of one flow (`relay`).

SYN|ACK leaves only after the real socket connected, so a blocked, refused or dead destination looks to
the app exactly as it is, and Happy Eyeballs keeps working.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.events import EngineError
from netstack.core.flow import FiveTuple, unpack_key
from netstack.core.packet import ACK, FIN, RST, SYN, Segment
from netstack.core.ports import SocketOwner, Stream
from netstack.core.verdict import Action, Reason, Refusal, Verdict
from netstack.forward.context import Context, block_reason
from netstack.forward.flow_table import FlowTable
from netstack.forward.relay import TcpFlow
from netstack.tcp.arrival import enough
from netstack.tcp.connection import TcpConnection
from netstack.tcp.reset import reset_for
from netstack.tcp.state import State
from netstack.wire import icmp

DNS_VERDICT = Verdict(Action.ALLOW, Reason.DNS, "answered by the engine")
QUEUE_SHARE = 0.7  # of the device's queue is given out as receive windows
GSO_SLOT = 49_152  # octets in one slot of the device's queue where whole GSO packets take one
WINDOW_LEAST = 16_384
HEADROOM_SHARE = 8  # one flow may take this fraction of the memory that is left
RELIEF_SHARE = 8  # over the budget, flows go until this fraction of it is free again

OpenDns = Callable[[FiveTuple, SocketOwner], Stream]


class TcpForwarder:
    """All TCP flows of one engine."""

    def __init__(self, context: Context, open_dns: OpenDns) -> None:
        """`open_dns` gives the stream that answers DNS over TCP inside the engine."""
        self.context = context
        limits = context.config.limits
        self.table = FlowTable(limits.tcp_flows, limits.half_open)
        self.starved: set[TcpFlow] = set()  # stopped reading for want of memory, not of window
        self._open_dns = open_dns
        self._dirty: list[TcpFlow] = []
        self._bulk: dict[TcpFlow, float] = {}  # flows that outgrew the initial window, and when they last did
        self.tunnel_changed()

    def tunnel_changed(self) -> None:
        """Another device: its queue bounds the windows that are given out."""
        tunnel = self.context.tunnel
        slot = GSO_SLOT if tunnel.offload else tunnel.mtu
        self._queue_octets = int(self.context.config.tunnel.queue * slot * QUEUE_SHARE)

    # --- from the tunnel ---

    def on_segment(self, segment: Segment, now: float) -> None:
        """A (super-)segment from the app."""
        flow = self.table.flows.get(segment.key)
        if flow is None:
            self._no_flow(segment, now)
            return
        connection = flow.connection
        if segment.flags & SYN and connection.can_be_replaced_by(segment, now):
            self._forget(flow, now)
            self._open(segment, now)
            return
        flow.last_seen = now
        connection.receive(segment, now)
        if not flow.dirty:
            flow.dirty = True
            self._dirty.append(flow)
        flow.pump(now)

    def _no_flow(self, segment: Segment, now: float) -> None:
        if segment.flags & (SYN | ACK | RST | FIN) == SYN:
            self._open(segment, now)
            return
        self.context.drop(DropReason.TCP_NO_FLOW)
        self._reset(segment, now)

    def _reset(self, segment: Segment, now: float) -> None:
        run = reset_for(segment)
        if run is None:
            return
        if self.context.reset_limiter.allow(now):
            self.context.tunnel.write_run(run)
        else:
            self.context.drop(DropReason.RATE_LIMITED)

    def _open(self, segment: Segment, now: float) -> None:
        context = self.context
        flow = unpack_key(segment.key)
        is_dns = flow.destination.port in context.config.dns.ports
        verdict = DNS_VERDICT if is_dns else context.policy.decide(flow, now)
        if not verdict.allowed:
            self._refuse(segment, verdict, now)
            return
        for victim in self.table.to_shed():
            context.stats.shed_flows += 1
            context.drop(DropReason.TCP_HALF_OPEN_FULL if victim.connecting else DropReason.TCP_TABLE_FULL)
            victim.cut("shed", now)
            self._forget(victim, now)
        connection = TcpConnection(
            context.config.tcp,
            segment.key,
            iss=context.entropy.initial_sequence(segment.key, now),
            mtu=context.tunnel.mtu,
            entropy=context.entropy,
        )
        carried = TcpFlow(self, flow, connection, verdict, bytes(segment.packet), is_dns=is_dns)
        carried.last_seen = now
        self.table.add(carried)
        connection.receive(segment, now)
        self.mark(carried)
        try:
            if is_dns:
                stream = self._open_dns(flow, carried)
            else:
                stream = context.dialer.dial_tcp(flow.destination, carried, flow)
        except DialError as problem:
            where = "protect" if isinstance(problem, ProtectError) else "dialer"
            if problem.errno == 0 or problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                context.emit(EngineError(now, where, str(problem)))
            carried.refuse(problem.errno or errno.ECONNREFUSED, now)
            return
        carried.stream = stream
        carried.deadline = now + context.config.tcp.dial_timeout
        if not is_dns:
            context.tracker.pin(flow.destination.address)
            carried.pinned = True
        stream.watch(readable=False, writable=True)

    def _refuse(self, segment: Segment, verdict: Verdict, now: float) -> None:
        context = self.context
        context.stats.tcp_blocked += 1
        context.drop(block_reason(verdict))
        refusal = context.report_blocked(segment.key, verdict, now)
        if refusal is Refusal.RESET:
            self._reset(segment, now)
        elif refusal is Refusal.UNREACHABLE:
            context.send_error(icmp.unreachable(segment.packet, icmp.ADMINISTRATIVELY), now)

    # --- called by flows ---

    def mark(self, flow: TcpFlow) -> None:
        """`flow` may have something to send, or its deadline moved."""
        if not flow.dirty:
            flow.dirty = True
            self._dirty.append(flow)

    def on_established(self, flow: TcpFlow) -> None:
        """The app completed the handshake."""
        self.table.established(flow)

    def headroom(self) -> int:
        """Octets that one flow may take from its socket now without endangering the memory budget."""
        left = self.context.config.limits.memory - self.context.buffered
        return max(0, left // HEADROOM_SHARE)

    def grow_window(self, flow: TcpFlow, now: float) -> None:
        """`flow` moved a whole window: double it, as far as the queue's share and the budget allow.

        All windows together stay below what the device can queue: more would only be dropped there.
        """
        bulk = self._bulk
        bulk[flow] = now
        if len(bulk) > 1:
            for other, at in list(bulk.items()):
                if now - at > 1.0 or other.closed:
                    del bulk[other]
        context = self.context
        share = self._queue_octets // max(1, len(bulk))
        most = min(enough(context.config.tcp.window_max, context.tunnel.mtu), max(share, WINDOW_LEAST))
        if context.buffered > context.config.limits.memory // 2:
            most = min(most, WINDOW_LEAST)
        wanted = min(flow.window * 2, most)
        if wanted != flow.window:
            flow.window = wanted
            flow.connection.set_receive_limit(wanted)

    # --- the write phase ---

    def flush(self, now: float) -> None:
        """Send what the marked flows have to send; forget those that ended."""
        dirty = self._dirty
        if not dirty:
            return
        self._dirty = []
        context = self.context
        write_run, touch = context.tunnel.write_run, context.timers.touch
        for flow in dirty:
            flow.dirty = False
            connection = flow.connection
            for run in connection.runs_to_send(now):
                write_run(run)
            if connection.drops:
                for reason in connection.take_drops():
                    context.drop(reason)
            held = connection.buffered_octets + flow.pending_octets
            context.buffered += held - flow.charged
            flow.charged = held
            if flow.closed:
                self._forget(flow, now)
                continue
            if flow.stream is None and connection.state is State.TIME_WAIT:
                self._unpin(flow, now)
                oldest = self.table.finish(flow)
                if oldest is not None:
                    self._forget(oldest, now)
            touch(flow)
        if context.buffered > context.config.limits.memory:
            self._relieve(now)
        if self.starved and self.headroom() >= WINDOW_LEAST:
            starved, self.starved = self.starved, set()
            for flow in starved:
                flow.resume_reading()

    def _relieve(self, now: float) -> None:
        """Windows that were given away filled the budget: of the flows that hold something, the idle longest go."""
        context = self.context
        memory = context.config.limits.memory
        enough = memory - memory // RELIEF_SHARE
        holding = sorted((flow for flow in self.table if flow.charged), key=lambda flow: flow.last_seen)
        for victim in holding:
            if context.buffered <= enough:
                return
            context.stats.shed_flows += 1
            context.drop(DropReason.TCP_TABLE_FULL)
            victim.cut("shed", now)
            self._forget(victim, now)

    def _unpin(self, flow: TcpFlow, now: float) -> None:
        if flow.pinned:
            flow.pinned = False
            self.context.tracker.unpin(flow.flow.destination.address, now)

    def _forget(self, flow: TcpFlow, now: float) -> None:
        flow.finish("finished", now)
        for run in flow.connection.runs_to_send(now):
            self.context.tunnel.write_run(run)
        self.table.remove(flow)
        self._bulk.pop(flow, None)
        self.starved.discard(flow)
        self._unpin(flow, now)
        self.context.buffered -= flow.charged
        flow.charged = 0
        self.context.timers.cancel(flow)

    # --- for the engine ---

    def cut_blocked(self, now: float) -> None:
        """Judge every live flow again and cut those that are refused now; a change of mode alone cuts none."""
        for flow in self.table:
            if flow.closed or flow.is_dns:
                continue
            verdict = self.context.policy.decide(flow.flow, now)
            if not verdict.allowed and verdict.reason is not Reason.MODE:
                self.context.report_blocked(flow.key, verdict, now)
                flow.cut("cut", now)

    def cut_dead(self, now: float) -> None:
        """After a network change: cut the flows whose socket's own address is gone."""
        for flow in self.table:
            stream = flow.stream
            if stream is not None and not flow.is_dns and not stream.is_alive():
                flow.cut("network-changed", now)

    def stop(self, now: float) -> None:
        """End every flow with a reset both ways."""
        for flow in self.table:
            flow.cut("stopped", now)
        self.flush(now)
