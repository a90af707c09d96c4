"""Replays a capture through the real engine on a virtual clock.

Responsible for: handing each captured packet of an app to the engine and each one of a far end to the scripted
upstream, at its time, with every deadline of the engine in between; collecting verdicts.
Refuses to know: files, how results are shown.

Two passes: `CaptureFacts` has seen the whole capture when this one starts, so that it is known who the app of a
conversation is and which initial sequence number the far end will choose. Nothing else is known ahead: the far
end's octets reach the engine when the capture says so.

An app in a capture cannot react to this engine. Where it would have done otherwise, its packets are adapted: after
a reset it is silent, and it never acknowledges what it was not sent yet.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from typing import Any

from netstack.capture.conversations import Peer, TcpConversation, UdpConversation, format_time
from netstack.capture.dissect import IpHeader, TcpFields, UdpFields, read_ip, read_tcp, read_udp
from netstack.capture.facts import CaptureFacts
from netstack.capture.whole import CapturedFragments
from netstack.codec.base import PacketBatch, PacketCodec
from netstack.config import Config
from netstack.core.drops import DropReason
from netstack.core.events import Event, EventSink, FlowClosed, FlowOpened, QueryAnswered, QueryFailed
from netstack.core.flow import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Endpoint,
    FiveTuple,
    key_destination,
    key_destination_port,
    key_source,
    key_source_port,
    pack_key,
    reverse_key,
)
from netstack.core.packet import ACK, SYN, Octets, SegmentRun
from netstack.core.seq import seq_lt
from netstack.core.stats import Stats
from netstack.core.verdict import Verdict
from netstack.engine import Engine
from netstack.link.linktype import find_ip
from netstack.link.packets import PacketTunnel
from netstack.link.pcap import Frame
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.lan import Scope, classify
from netstack.policy.tracker import IpTracker
from netstack.runtime.adapt import clamp_ack, is_intact, whole_packet
from netstack.runtime.clock import VirtualClock
from netstack.runtime.script import TcpScript
from netstack.runtime.seeded import SeededEntropy
from netstack.runtime.trace import AnnotatedCapture
from netstack.runtime.verdicts import DNS, FlowRow, five_tuple
from netstack.upstream.scripted import (
    ScriptedDatagrams,
    ScriptedDialer,
    ScriptedError,
    ScriptedResolver,
    ScriptedStream,
)

TAIL = 30.0  # seconds that the engine runs on behind the last packet: open queries and dials come to an end
_ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}
_ICMP_ERRORS = {ICMP: frozenset((3, 11, 12)), ICMPV6: frozenset((1, 2, 3, 4))}
Key = tuple[int, Peer, Peer]


def replay_config(config: Config) -> Config:
    """The same policy with a TCP that never lags behind the captured one: what the far end had in flight once, it
    must be able to have in flight again, and a retransmission time-out says nothing about an app that cannot answer."""
    tcp = dataclasses.replace(
        config.tcp, window=1 << 20, window_max=1 << 24, send_buffer=1 << 26, initial_cwnd=1 << 16,
        rto_initial=3.0, rto_min=3.0, delayed_ack=0.0,
    )  # fmt: skip
    limits = dataclasses.replace(config.limits, memory=1 << 30)
    return dataclasses.replace(config, tcp=tcp, limits=limits)


class _ReplayTunnel(PacketTunnel):
    """One packet in at a time; what comes out goes to the replay."""

    def __init__(
        self,
        codec: PacketCodec,
        mtu: int,
        stats: Stats,
        on_run: Callable[[SegmentRun], None],
        on_packet: Callable[[Octets], None],
    ) -> None:
        super().__init__(codec, mtu, stats=stats)
        self._waiting: bytes | None = None
        self._verify = True
        self._on_run = on_run
        self._on_packet = on_packet

    def give(self, packet: bytes, verify: bool) -> None:
        """The next packet of the app."""
        self._waiting, self._verify = packet, verify

    def read_batch(self, batch: PacketBatch) -> int:
        """As `Tunnel.read_batch`."""
        packet, self._waiting = self._waiting, None
        if packet is None:
            batch.count = batch.packets = batch.octets = 0
            return 0
        taken = self.codec.parse_batch([packet], batch, verify=self._verify)
        if not taken:
            self.stats.drops[DropReason.TRUNCATED_IP] += 1
        return taken

    def write_run(self, run: SegmentRun) -> int:
        """As `Tunnel.write_run`."""
        self._on_run(run)
        return super().write_run(run)

    def write_packets(self, packets: Any) -> int:
        """As `PacketTunnel.write_packets`."""
        for packet in packets:
            self._on_packet(packet)
        return len(packets)


class _WitnessedPolicy(FirewallPolicy):
    """The engine's own policy, with every verdict told."""

    __slots__ = ("_told",)

    def __init__(self, config: Config, tracker: IpTracker, told: Callable[[FiveTuple, Verdict], None]) -> None:
        self._told = told
        super().__init__(config, tracker)

    def decide(self, flow: FiveTuple, now: float, payload: Octets = b"") -> Verdict:
        """As `FirewallPolicy.decide`."""
        verdict = super().decide(flow, now, payload)
        self._told(flow, verdict)
        return verdict


