"""The packet codec's one interface, kept by `pure` and `native` alike.

Responsible for: the Protocols, the layout of a descriptor, and turning descriptors into packets.
Refuses to know: how octets are parsed, summed or cut.

A batch owns all memory: an arena that packets are read into and an array of fixed-size descriptors.
The codec fills both; Python reads the descriptors with one `iter_unpack`. Codecs keep no state.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from netstack.core.drops import DropReason
from netstack.core.flow import FlowKey
from netstack.core.packet import (
    EMPTY,
    BadPacket,
    Datagram,
    DatagramRun,
    Fragment,
    IcmpMessage,
    Octets,
    OtherPacket,
    Parsed,
    Segment,
    SegmentRun,
)

# kinds of descriptors (the same numbers in native/include/netstack.h)
KIND_TCP, KIND_UDP, KIND_ICMP, KIND_FRAGMENT, KIND_OTHER, KIND_BAD = 1, 2, 3, 4, 5, 6
HAS_TS = 1  # bit of `bits`

# kind, bits, tcp flags (ICMP: type), tos, nsegs, reason (OTHER: protocol; ICMP: code), hop limit,
# flow key, window (TCP), seq (ICMP: rest), ack, ts_val, ts_ecr,
# packet offset and length, payload offset and length, options offset and length, ACK advance.
# The ACK advance says how far the ACK field moved over the segments of a super-segment.
# Of UDP with nsegs over 1, seq is the size of each datagram (the last may be shorter), the payload all of them one
# behind the other, and window how many octets of headers begin the first one's packet.
# Offsets are into the arena. Every field is naturally aligned, so the C struct has the same 88 octets.
DESCRIPTOR = struct.Struct("=BBBBHBB38sHIIIIIIIIIHH")
DESCRIPTOR_SIZE = DESCRIPTOR.size


LAYOUT_VERSION = 3  # of the descriptor and of every C signature; the native library must say the same
VNET_HEADER = 10  # octets of struct virtio_net_hdr (IFF_VNET_HDR)
MAX_DATAGRAMS = 128  # datagrams of one run, which may come as one UDP GSO packet (Linux: UDP_MAX_SEGMENTS)
MAX_SEGMENTS = 64  # datagrams of a GSO packet that is sent: what every kernel takes
_OFFLOAD_SLOT = 65_600  # a whole GSO packet behind its virtio-net header


class PacketBatch:
    """Memory for one batch, owned by the caller and used again and again.

    `arena` receives packets; `descriptors` one record for each super-segment, datagram and so on.
    Views handed out by `items()` are valid until the next read into the same batch.

    Packets are packed one behind the other into the first half of the arena; a lane of segments that
    did not arrive side by side is joined in the second half, which for one bulk flow is never touched.
    Reading goes on while a whole `slot` is free in the first half and there are fewer than `capacity`
    packets and descriptors, so a super-segment has at most half an arena of payload.
    """

    __slots__ = ("arena", "capacity", "count", "descriptors", "octets", "packets", "pinned", "slot", "view")

    def __init__(self, *, capacity: int = 64, slot: int = 2048, arena: int | None = None) -> None:
        """Room for `capacity` packets of at most `slot` octets; `arena` octets in all when given.

        `capacity` is 1..1024 and the arena at least two slots; ValueError otherwise.
        """
        size = arena if arena is not None else 2 * capacity * slot
        if not 1 <= capacity <= 1024:
            raise ValueError(f"a batch holds 1..1024 packets, not {capacity}")
        if size < 2 * slot:
            raise ValueError(f"an arena of {size} octets has no room for two slots of {slot}")
        self.capacity = capacity
        self.slot = slot
        self.arena = mmap.mmap(-1, size)  # a bytearray would be written, and so resident, from the start
        self.view = memoryview(self.arena)
        self.descriptors = bytearray(capacity * DESCRIPTOR_SIZE)
        self.count = 0  # descriptors in use
        self.packets = 0  # IP packets that they came from
        self.octets = 0  # octets of those packets
        self.pinned: Any = None  # the native codec's view of this memory, made once

    @classmethod
    def for_tunnel(cls, mtu: int, offload: bool = False, packets: int = 256) -> PacketBatch:
        """A batch for reading a TUN: about 2 x `packets` x `mtu` octets (800 KiB at 1500), 1 MiB with offloads.

        Memory that is never written is never resident: one bulk flow touches only the first half.
        """
        slot = _OFFLOAD_SLOT if offload else (mtu + 127) // 64 * 64
        half = max(min(packets * slot, 8 * _OFFLOAD_SLOT), slot)
        return cls(capacity=packets, slot=slot, arena=2 * half)

    def items(self) -> Iterator[Parsed]:
        """What was read, in order of arrival (a super-segment stands where its first segment did)."""
        view = self.view
        records: Iterable[tuple[Any, ...]]
        if self.count == 1:  # an echo's batch: not worth an iterator
            records = (DESCRIPTOR.unpack_from(self.descriptors),)
        else:
            records = DESCRIPTOR.iter_unpack(memoryview(self.descriptors)[: self.count * DESCRIPTOR_SIZE])
        for (
            kind, bits, flags, tos, nsegs, reason, hop_limit, key, window, seq, ack, ts_val, ts_ecr,
            packet_at, packet_len, payload_at, payload_len, options_at, options_len, ack_advance,
        ) in records:  # fmt: skip
            packet = view[packet_at : packet_at + packet_len]
            payload = view[payload_at : payload_at + payload_len] if payload_len else EMPTY
            if kind == KIND_TCP:
                options = bytes(view[options_at : options_at + options_len]) if options_len else b""
                yield Segment(
                    key, seq, ack, flags, window, payload, options,
                    bits & HAS_TS != 0, ts_val, ts_ecr, nsegs, tos, packet, ack_advance,
                )  # fmt: skip
            elif kind == KIND_UDP:
                if nsegs == 1:
                    yield Datagram(key, payload, tos, hop_limit, packet)
                else:
                    yield DatagramRun(key, payload, seq, nsegs, tos, hop_limit, packet[:window])
            elif kind == KIND_ICMP:
                size = 4 if key[0] == 4 else 16
                yield IcmpMessage(
                    key[0], key[2 : 2 + size], key[18 : 18 + size], flags, reason, seq,
                    payload, hop_limit, packet,
                )  # fmt: skip
            elif kind == KIND_FRAGMENT:
                yield Fragment(packet)
            elif kind == KIND_OTHER:
                yield OtherPacket(FlowKey(key), reason, packet)
            else:
                yield BadPacket(DropReason(reason), packet)


class PacketCodec(Protocol):
    """Octets to descriptors and back. Stateless: the same input gives the same output, always."""

    name: str

    def read_batch(self, fd: int, batch: PacketBatch, *, vnet: bool = False) -> int:
        """Read packets from a TUN descriptor until it has no more or the batch is full; parse, verify, coalesce.

        With `vnet` each packet has a 10-octet virtio-net header in front (IFF_VNET_HDR); GSO packets come
        whole. Returns the number of IP packets, 0 when none were there. Raises OSError as read(2) would,
        but for EAGAIN, ENODEV at end of file (of a socket that stands for a TUN), and only when nothing was
        read before it. The descriptor must be non-blocking.
        """

    def parse_batch(
        self, packets: Iterable[Octets], batch: PacketBatch, *, verify: bool = True, coalesce: bool = True
    ) -> int:
        """The same for packets in memory; stops when the batch is full and returns how many packets it took.

        Give a sequence and go on behind what was taken; from an iterator the packet that had no room is gone.

        With ``verify=False`` wrong TCP, UDP, ICMP and IPv4 header checksums pass (captures of offloading
        senders hold them). A packet larger than a slot is taken if half the arena has room for it; one
        that has no room in an empty batch is cut to what fits and so comes out as TRUNCATED_IP.
        """

    def cut_run(self, run: SegmentRun) -> list[bytes]:
        """The IP packets of a run, each with at most `run.mss` payload octets, checksums in place.

        Raises ValueError for a run that cannot be cut: `mss` below 1, options not whole words or above 40.
        """

    def write_run(self, fd: int, run: SegmentRun, *, vnet: bool = False) -> int:
        """Cut and write to a TUN; with `vnet` one GSO packet. Returns the payload octets that were written
        (a run without payload returns 0). Raises OSError only when nothing could be written: BlockingIOError,
        EIO, EBADF... FIN and PSH go with the last octets, so a short count means that they did not go.
        """

    def emit_datagram(self, datagram: Datagram, mtu: int) -> list[bytes]:
        """IP packets of a UDP datagram; fragments when it is larger than `mtu` (RFC 791, RFC 8200 4.5).

        Raises OSError (EMSGSIZE) for a payload that no IP packet can hold, as do the methods below.
        """

    def write_datagram(self, fd: int, datagram: Datagram, mtu: int, *, vnet: bool = False) -> None:
        """Emit and write; `mtu` bounds the packets with `vnet` too. Raises OSError."""

    def write_datagrams(self, fd: int, run: DatagramRun, *, vnet: bool = False, uso: bool = False) -> int:
        """Write a run whose packets fit the MTU; with `vnet` and `uso` in GSO packets that the kernel cuts.

        Returns how many datagrams went; raises OSError only when none did.
        """

    def emit_icmp(self, message: IcmpMessage, mtu: int) -> list[bytes]:
        """IP packets of an ICMP or ICMPv6 message, checksum in place, fragmented when larger than `mtu`."""

    def write_packet(self, fd: int, packet: Octets, *, vnet: bool = False) -> None:
        """Write one whole IP packet (behind an empty virtio-net header with `vnet`). Raises OSError."""
