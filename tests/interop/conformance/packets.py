"""Packets from the app's side: built exactly as told (also wrongly), taken apart with what is malformed about them.

Responsible for: IPv4, IPv6, TCP, UDP, ICMP octets; fragments; the list of well-formedness faults of a received
packet.
Refuses to know: connections, time, sockets.
RFCs: 791, 8200, 9293, 7323, 2018, 768, 792, 4443, 1071.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
TCP, UDP, ICMP, ICMP6, FRAGMENT, HOP_BY_HOP, DESTINATION = 6, 17, 1, 58, 44, 0, 60
DF, MF = 0x4000, 0x2000
SACK_OK = b"\x04\x02"


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071), without a loop: the sum modulo 65535 is the number modulo 65535."""
    number = int.from_bytes(data + b"\0" if len(data) & 1 else data, "big")
    rest = number % 65535
    return 65535 - (65535 if rest == 0 and number else rest)


def pseudo(src: bytes, dst: bytes, protocol: int, length: int) -> bytes:
    if len(src) == 4:
        return src + dst + struct.pack("!HH", protocol, length)
    return src + dst + struct.pack("!IHBB", length, 0, 0, protocol)


def mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


def wscale(shift: int) -> bytes:
    return struct.pack("!BBB", 3, 3, shift)


def timestamps(value: int, echo: int) -> bytes:
    return struct.pack("!BBII", 8, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


def sack(*blocks: tuple[int, int]) -> bytes:
    out = struct.pack("!BB", 5, 2 + 8 * len(blocks))
    return out + b"".join(struct.pack("!II", a & 0xFFFFFFFF, b & 0xFFFFFFFF) for a, b in blocks)


def padded(options: bytes) -> bytes:
    return options + b"\x01" * (-len(options) % 4)


def ip4(
    src: bytes,
    dst: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    ident: int = 0,
    flags: int = DF,
    options: bytes = b"",
    total: int | None = None,
    bad_checksum: bool = False,
    trailer: bytes = b"",
) -> bytes:
    """An IPv4 packet; `flags` is the whole flags and offset field, `trailer` are octets past the total length."""
    ihl = 5 + (len(options) + 3) // 4
    options = options.ljust((ihl - 5) * 4, b"\0")
    length = ihl * 4 + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | ihl, 0, length, ident, flags, ttl, protocol, 0, src, dst) + options
    value = checksum(head) ^ (0x1111 if bad_checksum else 0)
    return head[:10] + struct.pack("!H", value) + head[12:] + payload + trailer


