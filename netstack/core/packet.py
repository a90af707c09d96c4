"""What travels between the codec and the forwarders, already out of octets.

Responsible for: the value types of packets in both directions.
Refuses to know: how they are laid out on the wire (`wire/`, `codec/`).

Upwards (from the app) every view points into the batch's arena and is valid only until the next
`read_batch`; whoever keeps octets copies them. Downwards (to the app) payloads may be any buffer and
are used before the call returns. A `key` always describes the packet itself, source first.

The classes are written out: one of each is made for every packet, and compiled modules have no faster ones.
"""

from __future__ import annotations

from netstack.core.drops import DropReason

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
ECE = 0x40
CWR = 0x80

Octets = bytes | bytearray | memoryview

EMPTY = memoryview(b"")


class Segment:
    """A TCP segment from the app, or several contiguous ones coalesced into a super-segment.

    `window` is the raw 16-bit field. `options` holds the option octets only when there is something
    in them besides padding and timestamps (SYN options, SACK), else it is empty; the timestamp is in
    `ts_val`/`ts_ecr` when `has_ts`. Of a super-segment, `seq` is the first segment's, all other fields
    are the last one's, `nsegs` counts them and `ack_advance` says how far the ACK field moved from the first
    to the last. `packet` is the first whole IP packet.
    """

    __slots__ = (
        "ack", "ack_advance", "flags", "has_ts", "key", "nsegs", "options", "packet", "payload", "seq", "tos", "ts_ecr",
        "ts_val", "window",
    )  # fmt: skip

    def __init__(
        self,
        key: bytes,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload: memoryview = EMPTY,
        options: bytes = b"",
        has_ts: bool = False,
        ts_val: int = 0,
        ts_ecr: int = 0,
        nsegs: int = 1,
        tos: int = 0,
        packet: memoryview = EMPTY,
        ack_advance: int = 0,
    ) -> None:
        self.key = key
        self.seq = seq
        self.ack = ack
        self.flags = flags
        self.window = window
        self.payload = payload
        self.options = options
        self.has_ts = has_ts
        self.ts_val = ts_val
        self.ts_ecr = ts_ecr
        self.nsegs = nsegs
        self.tos = tos
        self.packet = packet
        self.ack_advance = ack_advance


class SegmentRun:
    """Contiguous TCP octets for the app that the codec cuts into segments of at most `mss` octets.

    All cut segments carry `ack`, `window` (raw, already scaled) and `options` (padded to a multiple
    of 4 octets). SYN and RST runs are one segment. FIN and PSH of `flags` go on the last segment only.
    `payload` and headers together are at most 65,535 octets.
    """

    __slots__ = ("ack", "flags", "key", "mss", "options", "payload", "seq", "window")

    def __init__(
        self,
        key: bytes,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        mss: int = 536,
        options: bytes = b"",
        payload: Octets = b"",
    ) -> None:
        self.key = key
        self.seq = seq
        self.ack = ack
        self.flags = flags
        self.window = window
        self.mss = mss
        self.options = options
        self.payload = payload


class Datagram:
    """A UDP datagram, either direction. `packet` (upwards only) is the whole IP packet."""

    __slots__ = ("hop_limit", "key", "packet", "payload", "tos")

    def __init__(
        self,
        key: bytes,
        payload: Octets,
        tos: int = 0,
        hop_limit: int = 64,
        packet: memoryview = EMPTY,
    ) -> None:
        self.key = key
        self.payload = payload
        self.tos = tos
        self.hop_limit = hop_limit
        self.packet = packet


class DatagramRun:
    """Several UDP datagrams of one flow, either direction, their payloads one behind the other.

    Each has `size` octets but the last, which may have fewer; there are at least two and none is empty.
    `header` (upwards only) is what stands before the payload in the first one's packet.
    """

    __slots__ = ("count", "header", "hop_limit", "key", "payload", "size", "tos")

    def __init__(
        self,
        key: bytes,
        payload: Octets,
        size: int,
        count: int,
        tos: int = 0,
        hop_limit: int = 64,
        header: Octets = b"",
    ) -> None:
        self.key = key
        self.payload = payload
        self.size = size
        self.count = count
        self.tos = tos
        self.hop_limit = hop_limit
        self.header = header

    def datagrams(self) -> list[Datagram]:
        """One by one."""
        payload, size, header = self.payload, self.size, bytes(self.header)
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
        return [
            Datagram(self.key, piece, self.tos, self.hop_limit, memoryview(header + piece) if header else EMPTY)
            for piece in pieces
        ]


class IcmpMessage:
    """An ICMP or ICMPv6 message, either direction.

    `source` and `destination` are packed addresses of the packet itself. `rest` is the second 32-bit
    word of the header (identifier and sequence number of an echo, MTU of a packet too big).
    """

    __slots__ = ("code", "destination", "hop_limit", "packet", "payload", "rest", "source", "type", "version")

    def __init__(
        self,
        version: int,
        source: bytes,
        destination: bytes,
        type: int,
        code: int,
        rest: int = 0,
        payload: Octets = b"",
        hop_limit: int = 64,
        packet: memoryview = EMPTY,
    ) -> None:
        self.version = version
        self.source = source
        self.destination = destination
        self.type = type
        self.code = code
        self.rest = rest
        self.payload = payload
        self.hop_limit = hop_limit
        self.packet = packet


class Fragment:
    """A packet that is one fragment of a larger one, for reassembly. `packet` is the whole of it."""

    __slots__ = ("packet",)

    def __init__(self, packet: memoryview) -> None:
        self.packet = packet


class OtherPacket:
    """A well-formed packet of a transport protocol that this engine does not carry."""

    __slots__ = ("key", "packet", "protocol")

    def __init__(self, key: bytes, protocol: int, packet: memoryview) -> None:
        self.key = key
        self.protocol = protocol
        self.packet = packet


class BadPacket:
    """A packet that parsing refused; `packet` is what there was of it."""

    __slots__ = ("packet", "reason")

    def __init__(self, reason: DropReason, packet: memoryview = EMPTY) -> None:
        self.reason = reason
        self.packet = packet


Parsed = Segment | Datagram | DatagramRun | IcmpMessage | Fragment | OtherPacket | BadPacket
