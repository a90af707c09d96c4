"""UDP sessions: one real socket for each of the app's ports, whatever it talks to.

Responsible for: endpoint-independent mapping with address-dependent filtering (RFC 4787 REQ-1, REQ-8),
time-outs refreshed by both directions, a verdict for every peer, ICMP errors in both directions, the cap.
Refuses to know: sockets (`upstream/`), what a lease is (`policy/`), DNS (`dns`).

A blocked datagram leaves no state behind: the next one is judged again, so a flow comes alive as soon
as its name is resolved. A mapping that has asked one question and had its answer is the first to be
shed, so that thousands of one-shot queries do not push out a call.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import cast

from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.events import EngineError, FlowClosed, FlowOpened
from netstack.core.flow import Endpoint, FiveTuple, key_destination, reverse_key, unpack_key
from netstack.core.packet import Datagram, DatagramRun, Octets
from netstack.core.ports import DatagramSocket, RunSocket, SocketError
from netstack.core.verdict import Reason, Refusal
from netstack.forward.context import Context, block_reason
from netstack.policy.lan import is_group, is_local
from netstack.wire import icmp

_UDP = b"\x11"
READS = 64  # datagrams taken from one socket before the others have their turn
RUN_READS = 2  # the same in calls for many datagrams
PEERS = 512  # destinations of one mapping; the oldest is forgotten first
REJUDGE = 5.0  # seconds for which a peer's verdict is kept
STUN_COOKIE = b"\x21\x12\xa4\x42"

UNREACHABLE = {
    errno.ECONNREFUSED: icmp.PORT,
    errno.EHOSTUNREACH: icmp.HOST,
    errno.ENETUNREACH: icmp.NET,
    errno.ENETDOWN: icmp.NET,
    errno.EADDRNOTAVAIL: icmp.NET,
    errno.EACCES: icmp.ADMINISTRATIVELY,
    errno.EPERM: icmp.ADMINISTRATIVELY,
}


def _place(endpoint: Endpoint) -> bytes:
    """Address and port as in a flow key."""
    return endpoint.address.ljust(16, b"\0") + endpoint.port.to_bytes(2, "big")


class _Peer:
    """One destination of a mapping."""

    __slots__ = ("endpoint", "flow", "flow_id", "header", "judged_at", "key", "octets_down", "octets_up", "place",
                 "policy", "port", "reply_key", "session", "size")  # fmt: skip

    def __init__(self, session: UdpSession, key: bytes, flow: FiveTuple, flow_id: int) -> None:
        self.session = session
        self.key = key
        self.reply_key = reverse_key(key)
        self.flow = flow
        self.flow_id = flow_id
        self.endpoint = flow.destination
        self.place = key[18:34] + key[36:38]
        self.judged_at = 0.0
        self.policy = -1
        self.octets_up = 0
        self.octets_down = 0
        self.port = flow.destination.port
        self.header = b""  # of a packet with `size` octets, up to its payload: an ICMP error quotes it
        self.size = -1


class UdpSession:
    """A mapping: the app's address and port on one side, one socket on the other."""

    __slots__ = ("addresses", "asked_group", "by_place", "forwarder", "ident", "is_stun", "last_seen", "peers",
                 "received", "runs", "sent", "socket", "source", "timer_at", "version")  # fmt: skip

    def __init__(self, forwarder: UdpForwarder, ident: bytes, source: Endpoint, now: float) -> None:
        self.forwarder = forwarder
        self.ident = ident
        self.source = source
        self.version = source.version
        self.socket: DatagramSocket | None = None
        self.runs: RunSocket | None = None  # the same socket, where it can
        self.peers: dict[bytes, _Peer] = {}
        self.by_place: dict[bytes, _Peer] = {}
        self.addresses: dict[bytes, int] | None = None  # of the peers, how many have each; from the second peer on
        self.last_seen = now
        self.sent = 0
        self.received = 0
        self.is_stun = False
        self.asked_group = False  # spoke to a multicast or broadcast address: any neighbour may answer
        self.timer_at: float | None = None

    def next_timeout(self) -> float | None:
        """When the session is idle for too long."""
        return None if self.socket is None else self.last_seen + self.limit()

    def limit(self) -> float:
        """Idle seconds that this session may live, by what it carries."""
        udp = self.forwarder.context.config.udp
        if self.is_stun:
            return udp.stun_timeout
        for peer in self.peers.values():
            if peer.port != 53:
                return udp.timeout
        return udp.dns_timeout

    def on_timeout(self, now: float) -> None:
        """Idle for too long."""
        if self.last_seen + self.limit() <= now:
            self.forwarder.close(self, "timeout", now)

    def has_asked(self, address: bytes) -> bool:
        """Whether some peer has this address."""
        if self.addresses is not None:
            return address in self.addresses
        return any(peer.endpoint.address == address for peer in self.peers.values())

    def on_readable(self, socket: DatagramSocket, now: float) -> None:
        """Replies, or errors that the kernel kept."""
        if socket is self.socket:
            self.forwarder.on_replies(self, now)

    def on_writable(self, socket: DatagramSocket, now: float) -> None:
        """Never asked for: datagrams that do not fit are dropped, as on any link."""


