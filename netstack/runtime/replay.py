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

import errno
from typing import Any

from netstack.capture.conversations import Peer, format_time
from netstack.capture.dissect import IpHeader, TcpFields, UdpFields, read_ip, read_tcp, read_udp
from netstack.capture.facts import CaptureFacts
from netstack.capture.whole import CapturedFragments
from netstack.codec.base import PacketCodec
from netstack.config import Config
from netstack.core.events import Event, EventSink, FlowClosed, FlowOpened, QueryAnswered, QueryFailed
from netstack.core.flow import ICMP, ICMPV6, TCP, UDP, Endpoint, FiveTuple, pack_key, reverse_key
from netstack.core.packet import ACK, SYN, Octets, SegmentRun
from netstack.core.seq import seq_lt
from netstack.core.stats import Stats
from netstack.core.verdict import Verdict
from netstack.engine import Engine
from netstack.link.linktype import find_ip
from netstack.link.pcap import Frame
from netstack.policy.lockdown import Lockdown, LockdownStage
from netstack.runtime.adapt import clamp_ack, is_intact, whole_packet
from netstack.runtime.clock import VirtualClock
from netstack.runtime.harness import ReplayTunnel, WitnessedPolicy, replay_config
from netstack.runtime.roster import Roster, peer_of
from netstack.runtime.script import TcpScript
from netstack.runtime.seeded import SeededEntropy
from netstack.runtime.trace import AnnotatedCapture
from netstack.runtime.verdicts import DNS, FlowRow
from netstack.upstream.assemble import with_rules
from netstack.upstream.scripted import (
    ScriptedDatagrams,
    ScriptedDialer,
    ScriptedError,
    ScriptedResolver,
    ScriptedStream,
)