def ip6(
    src: bytes,
    dst: bytes,
    protocol: int,
    payload: bytes,
    *,
    hop: int = 64,
    extensions: tuple[tuple[int, bytes], ...] = (),
    total: int | None = None,
    trailer: bytes = b"",
) -> bytes:
    """An IPv6 packet; `extensions` are (header number, body from its third octet on), chained before the payload."""
    chain = b""
    numbers = [number for number, _ in extensions] + [protocol]
    for index, (number, body) in enumerate(extensions):
        if number == FRAGMENT:
            chain += struct.pack("!BB", numbers[index + 1], 0) + body
            continue
        body = body + (b"" if (len(body) + 2) % 8 == 0 else _padding(-(len(body) + 2) % 8))
        chain += struct.pack("!BB", numbers[index + 1], (len(body) + 2) // 8 - 1) + body
    length = len(chain) + len(payload) if total is None else total
    return struct.pack("!IHBB", 0x60000000, length, numbers[0], hop) + src + dst + chain + payload + trailer


def _padding(count: int) -> bytes:
    return b"\0" if count == 1 else bytes((1, count - 2)) + bytes(count - 2)


def tcp(
    src: bytes,
    dst: bytes,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int = 65535,
    options: bytes = b"",
    data: bytes = b"",
    *,
    urgent: int = 0,
    bad_checksum: bool = False,
    raw_options: bool = False,
    offset: int | None = None,
) -> bytes:
    options = options if raw_options else padded(options)
    words = 5 + len(options) // 4 if offset is None else offset
    head = (
        struct.pack(
            "!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, words << 4, flags, window, 0, urgent
        )
        + options
    )
    value = checksum(pseudo(src, dst, TCP, len(head) + len(data)) + head + data)
    if bad_checksum:
        value ^= 0x5555
    return head[:16] + struct.pack("!H", value) + head[18:] + data


def udp(
    src: bytes, dst: bytes, sport: int, dport: int, data: bytes, *, value: int | None = None, length: int | None = None
) -> bytes:
    """A UDP datagram; `value` overrides the checksum, `length` the length field."""
    size = 8 + len(data) if length is None else length
    head = struct.pack("!HHHH", sport, dport, size, 0)
    if value is None:
        value = checksum(pseudo(src, dst, UDP, 8 + len(data)) + head + data) or 0xFFFF
    return head[:6] + struct.pack("!H", value) + data


def echo(src: bytes, dst: bytes, ident: int, seq: int, data: bytes, *, bad_checksum: bool = False) -> bytes:
    """An ICMP or ICMPv6 echo request."""
    kind = 8 if len(src) == 4 else 128
    body = struct.pack("!BBHHH", kind, 0, 0, ident, seq) + data
    value = checksum(body if len(src) == 4 else pseudo(src, dst, ICMP6, len(body)) + body)
    return body[:2] + struct.pack("!H", value ^ (0x0101 if bad_checksum else 0)) + body[4:]


def ip(src: bytes, dst: bytes, protocol: int, payload: bytes) -> bytes:
    return ip4(src, dst, protocol, payload) if len(src) == 4 else ip6(src, dst, protocol, payload)


def fragments(src: bytes, dst: bytes, protocol: int, payload: bytes, ident: int, cuts: list[int]) -> list[bytes]:
    """Fragments of one packet in order; `cuts` are the inner borders (multiples of eight octets)."""
    borders = [0, *cuts, len(payload)]
    return [
        fragment(src, dst, protocol, payload[a:b], ident, a, more=b < len(payload))
        for a, b in itertools.pairwise(borders)
    ]


def fragment(src: bytes, dst: bytes, protocol: int, part: bytes, ident: int, start: int, *, more: bool) -> bytes:
    if len(src) == 4:
        return ip4(src, dst, protocol, part, ident=ident & 0xFFFF, flags=(MF if more else 0) | start // 8)
    return ip6(src, dst, protocol, part, extensions=((FRAGMENT, struct.pack("!HI", start | more, ident)),))


@dataclass(slots=True)
class Packet:
    """One received packet, taken apart as far as it goes. `faults` says what is malformed."""

    raw: bytes
    time: float = 0.0
    version: int = 0
    src: bytes = b""
    dst: bytes = b""
    protocol: int = -1
    ttl: int = 0
    ident: int = 0
    offset: int = 0
    more: bool = False
    payload: bytes = b""
    sport: int = 0
    dport: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0
    window: int = 0
    option_octets: int = 0
    options: dict[int, bytes] = field(default_factory=dict)
    data: bytes = b""
    kind: int = -1
    code: int = -1
    faults: list[str] = field(default_factory=list)

    @property
    def is_fragment(self) -> bool:
        return bool(self.offset or self.more)

    @property
    def sack_blocks(self) -> list[tuple[int, int]]:
        body = self.options.get(5, b"")
        return [struct.unpack_from("!II", body, at) for at in range(0, len(body) - 7, 8)]

    @property
    def tsval(self) -> int:
        return int.from_bytes(self.options[8][:4], "big") if 8 in self.options else -1

    @property
    def tsecr(self) -> int:
        return int.from_bytes(self.options[8][4:], "big") if 8 in self.options else -1

    def __str__(self) -> str:
        if self.protocol == TCP:
            names = "".join(
                letter
                for bit, letter in zip((1, 2, 4, 8, 16, 32, 64, 128), "FSRPAUEC", strict=True)
                if self.flags & bit
            )
            numbers = f"seq={self.seq} ack={self.ack} win={self.window} len={len(self.data)}"
            return f"[{names or '-'} {numbers} options={sorted(self.options)}]"
        if self.protocol in (ICMP, ICMP6):
            return f"[ICMP type={self.kind} code={self.code}]"
        return f"[protocol {self.protocol} {self.sport}->{self.dport} len={len(self.data)}]"


def parse(raw: bytes, time: float = 0.0, mtu: int = 1500) -> Packet:
    packet = Packet(raw, time)
    if len(raw) > mtu:
        packet.faults.append(f"{len(raw)} octets, over the MTU of {mtu}")
    packet.version = raw[0] >> 4 if raw else 0
    if packet.version == 4 and len(raw) >= 20:
        _parse_ip4(packet, raw)
    elif packet.version == 6 and len(raw) >= 40:
        _parse_ip6(packet, raw)
    else:
        packet.faults.append("no IP header")
        return packet
    if not packet.ttl:
        packet.faults.append("TTL or hop limit 0")
    if not packet.is_fragment:
        parse_transport(packet)
    return packet


def _parse_ip4(packet: Packet, raw: bytes) -> None:
    ihl, total = (raw[0] & 15) * 4, int.from_bytes(raw[2:4], "big")
    if ihl < 20 or total < ihl or total != len(raw):
        packet.faults.append(f"IPv4 lengths: header {ihl}, total {total}, octets {len(raw)}")
    if checksum(raw[:ihl]) != 0:
        packet.faults.append("IPv4 header checksum")
    packet.ident = int.from_bytes(raw[4:6], "big")
    word = int.from_bytes(raw[6:8], "big")
    if word & 0x8000:
        packet.faults.append("IPv4 reserved flag set")
    packet.offset, packet.more = (word & 0x1FFF) * 8, bool(word & MF)
    packet.ttl, packet.protocol = raw[8], raw[9]
    packet.src, packet.dst, packet.payload = raw[12:16], raw[16:20], raw[ihl:total]


def _parse_ip6(packet: Packet, raw: bytes) -> None:
    length, header, packet.ttl = int.from_bytes(raw[4:6], "big"), raw[6], raw[7]
    packet.src, packet.dst, at = raw[8:24], raw[24:40], 40
    if length + 40 != len(raw):
        packet.faults.append(f"IPv6 payload length {length}, octets {len(raw)}")
    while header in (HOP_BY_HOP, DESTINATION, FRAGMENT) and at + 8 <= len(raw):
        if header == FRAGMENT:
            word = int.from_bytes(raw[at + 2 : at + 4], "big")
            packet.offset, packet.more, packet.ident = (
                word & 0xFFF8,
                bool(word & 1),
                int.from_bytes(raw[at + 4 : at + 8], "big"),
            )
            header, at = raw[at], at + 8
        else:
            header, at = raw[at], at + (raw[at + 1] + 1) * 8
    packet.protocol, packet.payload = header, raw[at:]


def parse_transport(packet: Packet) -> None:
    """Fill in the transport's fields from `payload` (whole, or put together from fragments)."""
    body = packet.payload
    if packet.protocol == TCP:
        _parse_tcp(packet, body)
    elif packet.protocol == UDP:
        _parse_udp(packet, body)
    elif packet.protocol in (ICMP, ICMP6):
        if len(body) < 8:
            packet.faults.append("ICMP shorter than 8 octets")
            return
        packet.kind, packet.code, packet.data = body[0], body[1], body[4:]
        cover = body if packet.protocol == ICMP else pseudo(packet.src, packet.dst, ICMP6, len(body)) + body
        if checksum(cover) != 0:
            packet.faults.append("ICMP checksum")


def _parse_udp(packet: Packet, body: bytes) -> None:
    if len(body) < 8:
        packet.faults.append("UDP shorter than its header")
        return
    packet.sport, packet.dport, length, value = struct.unpack_from("!HHHH", body)
    packet.data = body[8:length]
    if length != len(body):
        packet.faults.append(f"UDP length {length}, octets {len(body)}")
    if value == 0:
        if packet.version == 6:
            packet.faults.append("UDP checksum 0 over IPv6")
    elif checksum(pseudo(packet.src, packet.dst, UDP, len(body)) + body) != 0:
        packet.faults.append("UDP checksum")


def _parse_tcp(packet: Packet, body: bytes) -> None:
    if len(body) < 20:
        packet.faults.append("TCP shorter than its header")
        return
    packet.sport, packet.dport, packet.seq, packet.ack, words, packet.flags, packet.window, _, urgent = (
        struct.unpack_from("!HHIIBBHHH", body)
    )
    size = (words >> 4) * 4
    if size < 20 or size > len(body):
        packet.faults.append(f"TCP data offset {size} of {len(body)}")
        return
    if words & 15:
        packet.faults.append("TCP reserved bits set")
    if urgent and not packet.flags & URG:
        packet.faults.append("TCP urgent pointer without URG")
    if not packet.flags & ACK and packet.ack and packet.flags & RST:
        packet.faults.append("TCP ACK field set without the ACK bit")
    if checksum(pseudo(packet.src, packet.dst, TCP, len(body)) + body) != 0:
        packet.faults.append("TCP checksum")
    packet.option_octets, packet.data = size - 20, body[size:]
    _parse_options(packet, body[20:size])


_LENGTHS = {2: 4, 3: 3, 4: 2, 8: 10}


def _parse_options(packet: Packet, area: bytes) -> None:
    at = 0
    while at < len(area):
        kind = area[at]
        if kind == 0:
            if any(area[at:]):
                packet.faults.append("TCP options: octets after the end of the list")
            return
        if kind == 1:
            at += 1
            continue
        length = area[at + 1] if at + 1 < len(area) else 0
        if length < 2 or at + length > len(area) or _LENGTHS.get(kind, length) != length:
            packet.faults.append(f"TCP option {kind} of length {length}")
            return
        if kind in packet.options:
            packet.faults.append(f"TCP option {kind} twice")
        if kind in (2, 3, 4) and not packet.flags & SYN:
            packet.faults.append(f"TCP option {kind} outside a SYN")
        packet.options[kind] = area[at + 2 : at + length]
        at += length