class UdpForwarder:
    """All UDP sessions of one engine."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sessions: dict[bytes, UdpSession] = {}  # least recently used first
        self.peers: dict[bytes, _Peer] = {}  # of all sessions
        self.answered: dict[bytes, UdpSession] = {}  # those of them that wait for nothing, in order of their answers

    # --- from the app ---

    def on_datagram(self, datagram: Datagram, now: float) -> None:
        """A datagram that is not for the DNS bridge."""
        key = datagram.key
        if datagram.hop_limit <= 1 and not is_group(key_destination(key)):
            self._expired(datagram, now)
            return
        peer = self.peers.get(key)
        context = self.context
        if (
            peer is None
            or now - peer.judged_at > REJUDGE
            or peer.policy != context.policy.version
            or context.policy.blocks_quic(peer.port, datagram.payload)
        ):
            flow = peer.flow if peer is not None else unpack_key(key)
            verdict = context.policy.decide(flow, now, datagram.payload)
            ident = key[:1] + key[2:18] + key[34:36]
            session = self.sessions.get(ident)
            if not verdict.allowed and not (peer is not None and verdict.reason is Reason.MODE):
                context.stats.udp_blocked += 1
                context.drop(block_reason(verdict))
                if context.report_blocked(key, verdict, now) is not Refusal.DROP:
                    context.send_error(icmp.unreachable(datagram.packet, icmp.PORT), now)
                if session is not None and peer is not None:
                    self._forget_peer(session, peer, "cut", now)
                return
            if session is None:
                session = self._open(ident, flow, datagram, now)
                if session is None:
                    return
            if peer is None:
                peer = self._add_peer(session, key, flow, now)
                context.emit(FlowOpened(now, peer.flow_id, flow, verdict))
            peer.judged_at = now
            peer.policy = context.policy.version
        self._send(peer.session, peer, datagram, now)

    def on_run(self, run: DatagramRun, now: float) -> None:
        """Several datagrams of one flow: in one piece when nothing has to be decided about each."""
        key = run.key
        peer = self.peers.get(key)
        policy = self.context.policy
        if (
            peer is None
            or (runs := peer.session.runs) is None
            or run.hop_limit <= 1
            or now - peer.judged_at > REJUDGE
            or peer.policy != policy.version
            or policy.may_block_quic(peer.port, run.payload, run.size)
        ):
            for datagram in run.datagrams():
                self.on_datagram(datagram, now)
            return
        payload, session = run.payload, peer.session
        try:
            sent = runs.send_run(payload, run.size, peer.place)
        except OSError:
            sent = 0
        if sent:
            octets = min(sent * run.size, len(payload))
            self._went(session, peer, payload[:octets], sent, now)
            if peer.size != run.size:
                peer.size = run.size
                peer.header = bytes(run.header)
        if sent < run.count:  # errors are about one datagram
            for datagram in run.datagrams()[sent:]:
                self._send(session, peer, datagram, now)

    def _expired(self, datagram: Datagram, now: float) -> None:
        """This engine is a hop: a traceroute sees it (RFC 1812 5.3.1)."""
        self.context.drop(DropReason.TTL_EXCEEDED)
        gateway = self.context.gateway(datagram.key[0])
        self.context.send_error(icmp.time_exceeded(datagram.packet, gateway), now)

    def _open(self, ident: bytes, flow: FiveTuple, datagram: Datagram, now: float) -> UdpSession | None:
        context = self.context
        while len(self.sessions) >= context.config.limits.udp_sessions:
            self._shed(now)
        session = UdpSession(self, ident, flow.source, now)
        try:
            session.socket = context.dialer.open_udp(flow.version, session, flow)
        except DialError as problem:
            if problem.errno in (errno.EMFILE, errno.ENFILE) and self.sessions:
                self._shed(now)
            where = "protect" if isinstance(problem, ProtectError) else "dialer"
            context.emit(EngineError(now, where, str(problem)))
            context.drop(DropReason.UDP_SEND_FAILED)
            code = UNREACHABLE.get(problem.errno, icmp.ADMINISTRATIVELY)
            context.send_error(icmp.unreachable(datagram.packet, code, context.gateway(flow.version)), now)
            return None
        self.sessions[ident] = session
        if hasattr(session.socket, "send_run"):  # isinstance with a Protocol takes longer than the whole socket
            session.runs = cast(RunSocket, session.socket)
        session.socket.watch(readable=True, writable=False)
        context.stats.udp_opened += 1
        context.timers.touch(session)
        return session

    def _shed(self, now: float) -> None:
        """The one whose answer is longest ago, else the one idle longest."""
        self.context.stats.shed_flows += 1
        self.close(next(iter((self.answered or self.sessions).values())), "shed", now)

    def _add_peer(self, session: UdpSession, key: bytes, flow: FiveTuple, now: float) -> _Peer:
        if len(session.peers) >= PEERS:
            self._forget_peer(session, next(iter(session.peers.values())), "shed", now)
        peer = _Peer(session, key, flow, self.context.next_flow_id())
        session.peers[key] = self.peers[key] = peer
        session.by_place[peer.place] = peer
        address = peer.endpoint.address
        if session.addresses is not None:
            session.addresses[address] = session.addresses.get(address, 0) + 1
        elif len(session.peers) > 1:  # most never have a second one
            session.addresses = dict(Counter(one.endpoint.address for one in session.peers.values()))
        if is_group(address):
            session.asked_group = True
        self.context.tracker.pin(address)
        return peer

    def _forget_peer(self, session: UdpSession, peer: _Peer, how: str, now: float) -> None:
        del session.peers[peer.key], self.peers[peer.key]
        session.by_place.pop(peer.place, None)
        address = peer.endpoint.address
        if session.addresses is not None:
            left = session.addresses[address] - 1
            if left:
                session.addresses[address] = left
            else:
                del session.addresses[address]
        self.context.tracker.unpin(address, now)
        self.context.emit(FlowClosed(now, peer.flow_id, peer.flow, how, peer.octets_up, peer.octets_down))

    def _send(self, session: UdpSession, peer: _Peer, datagram: Datagram, now: float) -> None:
        assert session.socket is not None
        payload = datagram.payload
        context = self.context
        for attempt in (0, 1):
            try:
                if session.runs is not None:
                    session.runs.send_run(payload, len(payload), peer.place)
                else:
                    session.socket.sendto(payload, peer.endpoint)
                break
            except BlockingIOError:
                context.drop(DropReason.UDP_BACKPRESSURE)
                return
            except OSError as problem:
                # an error of an earlier datagram is reported by the next call: read it, then try once more
                if self._report_errors(session, now) and attempt == 0:
                    continue
                context.drop(DropReason.UDP_SEND_FAILED)
                gateway = context.gateway(session.version)
                if problem.errno == errno.EMSGSIZE:
                    context.send_error(icmp.packet_too_big(datagram.packet, context.tunnel.mtu, gateway), now)
                elif problem.errno in UNREACHABLE:
                    context.send_error(icmp.unreachable(datagram.packet, UNREACHABLE[problem.errno], gateway), now)
                return
        self._went(session, peer, payload, 1, now)
        if peer.size != len(payload):
            peer.size = len(payload)
            peer.header = bytes(datagram.packet[: len(datagram.packet) - peer.size])

    def _went(self, session: UdpSession, peer: _Peer, payload: Octets, count: int, now: float) -> None:
        session.last_seen = now
        session.sent += count
        peer.octets_up += len(payload)
        if not session.is_stun and len(payload) >= 20 and payload[4] == 0x21 and bytes(payload[4:8]) == STUN_COOKIE:
            session.is_stun = True
        sessions, ident = self.sessions, session.ident
        del sessions[ident]  # to the most recently used end
        sessions[ident] = session
        if session.received == 1:
            self.answered.pop(ident, None)

    # --- from the sockets ---

    def on_replies(self, session: UdpSession, now: float) -> None:
        """Up to `READS` datagrams from a session's socket."""
        if session.runs is not None:
            self._on_runs(session, now)
            return
        write = self.context.tunnel.write_datagram
        for _ in range(READS):
            socket = session.socket
            if socket is None:
                return
            try:
                payload, sender = socket.recvfrom()
            except BlockingIOError:
                return
            except OSError:
                if not self._report_errors(session, now):
                    return
                continue
            reply_key = self._expected(session, _place(sender), 1, len(payload), now)
            if reply_key is not None:
                write(Datagram(reply_key, payload))

    def _on_runs(self, session: UdpSession, now: float) -> None:
        tunnel = self.context.tunnel
        for _ in range(RUN_READS):
            socket = session.runs
            if socket is None:
                return
            try:
                runs, more = socket.recv_runs()
            except BlockingIOError:
                return
            except OSError:
                if not self._report_errors(session, now):
                    return
                continue
            for place, count, size, payload in runs:
                reply_key = self._expected(session, place, count, len(payload), now)
                if reply_key is None:
                    continue
                if count == 1:
                    tunnel.write_datagram(Datagram(reply_key, payload))
                else:
                    tunnel.write_datagrams(DatagramRun(reply_key, payload, size, count))
            if not more:
                return

    def _expected(self, session: UdpSession, place: bytes, count: int, octets: int, now: float) -> bytes | None:
        """The key of what came from `place`, or None when it is nobody's business here (RFC 4787 REQ-8)."""
        peer = session.by_place.get(place)
        if peer is not None:
            reply_key: bytes = peer.reply_key
            peer.octets_down += octets
        else:
            address = place[:4] if session.version == 4 else place[:16]
            if not session.has_asked(address) and not (session.asked_group and is_local(address)):
                self.context.stats.drops[DropReason.UDP_NOT_EXPECTED] += count
                return None
            # another port of a known peer, or one of a group that was asked (SSDP, mDNS)
            ident = session.ident
            reply_key = ident[:1] + _UDP + place[:16] + ident[1:17] + place[16:] + ident[17:]
        session.last_seen = now
        session.received += count
        if session.sent == 1:  # one question, one answer: nothing more is to be expected
            if session.received == 1:
                self.answered[session.ident] = session
            else:
                self.answered.pop(session.ident, None)
        return reply_key

    def _report_errors(self, session: UdpSession, now: float) -> bool:
        """Turn the socket's ICMP errors into ICMP errors for the app; True when there was one."""
        seen = False
        while session.socket is not None and (error := session.socket.recv_error()) is not None:
            seen = True
            peer = session.by_place.get(_place(error.destination))
            if peer is not None:
                self._report_error(session, peer, error, now)
        return seen

    def _report_error(self, session: UdpSession, peer: _Peer, error: SocketError, now: float) -> None:
        packet = peer.header + error.payload
        if error.errno == errno.EMSGSIZE:
            message = icmp.packet_too_big(packet, error.info, error.offender)
        elif error.errno == errno.ECONNREFUSED:
            message = icmp.unreachable(packet, icmp.PORT)
        elif error.errno in UNREACHABLE:
            message = icmp.unreachable(packet, UNREACHABLE[error.errno], error.offender)
        else:
            return
        self.context.send_error(message, now)

    # --- the end ---

    def close(self, session: UdpSession, how: str, now: float) -> None:
        """Close the socket and report each peer's flow."""
        self.sessions.pop(session.ident, None)
        self.answered.pop(session.ident, None)
        socket, session.socket = session.socket, None
        session.runs = None
        if socket is not None:
            socket.close()
        for peer in list(session.peers.values()):
            self._forget_peer(session, peer, how, now)
        self.context.timers.cancel(session)

    def cut_blocked(self, now: float) -> None:
        """Judge every flow again and end those that are refused now; a change of mode alone ends none."""
        context = self.context
        for peer in list(self.peers.values()):
            verdict = context.policy.decide(peer.flow, now)
            if verdict.allowed or verdict.reason is Reason.MODE:
                continue
            session = peer.session
            context.report_blocked(peer.key, verdict, now)
            self._forget_peer(session, peer, "cut", now)
            if not session.peers:
                self.close(session, "cut", now)

    def stop(self, now: float) -> None:
        """Close everything."""
        for session in list(self.sessions.values()):
            self.close(session, "stopped", now)

    def network_changed(self, now: float) -> None:
        """Sockets are bound to the old network: the app's next datagram makes a new one."""
        for session in list(self.sessions.values()):
            self.close(session, "network-changed", now)