TAIL = 30.0  # seconds that the engine runs on behind the last packet: open queries and dials come to an end
_EPOCH_MINUTE = 3 * 1440  # 1 January 1970 was a Thursday; weeks start on Monday
_ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}
_ICMP_ERRORS = {ICMP: frozenset((3, 11, 12)), ICMPV6: frozenset((1, 2, 3, 4))}


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
        self.queries: list[dict[str, Any]] = []
        self.skipped: dict[str, int] = {"no_ip": 0, "bad_checksum": 0, "after_reset": 0, "no_listener": 0}
        self._start_ns = facts.first_time_ns or 0
        self._verify = not keep_bad_checksums
        self._sink = emit
        self._annotated = annotated
        self._out: list[bytes] = []
        self._frame = Frame(0, 0, 0, 0, b"", 0)
        self._fragments = CapturedFragments()
        self.roster = Roster(facts, config.dns.ports, self._on_reuse)
        self.dialer = ScriptedDialer(self._on_stream, self._on_datagrams)
        self.resolver = ScriptedResolver()
        self.resolver.on_query = self._on_asked
        self._sockets: dict[tuple[int, Peer], ScriptedDatagrams] = {}
        self.tunnel = ReplayTunnel(codec, self.config.tunnel.mtu, self.stats, self._on_run, self._on_packet)
        self.engine = Engine(
            self.config,
            tunnel=self.tunnel,
            codec=codec,
            dialer=self.dialer,
            resolver=with_rules(self.config, self.resolver, self.stats, self._emit, self._minute_of_week),
            entropy=SeededEntropy(seed, self._captured_isn),
            emit=self._emit,
            stats=self.stats,
            verify=self._verify,
        )
        policy = WitnessedPolicy(self.config, self.engine.tracker, self._on_verdict)
        self.engine.policy = self.engine.context.policy = policy
        if self.config.lockdown.blocking:
            lockdown = Lockdown(self.config.lockdown, self._emit)
            self.engine.use_lockdown(lockdown, LockdownStage(self.engine.resolver, lockdown))
            lockdown.enter(0.0, "configured")

    def _minute_of_week(self, now: float) -> float:
        """For rules with a schedule: by the capture's clock, in UTC, so that every host replays alike."""
        seconds = self._start_ns / 1e9 + now
        return (seconds / 60 + _EPOCH_MINUTE) % (7 * 1440)

    def _captured_isn(self, key: bytes) -> int | None:
        script = self.roster.current(key)
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
        self.engine.stop(self.clock.now())
        self._settle()
        self._write_out()

    def _advance(self, to: float) -> None:
        """Move time, stopping at each of the engine's deadlines."""
        engine, clock = self.engine, self.clock
        while (deadline := engine.next_timeout()) is not None and deadline <= to:
            now = clock.advance(deadline)
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
        if ip.source in self.roster.far_ends:
            self.skipped["no_listener"] += 1
            return
        self._feed(octets, ip, None)

    # --- TCP ---

    def _on_tcp(self, octets: bytes, ip: IpHeader, segment: TcpFields) -> None:
        source, destination = (ip.source, segment.source_port), (ip.destination, segment.destination_port)
        script = self.roster.tcp(source, destination, self._frame.number)
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

    def _on_reuse(self, row: FlowRow) -> None:
        """The app uses the pair of this flow again, so it has forgotten it; a live app's reset would have told."""
        flow = row.flow
        carried = self.engine.tcp.table.flows.get(pack_key(TCP, flow.source, flow.destination))
        if carried is not None and not carried.closed:
            carried.cut("cut", self.clock.now())
            self._settle()
            self._out.clear()

    def _from_app(self, octets: bytes, ip: IpHeader, segment: TcpFields, payload: bytes, script: TcpScript) -> None:
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
        row = self.roster.udp(source, destination)
        if row is None:
            self._on_other(octets, ip)
            return
        is_dns = row.flow.destination.port in self.config.dns.ports
        if peer_of(row.flow.source) == source:
            self._feed(octets, ip, row)
            if is_dns and row.verdict is DNS:
                row.octets_up += datagram.end - datagram.at
            return
        self._note(octets, ip, row)
        if self._verify and not is_intact(octets, ip):
            self.skipped["bad_checksum"] += 1
            return
        payload = octets[datagram.at : datagram.end]
        if is_dns and self.resolver.answer(row.flow, payload, self.clock.now()):
            row.octets_down += len(payload)
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
            key = (ip.protocol, (ip.source, identifier), (ip.destination, 0))
            self._feed(octets, ip, self.roster.add_ping(key, self._frame.number, self._frame.time_ns))
        elif kind == reply:
            self._echo_reply(octets, ip, identifier)
        elif kind in _ICMP_ERRORS[ip.protocol] and self._icmp_error(octets, ip):
            self._settle()
            self._write_out()
        else:
            self._on_other(octets, ip)

    def _echo_reply(self, octets: bytes, ip: IpHeader, identifier: int) -> None:
        row = self.roster.ping((ip.protocol, (ip.destination, identifier), (ip.source, 0)))
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
            script = self.roster.tcp(source, destination, self._frame.number)
            if script is None or peer_of(script.row.flow.source) != source:
                return False
            self._note(octets, ip, script.row)
            if error:
                script.unreachable(error)
            return True
        socket = self._sockets.get((UDP, source))
        row = self.roster.udp(source, destination)
        if row is None or peer_of(row.flow.source) != source:
            return False
        self._note(octets, ip, row)
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
        if row is not None:
            row.packets += 1
            self.resolver.flow = row.flow
        before = self.stats.drops.total()
        known = dict(self.stats.drops) if row is not None else {}
        self.tunnel.give(packet, verify)
        self.engine.on_tunnel_readable(self.clock.now())
        self._settle()
        if row is not None and self.stats.drops.total() != before:
            for reason, count in self.stats.drops.items():
                if more := count - known.get(reason, 0):
                    row.drops[reason] += more
        self._note(octets, ip, row)
        self._write_out(row)

    # --- out of the engine ---

    def _on_stream(self, stream: ScriptedStream) -> None:
        script = self.roster.script_of(stream.flow) if stream.flow is not None else None
        if script is not None:
            script.attach(stream)

    def _on_datagrams(self, socket: ScriptedDatagrams) -> None:
        if socket.flow is not None:
            self._sockets[socket.flow.protocol, peer_of(socket.flow.source)] = socket

    def _on_run(self, run: SegmentRun) -> None:
        script = self.roster.current(reverse_key(run.key))
        if script is not None:
            script.sent_to_app(run)

    def _on_packet(self, packet: Octets) -> None:
        if self._annotated is not None:
            self._out.append(bytes(packet))

    def _on_verdict(self, flow: FiveTuple, verdict: Verdict) -> None:
        row = self.roster.row_of(flow)
        if row is not None:
            row.judged(verdict)
            row.named(self.engine.tracker.name_of(flow.destination.address))

    def _emit(self, event: Event) -> None:
        if self._sink is not None:
            self._sink(event)
        if isinstance(event, FlowOpened):
            row = self.roster.row_of(event.flow)
            if row is not None:
                row.flow_id = event.flow_id
                row.judged(event.verdict)
        elif isinstance(event, FlowClosed):
            row = self.roster.row_of(event.flow)
            if row is not None:
                row.flow_id = event.flow_id
                row.how = event.how
                row.octets_up += event.octets_up
                row.octets_down += event.octets_down
        elif isinstance(event, (QueryAnswered, QueryFailed)):
            self._on_query(event)

    def _on_asked(self, flow: FiveTuple) -> None:
        row = self.roster.row_of(flow)
        if row is not None:
            row.judged(DNS)

    def _on_query(self, event: QueryAnswered | QueryFailed) -> None:
        row = self.roster.row_of(event.flow)
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
        rows = sorted(self.roster.rows, key=lambda row: row.first_frame)
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


def _errno_of(protocol: int, kind: int, code: int) -> int:
    """What the error does to a socket, 0 for nothing (RFC 1122 4.2.3.9)."""
    if protocol == ICMP and kind == 3:
        return {3: errno.ECONNREFUSED, 2: errno.ECONNREFUSED, 0: errno.ENETUNREACH, 4: 0}.get(code, errno.EHOSTUNREACH)
    if protocol == ICMPV6 and kind == 1:
        return {4: errno.ECONNREFUSED, 0: errno.ENETUNREACH}.get(code, errno.EHOSTUNREACH)
    return 0
