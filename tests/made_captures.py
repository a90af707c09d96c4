"""Packets, frames and capture files for tests, made from the wire layer's own parts."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from ipaddress import ip_address

from netstack.capture.facts import CaptureFacts
from netstack.core.packet import ACK, FIN, PSH, SYN
from netstack.link.linktype import RAW
from netstack.link.pcap import Frame, PcapWriter
from netstack.wire import ipv4, ipv6
from netstack.wire.checksum import checksum as _checksum
from netstack.wire.tcp import emit_tcp
from netstack.wire.udp import emit_udp

APP, SERVER, DNS_SERVER = "10.0.0.2", "203.0.113.80", "10.0.0.53"
START_NS = 1_700_000_000_000_000_000


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A whole IP packet of the right family."""
    a, b = ip_address(source).packed, ip_address(destination).packed
    if len(a) == 4:
        return ipv4.emit_ipv4(a, b, protocol, len(payload)) + payload
    return ipv6.emit_ipv6(a, b, protocol, len(payload)) + payload


def tcp(
    source: str, sport: int, destination: str, dport: int, seq: int, ack: int, flags: int,
    payload: bytes = b"", options: bytes = b"", window: int = 65_000,
) -> bytes:  # fmt: skip
    """A TCP packet."""
    a, b = ip_address(source).packed, ip_address(destination).packed
    return ip(source, destination, 6, emit_tcp(a, b, sport, dport, seq, ack, flags, window, options, payload))


def udp(source: str, sport: int, destination: str, dport: int, payload: bytes) -> bytes:
    """A UDP packet."""
    a, b = ip_address(source).packed, ip_address(destination).packed
    return ip(source, destination, 17, emit_udp(a, b, sport, dport, payload))


def echo(source: str, destination: str, kind: int, identifier: int, payload: bytes = b"ping") -> bytes:
    """An ICMP echo request (8) or reply (0)."""
    body = struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + payload
    return ip(source, destination, 1, body[:2] + _checksum(body).to_bytes(2, "big") + body[4:])


def frames(packets: Iterable[tuple[float, bytes]], linktype: int = RAW) -> list[Frame]:
    """Frames with times in seconds from the start."""
    return [
        Frame(number, START_NS + round(at * 1e9), linktype, 0, packet, len(packet))
        for number, (at, packet) in enumerate(packets, 1)
    ]


def facts_of(made: Iterable[Frame]) -> CaptureFacts:
    """The account of frames."""
    facts = CaptureFacts()
    for frame in made:
        facts.add(frame)
    facts.finish()
    return facts


def pcap_file(packets: Iterable[tuple[float, bytes]], linktype: int = RAW) -> bytes:
    """A classic pcap file."""
    file = io.BytesIO()
    writer = PcapWriter(file, linktype=linktype)
    for at, packet in packets:
        writer.write(packet, START_NS + round(at * 1e9))
    return file.getvalue()


def name(text: str) -> bytes:
    """A DNS name."""
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\0"


def query(ident: int, text: str, kind: int = 1) -> bytes:
    """A DNS query."""
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + name(text) + struct.pack("!HH", kind, 1)


def answer(ident: int, text: str, address: str, ttl: int = 60) -> bytes:
    """A DNS answer with one address."""
    packed = ip_address(address).packed
    kind = 1 if len(packed) == 4 else 28
    head = struct.pack("!HHHHHH", ident, 0x8180, 1, 1, 0, 0) + name(text) + struct.pack("!HH", kind, 1)
    return head + b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(packed)) + packed


def lookup(at: float, port: int, text: str, address: str, ident: int = 7) -> list[tuple[float, bytes]]:
    """A query and its answer."""
    return [
        (at, udp(APP, port, DNS_SERVER, 53, query(ident, text))),
        (at + 0.02, udp(DNS_SERVER, 53, APP, port, answer(ident, text, address))),
    ]


def exchange(
    at: float, sport: int, up: bytes, down: bytes, *, server: str = SERVER, dport: int = 80, isn: int = 1000,
    server_isn: int = 5000,
) -> list[tuple[float, bytes]]:  # fmt: skip
    """A whole TCP connection: handshake, octets both ways, both FINs; the app closes last."""
    c, s = isn + 1, server_isn + 1
    mss = struct.pack("!BBH", 2, 4, 1400)

    def app(flags: int, seq: int, ack: int, data: bytes = b"", options: bytes = b"") -> bytes:
        return tcp(APP, sport, server, dport, seq, ack, flags, data, options)

    def far(flags: int, seq: int, ack: int, data: bytes = b"", options: bytes = b"") -> bytes:
        return tcp(server, dport, APP, sport, seq, ack, flags, data, options)

    made = [
        (at, app(SYN, isn, 0, options=mss)),
        (at + 0.01, far(SYN | ACK, server_isn, c, options=mss)),
        (at + 0.02, app(ACK, c, s)),
        (at + 0.03, app(PSH | ACK, c, s, up)),
    ]
    got = s
    for offset in range(0, len(down), 1000):
        piece = down[offset : offset + 1000]
        made.append((at + 0.05 + offset * 1e-7, far(PSH | ACK, got, c + len(up), piece)))
        got += len(piece)
    made += [
        (at + 0.06, app(ACK, c + len(up), got)),
        (at + 0.07, far(FIN | ACK, got, c + len(up))),
        (at + 0.08, app(FIN | ACK, c + len(up), got + 1)),
        (at + 0.09, far(ACK, got + 1, c + len(up) + 1)),
    ]
    return made


def client_hello(host: str, *, padding: int = 0) -> bytes:
    """A ClientHello in one record per 16 KiB, with a server name and so many octets of filler."""
    entry = b"\0" + struct.pack("!H", len(host)) + host.encode()
    extensions = struct.pack("!HHH", 0, len(entry) + 2, len(entry)) + entry
    extensions += struct.pack("!HH", 21, padding) + bytes(padding)
    body = b"\x03\x03" + bytes(32) + b"\0" + struct.pack("!HH", 2, 0x1301) + b"\x01\0"
    body += struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    records = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(record)) + record for record in records)
