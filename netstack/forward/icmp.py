"""ICMP: echo through real echo sockets, and the gateway's own echo replies.

Responsible for: sessions of echo requests (one socket for each identifier and destination family),
mapping identifiers back, answering for the engine's own addresses, refusing what is not carried.
Refuses to know: how an echo socket is had (`upstream/`).

A ping gets an answer only if the destination gave one: nothing is pretended. Router and neighbour
discovery, multicast listener reports and errors that the app itself sends end here, counted.
"""

from __future__ import annotations

import struct

from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.events import EngineError, FlowClosed, FlowOpened
from netstack.core.flow import ICMP, ICMPV6, Endpoint, FiveTuple, pack_key
from netstack.core.packet import IcmpMessage
from netstack.core.ports import DatagramSocket
from netstack.core.verdict import Reason, Refusal
from netstack.forward.context import Context, block_reason
from netstack.wire import icmp

ECHO = {4: (icmp.ECHO_REQUEST, icmp.ECHO_REPLY), 6: (icmp.V6_ECHO_REQUEST, icmp.V6_ECHO_REPLY)}
TIMEOUT = 30.0  # seconds without request or reply
READS = 32
HEADER = struct.Struct("!BBHHH")


class IcmpSession:
    """One ping: source, destination and identifier."""

    __slots__ = ("destination", "flow", "flow_id", "forwarder", "identifier", "key", "last_seen", "octets_down",
                 "octets_up", "policy", "socket", "source", "timer_at", "version")  # fmt: skip

    def __init__(self, forwarder: IcmpForwarder, key: tuple[bytes, bytes, int], flow: FiveTuple, now: float) -> None:
        self.forwarder = forwarder
        self.key = key
        self.source, self.destination, self.identifier = key
        self.flow = flow
        self.version = flow.version
        self.flow_id = forwarder.context.next_flow_id()
        self.socket: DatagramSocket | None = None
        self.last_seen = now
        self.policy = -1
        self.octets_up = 0
        self.octets_down = 0
        self.timer_at: float | None = None

    def next_timeout(self) -> float | None:
        """When the ping is over."""
        return None if self.socket is None else self.last_seen + TIMEOUT

    def on_timeout(self, now: float) -> None:
        """The ping is over."""
        if self.last_seen + TIMEOUT <= now:
            self.forwarder.close(self, "timeout", now)

    def on_readable(self, socket: DatagramSocket, now: float) -> None:
        """Replies."""
        if socket is self.socket:
            self.forwarder.on_replies(self, now)

    def on_writable(self, socket: DatagramSocket, now: float) -> None:
        """Never asked for."""


