"""Writes examples/first-look.pcap: seven minutes of one invented phone, every DNS-first verdict in it once.

Responsible for: a small capture of both directions that is the project's own and can be read beside its verdicts.
Refuses to know: the engine; only documentation addresses and names occur (RFC 5737, RFC 3849, RFC 2606).

The output is a function of this file alone, and a test compares the two.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

OUTPUT = Path(__file__).resolve().parents[1] / "examples" / "first-look.pcap"
START = 1_700_000_000
LINKTYPE_RAW = 101
DEVICE, GATEWAY, DEVICE6 = "10.0.0.2", "10.0.0.1", "fd00:6e65:7473::2"
SITE, SITE6 = "198.51.100.10", "2001:db8::10"
HARD_CODED, STUN_SERVER = "203.0.113.9", "203.0.113.77"

Timed = tuple[float, Packet]


def ip(source: str, destination: str) -> Packet:
    """An IP header of the right family."""
    if ":" in source:
        return IPv6(src=source, dst=destination)
    return IP(src=source, dst=destination, id=0, flags="DF", ttl=64)


def lookup(at: float, port: int, name: str, kind: str, address: str | None) -> Iterator[Timed]:
    """A query to the gateway and its answer; NXDOMAIN when there is no address."""
    question = DNSQR(qname=name, qtype=kind)
    query = DNS(id=port, rd=1, qd=question)
    yield at, ip(DEVICE, GATEWAY) / UDP(sport=port, dport=53) / query
    answer = [DNSRR(rrname=name, type=kind, ttl=60, rdata=address)] if address else []
    reply = DNS(id=port, qr=1, rd=1, ra=1, rcode=0 if address else 3, qd=question, an=answer)
    yield at + 0.02, ip(GATEWAY, DEVICE) / UDP(sport=53, dport=port) / reply


def conversation(
    at: float, client: str, server: str, ports: tuple[int, int], up: bytes, down: bytes
) -> Iterator[Timed]:
    """A whole TCP connection: handshake, one request, one answer, both closes; 20 ms round trip."""
    sport, dport = ports
    mine, theirs = 1000 * sport, 7000 * sport

    def app(flags: str, seq: int, ack: int, data: bytes = b"", **more: object) -> Packet:
        tcp = TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, window=64240, **more)
        return ip(client, server) / tcp / Raw(data) if data else ip(client, server) / tcp

    def peer(flags: str, seq: int, ack: int, data: bytes = b"", **more: object) -> Packet:
        tcp = TCP(sport=dport, dport=sport, flags=flags, seq=seq, ack=ack, window=65160, **more)
        return ip(server, client) / tcp / Raw(data) if data else ip(server, client) / tcp

    options = [("MSS", 1440), ("SAckOK", b""), ("NOP", None), ("WScale", 7)]
    yield at, app("S", mine, 0, options=options)
    yield at + 0.020, peer("SA", theirs, mine + 1, options=options)
    yield at + 0.021, app("A", mine + 1, theirs + 1)
    yield at + 0.022, app("PA", mine + 1, theirs + 1, up)
    sent = mine + 1 + len(up)
    yield at + 0.042, peer("A", theirs + 1, sent)
    got = theirs + 1
    for offset in range(0, len(down), 1400):
        piece = down[offset : offset + 1400]
        yield at + 0.045 + offset / 1e6, peer("PA", got, sent, piece)
        got += len(piece)
    yield at + 0.060, app("A", sent, got)
    yield at + 0.070, peer("FA", got, sent)
    yield at + 0.071, app("FA", sent, got + 1)
    yield at + 0.091, peer("A", got + 1, sent + 1)


def client_hello(name: str) -> bytes:
    """The least TLS ClientHello that carries a server name (RFC 8446 4.1.2, RFC 6066 3)."""
    host = name.encode()
    entry = struct.pack("!BH", 0, len(host)) + host
    sni = struct.pack("!HHH", 0, len(entry) + 2, len(entry)) + entry
    body = b"\x03\x03" + bytes(range(32)) + b"\0" + struct.pack("!HH", 2, 0x1301) + b"\x01\0"
    body += struct.pack("!H", len(sni)) + sni
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message


def quic_initial() -> bytes:
    """The shape of a QUIC version 1 Initial (RFC 9000 17.2.2); its protected part is filler."""
    header = b"\xc3\0\0\0\x01\x08" + bytes(range(8)) + b"\0\0" + struct.pack("!H", 0x4000 | 1182)
    return header.ljust(1200, b"\xa5")


def story() -> Iterator[Timed]:
    """The packets in order of events; the comments are the verdicts that the default rules give."""
    web = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"netstack " * 333 + b"end"
    yield from conversation(0.0, DEVICE, HARD_CODED, (40001, 443), client_hello("hidden.example"), b"x")  # unresolved
    yield from lookup(1.0, 40002, "example.com", "A", SITE)
    yield from lookup(1.1, 40003, "example.com", "AAAA", SITE6)
    yield from conversation(1.3, DEVICE, SITE, (40004, 80), web, page)  # lease
    quic = UDP(sport=40005, dport=443) / Raw(quic_initial())
    yield 2.0, ip(DEVICE, SITE) / quic  # quic
    yield from conversation(2.1, DEVICE, SITE, (40006, 443), client_hello("example.com"), b"\x15\x03\x03\0\x02\x02\x28")
    stun = b"\0\x01\0\0\x21\x12\xa4\x42" + bytes(12)
    yield 3.0, ip(DEVICE, STUN_SERVER) / UDP(sport=40007, dport=3478) / Raw(stun)  # unresolved
    yield from lookup(4.0, 40008, "nothing.example", "A", None)
    yield from conversation(5.0, DEVICE6, SITE6, (40009, 80), web, page)  # lease, over IPv6
    echo = {"id": 7, "seq": 1}
    yield 6.0, ip(DEVICE, SITE) / ICMP(type=8, **echo) / Raw(b"ping" * 14)
    yield 6.02, ip(SITE, DEVICE) / ICMP(type=0, **echo) / Raw(b"ping" * 14)
    yield from conversation(420.0, DEVICE, SITE, (40010, 80), web, page)  # expired


def capture() -> bytes:
    """The whole file: microsecond pcap, raw IP link type."""
    octets = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, LINKTYPE_RAW)]
    for at, packet in sorted(story(), key=lambda item: item[0]):
        data = bytes(packet)
        micros = round(at * 1_000_000)
        octets.append(
            struct.pack("<IIII", START + micros // 1_000_000, micros % 1_000_000, len(data), len(data)) + data
        )
    return b"".join(octets)


if __name__ == "__main__":
    data = capture()
    OUTPUT.write_bytes(data)
    sys.stdout.write(f"{OUTPUT.name}: {len(data)} octets\n")
