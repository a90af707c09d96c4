"""Packets for the app, out of runs, datagrams and messages.

Responsible for: cutting a run into segments, headers and checksums, fragments of what is larger than the MTU.
Refuses to know: descriptors and parsing; where packets go.
RFCs: 9293 3.1, 791 and 6864 (identification), 8200 4.5 (fragments), 768, 792, 4443.

The native codec shares `emit_datagram` and `emit_icmp`: datagrams larger than the MTU and ICMP messages
are rare.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterator

from netstack.codec.base import MAX_SEGMENTS
from netstack.core.flow import ICMP, ICMPV6, KEY, TCP, UDP
from netstack.core.packet import FIN, PSH, RST, SYN, Datagram, DatagramRun, IcmpMessage, Octets, SegmentRun
from netstack.wire import icmp, ipv4, ipv6, tcp, udp, vnet
from netstack.wire.checksum import partial_sum, pseudo_sum, residue

HOP_LIMIT = 64
MAX_PACKET = 65_535
_CUT = {4: struct.Struct("!20sHHIIBBHH"), 6: struct.Struct("!40sHHIIBBHH")}  # IP header, and TCP up to its checksum


def check_run(run: SegmentRun) -> None:
    """Raises ValueError for a run that no codec can cut."""
    options = len(run.options)
    if run.mss < 1:
        raise ValueError(f"a run cannot be cut into segments of {run.mss} octets")
    if options > 40 or options & 3:
        raise ValueError(f"TCP options of {options} octets: they must be whole words, at most 40 octets")
    if run.flags & (SYN | RST) and len(run.payload) > _room(run):
        raise ValueError(f"a SYN or RST with {len(run.payload)} octets does not fit one packet")


def _addresses(key: bytes) -> tuple[int, bytes, bytes, int, int]:
    version, _, source, destination, sport, dport = KEY.unpack(key)
    size = 4 if version == 4 else 16
    return version, source[:size], destination[:size], sport, dport


def _ip(version: int, source: bytes, destination: bytes, protocol: int, length: int, tos: int, hops: int) -> bytes:
    if version == 4:
        return ipv4.emit_ipv4(source, destination, protocol, length, tos=tos, hop_limit=hops)
    return ipv6.emit_ipv6(source, destination, protocol, length, tos=tos, hop_limit=hops)


def _pieces(run: SegmentRun, size: int) -> Iterator[tuple[int, int, Octets]]:
    """(sequence number, flags, payload) of each piece of at most `size` octets."""
    payload: Octets = run.payload
    if not isinstance(payload, bytes):  # slices of bytes are copies, but those are needed for the sum in any case
        payload = memoryview(payload)
    total, seq, flags = len(payload), run.seq, run.flags
    if flags & (SYN | RST):
        size = max(total, 1)
    before = flags & ~(FIN | PSH)
    at = 0
    while at + size < total:
        yield (seq + at) & 0xFFFFFFFF, before, payload[at : at + size]
        at += size
    yield (seq + at) & 0xFFFFFFFF, flags, payload[at:] if at else payload


def _room(run: SegmentRun) -> int:
    """Payload octets that one IP packet can hold."""
    return MAX_PACKET - (20 if run.key[0] == 4 else 40) - 20 - len(run.options)


def cut(run: SegmentRun) -> Iterator[bytes]:
    """The IP packets of a run.

    The segments of a run differ in payload, sequence number, the flags of the last and its length. Everything else is
    packed and summed once for all segments of one length; since 2**16 is 1 modulo 65535, the 32-bit sequence number
    goes into the sum as it is.
    """
    check_run(run)
    version, source, destination, sport, dport = _addresses(run.key)
    options, ack, window = run.options, run.ack, run.window
    header = 20 + len(options)
    tail = bytes(2) + options  # the urgent pointer and what is behind it
    join, from_bytes = _CUT[version].pack, int.from_bytes
    length = constant = -1
    head = b""
    for seq, flags, piece in _pieces(run, min(run.mss, _room(run))):
        size = len(piece)
        if header + size != length:
            length = header + size
            head = _ip(version, source, destination, TCP, length, 0, HOP_LIMIT)
            constant = pseudo_sum(source, destination, TCP, length) + partial_sum(options)
            constant += sport + dport + ack + (header << 10) + window
        number = from_bytes(piece, "big")
        if size & 1:
            number <<= 8
        total = 0xFFFF - ((residue(number) + constant + seq + flags) % 65535 or 0xFFFF)
        yield b"".join((join(head, sport, dport, seq, ack, header << 2, flags, window, total), tail, piece))


def gso_packets(run: SegmentRun) -> Iterator[tuple[bytes, Octets]]:
    """The run as packets of up to 64 KiB behind virtio-net headers: the kernel cuts and sums what has to be."""
    check_run(run)
    version, source, destination, sport, dport = _addresses(run.key)
    options, mss, room = run.options, min(run.mss, _room(run)), _room(run)
    header = 20 + len(options)
    start = 20 if version == 4 else 40
    for seq, flags, piece in _pieces(run, room // mss * mss):
        length = header + len(piece)
        fields = (sport, dport, seq, run.ack, header << 2, flags, run.window)
        partial = pseudo_sum(source, destination, TCP, length) or 0xFFFF
        gso = vnet.GSO_NONE
        if len(piece) > mss and not flags & (SYN | RST):
            gso = vnet.GSO_TCP4 if version == 4 else vnet.GSO_TCP6
        virtio = vnet.HEADER.pack(vnet.NEEDS_CSUM, gso, start + header if gso else 0, mss if gso else 0, start, 16)
        head = _ip(version, source, destination, TCP, length, 0, HOP_LIMIT)
        yield virtio + head + tcp.HEADER.pack(*fields, partial, 0) + options, piece


def emit_datagram(datagram: Datagram, mtu: int) -> list[bytes]:
    """See `PacketCodec.emit_datagram`."""
    version, source, destination, sport, dport = _addresses(datagram.key)
    _check_size(version, 8 + len(datagram.payload))
    octets = udp.emit_udp(source, destination, sport, dport, datagram.payload)
    return _packets(version, source, destination, UDP, octets, datagram.tos, datagram.hop_limit, mtu)


def gso_datagram(datagram: Datagram | DatagramRun, size: int = 0) -> bytes:
    """What stands before the payload of a datagram behind a virtio-net header: all headers, checksum unfinished.

    `size` other than 0: the payload is that of several datagrams of this size.
    """
    version, source, destination, sport, dport = _addresses(datagram.key)
    length = 8 + len(datagram.payload)
    partial = pseudo_sum(source, destination, UDP, length) or 0xFFFF
    start = 20 if version == 4 else 40
    kind = (vnet.GSO_UDP, start + 8, size) if size else (vnet.GSO_NONE, 0, 0)
    virtio = vnet.HEADER.pack(vnet.NEEDS_CSUM, *kind, start, 6)
    head = _ip(version, source, destination, UDP, length, datagram.tos, datagram.hop_limit)
    return virtio + head + udp.HEADER.pack(sport, dport, length, partial)


def run_packets(run: DatagramRun, vnet_header: bool, uso: bool) -> Iterator[tuple[bytes, Octets, int]]:
    """A run as (headers, payload, datagrams) of each packet. Raises OSError (EMSGSIZE) for a size that fits none."""
    version, size = run.key[0], run.size
    room = MAX_PACKET - 8 - (20 if version == 4 else 0)
    if not 0 < size <= room:
        raise OSError(errno.EMSGSIZE, f"a run of datagrams of {size} octets")
    most = min(room // size, MAX_SEGMENTS) * size if vnet_header and uso else size
    payload = memoryview(run.payload)
    for at in range(0, len(payload), most):
        piece = payload[at : at + most]
        one = Datagram(run.key, piece, run.tos, run.hop_limit)
        if vnet_header:
            head = gso_datagram(one, size if len(piece) > size else 0)
        else:
            head = emit_datagram(one, MAX_PACKET + 40)[0][: -len(piece)]
        yield head, piece, -(-len(piece) // size)


def emit_icmp(message: IcmpMessage, mtu: int) -> list[bytes]:
    """See `PacketCodec.emit_icmp`."""
    protocol = ICMP if message.version == 4 else ICMPV6
    _check_size(message.version, 8 + len(message.payload))
    octets = icmp.emit_icmp(message)
    return _packets(
        message.version, message.source, message.destination, protocol, octets, 0, message.hop_limit, mtu
    )  # fmt: skip


def _check_size(version: int, length: int) -> None:
    if length > (MAX_PACKET - 20 if version == 4 else MAX_PACKET):
        raise OSError(errno.EMSGSIZE, f"{length} octets do not fit one IPv{version} packet")


def _packets(
    version: int, source: bytes, destination: bytes, protocol: int, octets: Octets, tos: int, hops: int, mtu: int
) -> list[bytes]:
    size = 20 if version == 4 else 40
    if size + len(octets) <= mtu:
        return [_ip(version, source, destination, protocol, len(octets), tos, hops) + octets]
    # The identification must differ between packets whose fragments are under way together; the codec
    # has no counter, and a sum over the whole content differs whenever mixing them up would matter.
    ident = zlib.crc32(octets, zlib.crc32(source + destination))
    if version == 4:
        head4 = ipv4.Ipv4Header(source, destination, protocol, 20, 20 + len(octets), tos, hop_limit=hops)
        return ipv4.cut_fragments(head4, octets, mtu, (ident >> 16 ^ ident) & 0xFFFF)
    head6 = ipv6.Ipv6Header(source, destination, protocol, 40, 40 + len(octets), tos, hop_limit=hops)
    return ipv6.cut_fragments(head6, octets, mtu, ident)