class Replay:
    """One capture, second pass: feed `frame` every frame, then `finish`."""

    def __init__(
        self,
        facts: CaptureFacts,
        config: Config,
        codec: PacketCodec,
        *,
        seed: int = 0,
        keep_bad_checksums: bool = False,
        emit: EventSink | None = None,
        annotated: AnnotatedCapture | None = None,
    ) -> None:
        self.config = replay_config(config)
        self.clock = VirtualClock()
        self.stats = Stats()
        self.rows: list[FlowRow] = []
        self.queries: list[dict[str, Any]] = []
        self.skipped: dict[str, int] = {"no_ip": 0, "bad_checksum": 0, "after_reset": 0, "no_listener": 0}
        self._start_ns = facts.first_time_ns or 0
        self._verify = not keep_bad_checksums
        self._sink = emit
        self._annotated = annotated
        self._out: list[bytes] = []
        self._frame = Frame(0, 0, 0, 0, b"", 0)
        self._fragments = CapturedFragments()
        self._row: FlowRow | None = None
        self._index(facts)
        self.dialer = ScriptedDialer(self._on_stream, self._on_datagrams)
        self.resolver = ScriptedResolver()
        self._sockets: dict[tuple[int, Peer], ScriptedDatagrams] = {}
        self.tunnel = _ReplayTunnel(codec, self.config.tunnel.mtu, self.stats, self._on_run, self._on_packet)
        self.engine = Engine(
            self.config,
            tunnel=self.tunnel,
            codec=codec,
            dialer=self.dialer,
            resolver=self.resolver,
            entropy=SeededEntropy(seed, self._captured_isn),
            emit=self._emit,
            stats=self.stats,
            verify=self._verify,
        )
        policy = _WitnessedPolicy(self.config, self.engine.tracker, self._on_verdict)
        self.engine.policy = self.engine.context.policy = policy

    # --- what the first pass knows ---

    def _index(self, facts: CaptureFacts) -> None:
        """Rows and look-ups by pair; several TCP conversations of one pair follow each other."""
        self._tcp: dict[Key, list[TcpScript]] = {}
        self._udp: dict[Key, tuple[FlowRow, int]] = {}
        self._icmp: dict[Key, FlowRow] = {}
        self._current: dict[Key, TcpScript] = {}
        self._servers: set[bytes] = set()
        dns_ports = self.config.dns.ports
        names = {int(shown["tcp_stream"]): shown["name"] for shown in facts.server_names}
        for conversation in facts.tcp:
            client, server = conversation.peers[conversation.client], conversation.peers[1 - conversation.client]
            row = self._add_row(TCP, client, server, conversation)
            row.named(names.get(conversation.index, ""))
            script = TcpScript(conversation, row, is_dns=server[1] in dns_ports)
            self._tcp.setdefault(_pair(TCP, client, server), []).append(script)
            self._servers.add(server[0])
        for session in facts.udp:
            side = _udp_app_side(session)
            client, server = session.peers[side], session.peers[1 - side]
            row = self._add_row(UDP, client, server, session)
            self._udp[_pair(UDP, client, server)] = (row, side)
            self._servers.add(server[0])
        clients = {row.flow.source.address for row in self.rows}
        self._servers -= clients

    def _add_row(
        self, protocol: int, client: Peer, server: Peer, conversation: TcpConversation | UdpConversation
    ) -> FlowRow:
        flow = five_tuple(protocol, client, server)
        row = FlowRow(flow, conversation.first_frame, format_time(conversation.first_time_ns))
        self.rows.append(row)
        return row

    def _captured_isn(self, key: bytes) -> int | None:
        script = self._current.get(_key_of(key))
        if script is None:
            return None
        side = script.conversation.sides[1 - script.conversation.client]
        return side.isn if side.synacks or side.syns else None

    # --- frames in order ---

    def frame(self, frame: Frame) -> None:
        """The next frame of the capture."""
        self._frame = frame
        self._advance((frame.time_ns - self._start_ns) / 1e9)
        found = find_ip(frame.linktype, frame.data)
        if found is None:
            self.skipped["no_ip"] += 1
            return
        ip = read_ip(frame.data, *found, frame.length)
        if ip.fragment:
            whole = self._fragments.add(frame.data, ip, self.clock.now()) if ip.end else None
            if whole is not None:
                self._dispatch(*whole)
            return
        self._dispatch(frame.data, ip)

    def finish(self) -> None:
        """No more frames: what is open comes to its end, then the engine stops."""
        self._advance(self.clock.now() + TAIL)
        self._row = None
        self.engine.stop(self.clock.now())
        self._settle()
        self._write_out()

    def _advance(self, to: float) -> None:
        """Move time, stopping at each of the engine's deadlines."""
        engine, clock = self.engine, self.clock
        while (deadline := engine.next_timeout()) is not None and deadline <= to:
            now = clock.advance(deadline)
            self._row = None
            engine.on_timeout(now)
            self._settle()
            self._write_out()
        clock.advance(to)

    def _settle(self) -> None:
        self.dialer.serve(self.engine, self.clock.now())

    def _dispatch(self, octets: bytes, ip: IpHeader) -> None:
        if ip.protocol == TCP and (segment := read_tcp(octets, ip)) is not None and not segment.broken:
            self._on_tcp(octets, ip, segment)
        elif ip.protocol == UDP and (datagram := read_udp(octets, ip)) is not None and not datagram.broken:
            self._on_udp(octets, ip, datagram)
        elif ip.protocol in _ECHO and ip.at + 8 <= ip.end:
            self._on_icmp(octets, ip)
        else:
            self._on_other(octets, ip)

    def _on_other(self, octets: bytes, ip: IpHeader) -> None:
        """What belongs to no conversation: the engine has to survive it, unless it surely comes from a far end."""
        if ip.source in self._servers:
            self.skipped["no_listener"] += 1
            return
        self._feed(octets, ip, None)

    # --- TCP ---

    def _on_tcp(self, octets: bytes, ip: IpHeader, segment: TcpFields) -> None:
        source, destination = (ip.source, segment.source_port), (ip.destination, segment.destination_port)
        pair = _pair(TCP, source, destination)
        script = self._script(pair)
        if script is None:
            self._on_other(octets, ip)
            return
        row = script.row
        payload = octets[segment.at : segment.end].ljust(segment.size, b"\0")
        if (row.flow.source.address, row.flow.source.port) == source:
            self._from_app(octets, ip, segment, payload, script)
            return
        self._note(octets, ip, row)
        if self._verify and not is_intact(octets, ip):
            self.skipped["bad_checksum"] += 1
            return
        script.from_peer(segment, payload)
        for message in script.answers:
            self.resolver.answer(row.flow, message, self.clock.now())
        script.answers.clear()
        self._settle()
        self._write_out(row)

    def _script(self, pair: Key) -> TcpScript | None:
        """The conversation of this pair that the frame at hand belongs to."""
        scripts = self._tcp.get(pair)
        if scripts is None:
            return None
        number = self._frame.number
        while len(scripts) > 1 and scripts[1].conversation.first_frame <= number:
            self._replace(scripts.pop(0))
        script = scripts[0]
        flow = script.row.flow
        self._current[TCP, _peer(flow.source), _peer(flow.destination)] = script
        return script

    def _replace(self, script: TcpScript) -> None:
        """The app has forgotten a connection whose pair it uses again; the engine learns it by a reset, as it would."""
        flow = script.row.flow
        carried = self.engine.tcp.table.flows.get(pack_key(TCP, flow.source, flow.destination))
        if carried is not None and not carried.closed:
            carried.cut("cut", self.clock.now())
            self._settle()
            self._out.clear()

    def _from_app(
        self, octets: bytes, ip: IpHeader, segment: TcpFields, payload: bytes, script: TcpScript
    ) -> None:
        if segment.flags & (SYN | ACK) == SYN:
            script.silent = False
        if script.silent:
            self._note(octets, ip, script.row)
            self.skipped["after_reset"] += 1
            return
        if not self._verify or is_intact(octets, ip):
            script.from_app(segment, payload)
            self._settle()
        flow = script.row.flow
        carried = self.engine.tcp.table.flows.get(pack_key(TCP, flow.source, flow.destination))
        limit = None
        if carried is not None and segment.flags & ACK and not segment.flags & SYN:
            sent = carried.connection.snd_nxt
            if seq_lt(sent, segment.ack):
                limit = sent
        self._feed(octets, ip, script.row, ack_limit=limit)

    # --- UDP ---

    def _on_udp(self, octets: bytes, ip: IpHeader, datagram: UdpFields) -> None:
        source, destination = (ip.source, datagram.source_port), (ip.destination, datagram.destination_port)
        found = self._udp.get(_pair(UDP, source, destination))
        if found is None:
            self._on_other(octets, ip)
            return
        row = found[0]
        if _peer(row.flow.source) == source:
            self._feed(octets, ip, row)
            return
        self._note(octets, ip, row)
        if self._verify and not is_intact(octets, ip):
            self.skipped["bad_checksum"] += 1
            return
        payload = octets[datagram.at : datagram.end]
        if source[1] in self.config.dns.ports and self.resolver.answer(row.flow, payload, self.clock.now()):
            pass
        elif (socket := self._sockets.get((UDP, destination))) is not None:
            socket.deliver(payload, Endpoint(*source))
        else:
            self.skipped["no_listener"] += 1
        self._settle()
        self._write_out(row)

    # --- ICMP ---

    def _on_icmp(self, octets: bytes, ip: IpHeader) -> None:
        kind = octets[ip.at]
        request, reply = _ECHO[ip.protocol]
        identifier = octets[ip.at + 4] << 8 | octets[ip.at + 5]
        if kind == request:
            self._feed(octets, ip, self._ping(ip, identifier))
        elif kind == reply:
            self._echo_reply(octets, ip, identifier)
        elif kind in _ICMP_ERRORS[ip.protocol] and self._icmp_error(octets, ip):
            self._settle()
            self._write_out()
        else:
            self._on_other(octets, ip)

    def _ping(self, ip: IpHeader, identifier: int) -> FlowRow:
        client, server = (ip.source, identifier), (ip.destination, 0)
        key = (ip.protocol, client, server)
        row = self._icmp.get(key)
        if row is None:
            frame = self._frame
            row = FlowRow(five_tuple(*key), frame.number, format_time(frame.time_ns))
            self._icmp[key] = row
            self.rows.append(row)
        return row

    def _echo_reply(self, octets: bytes, ip: IpHeader, identifier: int) -> None:
        row = self._icmp.get((ip.protocol, (ip.destination, identifier), (ip.source, 0)))
        self._note(octets, ip, row)
        socket = self._sockets.get((ip.protocol, (ip.destination, identifier)))
        if socket is None:
            self.skipped["no_listener"] += 1
            return
        socket.deliver(octets[ip.at : ip.end], Endpoint(ip.source, 0))
        self._settle()
        self._write_out(row)

    def _icmp_error(self, octets: bytes, ip: IpHeader) -> bool:
        """An error about something that an app sent; False when it is about nothing known."""
        quoted = read_ip(octets[: ip.end], ip.version, ip.at + 8, len(octets)) if ip.at + 8 < ip.end else None
        if quoted is None or quoted.protocol not in (TCP, UDP) or quoted.at + 4 > ip.end:
            return False
        ports = octets[quoted.at : quoted.at + 4]
        source = (quoted.source, ports[0] << 8 | ports[1])
        destination = (quoted.destination, ports[2] << 8 | ports[3])
        error = _errno_of(ip.protocol, octets[ip.at], octets[ip.at + 1])
        if quoted.protocol == TCP:
            script = self._script(_pair(TCP, source, destination))
            if script is None or _peer(script.row.flow.source) != source:
                return False
            self._note(octets, ip, script.row)
            if error:
                script.unreachable(error)
            return True
        socket = self._sockets.get((UDP, source))
        found = self._udp.get(_pair(UDP, source, destination))
        if found is None or _peer(found[0].flow.source) != source:
            return False
        self._note(octets, ip, found[0])
        if socket is not None and error:
            payload = octets[quoted.at + 8 : quoted.end]
            kind, code = octets[ip.at], octets[ip.at + 1]
            socket.fail(ScriptedError(error, kind, code, Endpoint(*destination), ip.source, 0, payload))
        return True

    # --- into the engine ---

    def _feed(self, octets: bytes, ip: IpHeader, row: FlowRow | None, *, ack_limit: int | None = None) -> None:
        """Hand the packet to the engine, let everything settle, book what happened on `row`."""
        packet, intact = whole_packet(octets, ip)
        verify = self._verify and intact
        if ack_limit is not None:
            packet = clamp_ack(packet, ip, ack_limit)
        self._row = row
        if row is not None:
            row.packets += 1
            self.resolver.flow = row.flow
        before = self.stats.drops.total()
        known = dict(self.stats.drops) if row is not None else {}
        self.tunnel.give(packet, verify)
        self.engine.on_tunnel_readable(self.clock.now())
        self._settle()
        self._row = None
        if row is not None and self.stats.drops.total() != before:
            for reason, count in self.stats.drops.items():
                if more := count - known.get(reason, 0):
                    row.drops[reason] += more
        self._note(octets, ip, row)
        self._write_out(row)

    # --- out of the engine ---

    def _on_stream(self, stream: ScriptedStream) -> None:
        if stream.flow is not None:
            key = (TCP, _peer(stream.flow.source), _peer(stream.flow.destination))
            script = self._current.get(key)
            if script is not None:
                script.attach(stream)

    def _on_datagrams(self, socket: ScriptedDatagrams) -> None:
        if socket.flow is not None:
            self._sockets[socket.flow.protocol, _peer(socket.flow.source)] = socket

    def _on_run(self, run: SegmentRun) -> None:
        script = self._current.get(_key_of(reverse_key(run.key)))
        if script is not None:
            script.sent_to_app(run)

    def _on_packet(self, packet: Octets) -> None:
        if self._annotated is not None:
            self._out.append(bytes(packet))

    def _on_verdict(self, flow: FiveTuple, verdict: Verdict) -> None:
        row = self._row_of(flow)
        if row is not None:
            row.judged(verdict)
            row.named(self.engine.tracker.name_of(flow.destination.address))

    def _row_of(self, flow: FiveTuple) -> FlowRow | None:
        source, destination = _peer(flow.source), _peer(flow.destination)
        if flow.protocol == TCP:
            script = self._current.get((TCP, source, destination))
            return script.row if script is not None else None
        if flow.protocol == UDP:
            found = self._udp.get(_pair(UDP, source, destination))
            return found[0] if found is not None else None
        return self._icmp.get((flow.protocol, source, destination))

    def _emit(self, event: Event) -> None:
        if self._sink is not None:
            self._sink(event)
        if isinstance(event, FlowOpened):
            row = self._row_of(event.flow)
            if row is not None:
                row.flow_id = event.flow_id
                row.judged(event.verdict)
        elif isinstance(event, FlowClosed):
            row = self._row_of(event.flow)
            if row is not None:
                row.flow_id = event.flow_id
                row.how = event.how
                row.octets_up += event.octets_up
                row.octets_down += event.octets_down
        elif isinstance(event, (QueryAnswered, QueryFailed)):
            self._on_query(event)

    def _on_query(self, event: QueryAnswered | QueryFailed) -> None:
        row = self._row_of(event.flow)
        if row is not None:
            row.judged(DNS)
            row.named(event.name)
        shown: dict[str, Any] = {
            "time": self._stamp(),
            "client": str(event.flow.source),
            "server": str(event.flow.destination),
            "name": event.name,
            "type": event.type,
        }
        if isinstance(event, QueryAnswered):
            shown |= {
                "rcode": event.rcode,
                "addresses": list(event.addresses),
                "elapsed": round(event.elapsed, 6),
            }
        else:
            shown |= {"rcode": "SERVFAIL", "failed": event.why}
        self.queries.append(shown)

    def _stamp(self) -> str:
        return format_time(self._start_ns + round(self.clock.now() * 1e9))

    # --- the annotated capture ---

    def _note(self, octets: bytes, ip: IpHeader, row: FlowRow | None) -> None:
        if self._annotated is not None:
            packet = octets[ip.start : ip.end] if ip.at else octets[ip.start :]
            self._annotated.captured(packet, self._frame.time_ns, row.comment() if row is not None else "")

    def _write_out(self, row: FlowRow | None = None) -> None:
        if self._annotated is None or not self._out:
            return
        now_ns = self._start_ns + round(self.clock.now() * 1e9)
        out, self._out = self._out, []
        for packet in out:
            self._annotated.synthetic(packet, now_ns, row.comment() if row is not None else "")

    # --- results ---

    @property
    def frame_number(self) -> int:
        """The frame at hand, or the last one."""
        return self._frame.number

    def as_dict(self, *, streams: bool = False) -> dict[str, Any]:
        """Plain JSON types. `streams` adds the comparison of what was carried with what was captured."""
        rows = sorted(self.rows, key=lambda row: row.first_frame)
        shown = [row.as_dict() for row in rows]
        if not streams:
            for row in shown:
                row.pop("streams", None)
        actions = [row.action for row in rows]
        totals = {
            "flows": len(rows),
            "allowed": actions.count("allow"),
            "blocked": actions.count("block"),
            "without_verdict": actions.count("none"),
            "queries": len(self.queries),
        }
        if streams:
            results = [c.result for row in rows if row.octets_up or row.octets_down for c in (row.up, row.down) if c]
            totals |= {f"streams_{word}": results.count(word) for word in ("match", "partial", "differs")}
        return {
            "flows": shown,
            "queries": self.queries,
            "totals": totals,
            "skipped": {name: count for name, count in self.skipped.items() if count},
            "engine": self.stats.as_dict(),
        }


