"""An account of a capture, frame by frame: what it holds, whatever an engine would make of it.

Responsible for: bringing the readers of each layer together over one pass, in bounded memory per conversation.
Refuses to know: verdicts, capture file formats.

Counts and conversations are of frames as they are; DNS and server names are read behind reassembly of IP fragments
and TCP streams.
"""

from __future__ import annotations

from typing import Any

from netstack.capture.conversations import Peer, TcpConversation, TcpSide, UdpConversation, format_time
from netstack.capture.counts import Counts
from netstack.capture.dissect import IpHeader, TcpFields, read_ip, read_tcp, read_udp
from netstack.capture.dns import AAAA, CNAME, A, MessageFraming, read_message
from netstack.capture.hello import HelloWatcher
from netstack.capture.streams import StreamOrder
from netstack.capture.whole import CapturedFragments
from netstack.core.address import format_address
from netstack.core.flow import TCP, UDP
from netstack.core.packet import ACK, SYN
from netstack.link.linktype import find_ip
from netstack.link.pcap import Frame

_DNS_PORT = 53
Pair = tuple[bytes, int, bytes, int]


class CaptureFacts:
    """Feed it every frame, then ask for `as_dict`."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.tcp: list[TcpConversation] = []
        self.udp: list[UdpConversation] = []
        self.messages: list[dict[str, Any]] = []
        self.address_answers: list[dict[str, Any]] = []
        self.server_names: list[dict[str, Any]] = []
        self.first_time_ns: int | None = None
        self.last_time_ns: int | None = None
        self._tcp_pairs: dict[Pair, TcpConversation] = {}
        self._udp_pairs: dict[Pair, UdpConversation] = {}
        self._resolved_ns: dict[str, int] = {}
        self._fragments = CapturedFragments()
        self._frame = Frame(0, 0, 0, 0, b"", 0)

    def add(self, frame: Frame) -> None:
        """Take the next frame."""
        self._frame = frame
        if self.first_time_ns is None:
            self.first_time_ns = frame.time_ns
        self.last_time_ns = frame.time_ns
        self.counts.frame(frame.snapped)
        found = find_ip(frame.linktype, frame.data)
        if found is None:
            self.counts.not_ip()
            return
        ip = read_ip(frame.data, *found, frame.length)
        self.counts.ip(frame.data, ip)
        if ip.protocol == TCP:
            self._tcp(frame, ip)
        elif ip.protocol == UDP:
            self._udp(frame, ip)
        if ip.fragment:
            self._fragment(frame, ip)

    # --- frames ---

    def _tcp(self, frame: Frame, ip: IpHeader) -> None:
        fields = read_tcp(frame.data, ip)
        self.counts.tcp(frame.data, ip, fields)
        if fields is None:
            return
        conversation, side = self._tcp_conversation(ip, fields)
        conversation.add(side, fields, frame.time_ns)
        if not ip.fragment:
            self._tcp_content(frame.data, fields, conversation, side)

    def _tcp_conversation(self, ip: IpHeader, fields: TcpFields) -> tuple[TcpConversation, int]:
        source, destination = (ip.source, fields.source_port), (ip.destination, fields.destination_port)
        pair = _pair(source, destination)
        conversation = self._tcp_pairs.get(pair)
        side = 0
        if conversation is not None:
            side = 0 if conversation.peers[0] == source else 1
            if conversation.is_reused_by(side, fields):
                conversation = None
        if conversation is None:
            side = 0
            frame = self._frame
            conversation = TcpConversation(len(self.tcp), source, destination, frame.number, frame.time_ns)
            conversation.resolved_ns = (self._resolved(ip.source), self._resolved(ip.destination))
            self.tcp.append(conversation)
            self._tcp_pairs[pair] = conversation
        return conversation, side

    def _udp(self, frame: Frame, ip: IpHeader) -> None:
        fields = read_udp(frame.data, ip)
        self.counts.udp(frame.data, ip, fields)
        if fields is None:
            return
        source, destination = (ip.source, fields.source_port), (ip.destination, fields.destination_port)
        pair = _pair(source, destination)
        conversation = self._udp_pairs.get(pair)
        if conversation is None:
            conversation = UdpConversation(len(self.udp), source, destination, frame.number, frame.time_ns)
            conversation.resolved_ns = self._resolved(ip.destination)
            self.udp.append(conversation)
            self._udp_pairs[pair] = conversation
        conversation.add(0 if conversation.peers[0] == source else 1, fields.size)
        if not ip.fragment and _DNS_PORT in (fields.source_port, fields.destination_port):
            self._dns(frame.data[fields.at : fields.end], ip, "udp")

    def _fragment(self, frame: Frame, ip: IpHeader) -> None:
        """What is whole counts as content of the frame that completed it."""
        found = self._fragments.add(frame.data, ip, frame.time_ns / 1e9)
        if found is None:
            return
        whole, header = found
        if header.protocol == UDP:
            datagram = read_udp(whole, header)
            if datagram is not None and _DNS_PORT in (datagram.source_port, datagram.destination_port):
                self._dns(whole[datagram.at : datagram.end], header, "udp")
        elif header.protocol == TCP:
            segment = read_tcp(whole, header)
            if segment is not None:
                self._tcp_content(whole, segment, *self._tcp_conversation(header, segment))

    # --- content ---

    def _tcp_content(self, octets: bytes, fields: TcpFields, conversation: TcpConversation, side: int) -> None:
        if fields.broken:
            return
        own, other = conversation.sides[side], conversation.sides[1 - side]
        if fields.flags & ACK and other.order is not None:
            other.order.acknowledged(fields.ack)
        payload = octets[fields.at : fields.end]
        if len(payload) < fields.size:
            conversation.snapped = True
        if own.order is None:
            own.order = self._watch(conversation, side, own)
        own.order.segment(fields.seq, payload, fields.flags & SYN != 0)

    def _watch(self, conversation: TcpConversation, side: int, own: TcpSide) -> StreamOrder:
        """Set up what reads the stream of one side."""
        source, destination = conversation.peers[side], conversation.peers[1 - side]
        digest = own.digest
        if _DNS_PORT in (source[1], destination[1]):
            framing = MessageFraming()

            def take(octets: bytes) -> None:
                digest.add(octets)
                for message in framing.feed(octets):
                    self._dns(message, IpHeader(0, 0, source[0], destination[0]), "tcp")

            def lose(size: int) -> None:
                digest.gap(size)
                framing.lost()
        else:
            hello = HelloWatcher()

            def take(octets: bytes) -> None:
                digest.add(octets)
                for name in hello.feed(octets):
                    self._server_name(name, destination, conversation.index)

            def lose(size: int) -> None:
                digest.gap(size)
                hello.lost()

        return StreamOrder(take, lose)

    def _server_name(self, name: str, server: Peer, index: int) -> None:
        self.server_names.append(
            {
                "frame": self._frame.number,
                "name": name,
                "over": "tcp",
                "port": str(server[1]),
                "server": format_address(server[0]),
                "tcp_stream": str(index),
            }
        )

    def _dns(self, octets: bytes, ip: IpHeader, over: str) -> None:
        message = read_message(octets)
        if message is None:
            return
        frame = self._frame
        time = format_time(frame.time_ns)
        answers = []
        for record in message.answers:
            shown = {"name": record.name, "ttl": str(record.ttl), "type": str(record.type)}
            if record.value:
                shown[{A: "a", AAAA: "aaaa", CNAME: "cname"}[record.type]] = record.value
            answers.append(shown)
            if record.value and record.type != CNAME:
                self._resolved_ns[record.value] = frame.time_ns
                self.address_answers.append(
                    {"frame": frame.number, "ip": record.value, "name": record.name, "time": time, "ttl": record.ttl}
                )
        self.messages.append(
            {
                "answers": answers,
                "counts": [str(count) for count in message.counts],
                "dst": format_address(ip.destination),
                "frame": frame.number,
                "id": f"0x{message.id:04x}",
                "over": over,
                "queries": [[name, str(kind)] for name, kind in message.queries],
                "rcode": str(message.rcode) if message.response else None,
                "response": message.response,
                "src": format_address(ip.source),
                "time": time,
                "truncated": message.truncated,
            }
        )

    def _resolved(self, address: bytes) -> int | None:
        return self._resolved_ns.get(format_address(address)) if self._resolved_ns else None

    # --- the account ---

    def finish(self) -> None:
        """No more frames: streams give out what waited behind holes."""
        for conversation in self.tcp:
            for side in conversation.sides:
                if side.order is not None:
                    side.order.finish()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        responses = sum(message["response"] for message in self.messages)
        return {
            "counts": self.counts.as_dict(),
            "checksums": self.counts.checksums_as_dict(),
            "first_time": None if self.first_time_ns is None else format_time(self.first_time_ns),
            "last_time": None if self.last_time_ns is None else format_time(self.last_time_ns),
            "dns": {
                "queries": len(self.messages) - responses,
                "responses": responses,
                "address_answers": self.address_answers,
                "messages": self.messages,
            },
            "tls_sni": self.server_names,
            "tcp_conversations": [conversation.as_dict() for conversation in self.tcp],
            "udp_conversations": [conversation.as_dict() for conversation in self.udp],
        }


def _pair(one: Peer, other: Peer) -> Pair:
    return (*one, *other) if one <= other else (*other, *one)