class IcmpForwarder:
    """All echo sessions of one engine."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sessions: dict[tuple[bytes, bytes, int], IcmpSession] = {}  # least recently used first

    def on_message(self, message: IcmpMessage, now: float) -> None:
        """An ICMP message from the app."""
        context = self.context
        request, reply = ECHO[message.version]
        if message.type != request or message.code != 0:
            context.drop(DropReason.ICMP_UNSUPPORTED)
            return
        if message.destination in context.gateways:
            context.tunnel.write_icmp(
                IcmpMessage(
                    message.version, message.destination, message.source, reply, 0, message.rest, message.payload
                )
            )
            return
        if message.hop_limit <= 1:
            context.drop(DropReason.TTL_EXCEEDED)
            context.send_error(icmp.time_exceeded(message.packet, context.gateway(message.version)), now)
            return
        identifier = message.rest >> 16
        key = (message.source, message.destination, identifier)
        session = self.sessions.get(key)
        if session is None or session.policy != context.policy.version:
            session = self._judge(session, key, message, now)
            if session is None:
                return
        self._send(session, message, now)

    def _judge(
        self, session: IcmpSession | None, key: tuple[bytes, bytes, int], message: IcmpMessage, now: float
    ) -> IcmpSession | None:
        context = self.context
        protocol = ICMP if message.version == 4 else ICMPV6
        flow = FiveTuple(protocol, Endpoint(key[0], key[2]), Endpoint(key[1], 0))
        verdict = context.policy.decide(flow, now)
        if not verdict.allowed and not (session is not None and verdict.reason is Reason.MODE):
            if session is not None:
                self.close(session, "cut", now)
            context.drop(block_reason(verdict))
            packed = pack_key(protocol, flow.source, flow.destination)
            if context.report_blocked(packed, verdict, now) is not Refusal.DROP:
                self._prohibit(message, now)
            return None
        if session is None:
            session = self._open(key, flow, now)
            if session is None:
                self._prohibit(message, now)
                return None
            context.emit(FlowOpened(now, session.flow_id, flow, verdict))
        session.policy = context.policy.version
        return session

    def _prohibit(self, message: IcmpMessage, now: float) -> None:
        gateway = self.context.gateway(message.version)
        self.context.send_error(icmp.unreachable(message.packet, icmp.ADMINISTRATIVELY, gateway), now)

    def _open(self, key: tuple[bytes, bytes, int], flow: FiveTuple, now: float) -> IcmpSession | None:
        context = self.context
        if len(self.sessions) >= context.config.limits.icmp_sessions:
            context.stats.shed_flows += 1
            self.close(next(iter(self.sessions.values())), "shed", now)
        session = IcmpSession(self, key, flow, now)
        try:
            session.socket = context.dialer.open_icmp(flow.version, session, flow)
        except DialError as problem:
            context.drop(DropReason.ICMP_REFUSED)
            where = "protect" if isinstance(problem, ProtectError) else "dialer"
            context.emit(EngineError(now, where, str(problem)))
            return None
        session.socket.watch(readable=True, writable=False)
        self.sessions[key] = session
        context.tracker.pin(session.destination)
        context.timers.touch(session)
        return session

    def _send(self, session: IcmpSession, message: IcmpMessage, now: float) -> None:
        assert session.socket is not None
        octets = HEADER.pack(message.type, 0, 0, message.rest >> 16, message.rest & 0xFFFF) + bytes(message.payload)
        try:
            session.socket.sendto(octets, Endpoint(session.destination, 0))
        except OSError:
            self.context.drop(DropReason.ICMP_REFUSED)
            return
        session.last_seen = now
        session.octets_up += len(octets)
        self.sessions[session.key] = self.sessions.pop(session.key)

    def on_replies(self, session: IcmpSession, now: float) -> None:
        """Echo replies for one session; its identifier is put back."""
        reply = ECHO[session.version][1]
        for _ in range(READS):
            socket = session.socket
            if socket is None:
                return
            try:
                octets, sender = socket.recvfrom()
            except BlockingIOError:
                return
            except OSError:
                if socket.recv_error() is None:
                    return
                continue
            if len(octets) < HEADER.size or octets[0] != reply or sender.address != session.destination:
                self.context.drop(DropReason.UDP_NOT_EXPECTED)
                continue
            _, _, _, _, number = HEADER.unpack_from(octets)
            session.last_seen = now
            session.octets_down += len(octets)
            rest = session.identifier << 16 | number
            payload = octets[HEADER.size :]
            self.context.tunnel.write_icmp(
                IcmpMessage(session.version, session.destination, session.source, reply, 0, rest, payload)
            )

    def close(self, session: IcmpSession, how: str, now: float) -> None:
        """Give back the socket."""
        self.sessions.pop(session.key, None)
        socket, session.socket = session.socket, None
        if socket is not None:
            socket.close()
            self.context.tracker.unpin(session.destination, now)
        self.context.timers.cancel(session)
        self.context.emit(
            FlowClosed(now, session.flow_id, session.flow, how, session.octets_up, session.octets_down)
        )

    def cut_blocked(self, now: float) -> None:
        """Judge every session again and end those that are refused now; a change of mode alone ends none."""
        for session in list(self.sessions.values()):
            verdict = self.context.policy.decide(session.flow, now)
            if not verdict.allowed and verdict.reason is not Reason.MODE:
                self.close(session, "cut", now)

    def stop(self, now: float, how: str = "stopped") -> None:
        """Close everything."""
        for session in list(self.sessions.values()):
            self.close(session, how, now)