def _peer(endpoint: Endpoint) -> Peer:
    return endpoint.address, endpoint.port


def _pair(protocol: int, one: Peer, other: Peer) -> Key:
    """The same for both directions."""
    return (protocol, one, other) if one <= other else (protocol, other, one)


def _key_of(key: bytes) -> Key:
    return (
        key[1],
        (key_source(key), key_source_port(key)),
        (key_destination(key), key_destination_port(key)),
    )


def _udp_app_side(session: UdpConversation) -> int:
    """Who the app is: who was seen first, unless that was plainly an answer that the capture starts with."""
    (first, first_port), (second, second_port) = session.peers
    if first_port < 1024 <= second_port and second_port != 5353 and classify(second) != Scope.MULTICAST:
        return 1 if session.packets[1] == 0 or classify(second) == Scope.LAN else 0
    return 0


def _errno_of(protocol: int, kind: int, code: int) -> int:
    """What the error does to a socket, 0 for nothing (RFC 1122 4.2.3.9)."""
    if protocol == ICMP and kind == 3:
        return {3: errno.ECONNREFUSED, 2: errno.ECONNREFUSED, 0: errno.ENETUNREACH, 4: 0}.get(code, errno.EHOSTUNREACH)
    if protocol == ICMPV6 and kind == 1:
        return {4: errno.ECONNREFUSED, 0: errno.ENETUNREACH}.get(code, errno.EHOSTUNREACH)
    return 0


