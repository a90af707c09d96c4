"""The packet codec in Python: the reference, and what runs where there is no compiler.

Responsible for: the same descriptors and packets as the native codec, octet for octet.
Refuses to know: flows beyond one batch; everything it is told comes as an argument.
RFCs: those of `wire/`; 9293, 7323 and 2018 for what may be coalesced.

Rare things (IPv4 options, extension headers, odd TCP options, fragments to emit) are left to `wire/`;
the common headers are unpacked here, since every function call costs a tenth of a packet's time.

Two ways lead through it. `parse_at` with `may_merge` and `may_join` is the reference: every packet may go that way.
`_Filling.follow` is a short cut for segments that only go on where the one before ended; it takes a packet when it can
show that the reference would have merged it, gives every other back, and so never decides anything by itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from netstack.codec.base import (
    DESCRIPTOR,
    DESCRIPTOR_SIZE,
    HAS_TS,
    KIND_BAD,
    KIND_FRAGMENT,
    KIND_ICMP,
    KIND_OTHER,
    KIND_TCP,
    KIND_UDP,
    MAX_DATAGRAMS,
    VNET_HEADER,
    PacketBatch,
)
from netstack.codec.emit import cut, emit_datagram, emit_icmp, gso_datagram, gso_packets, run_packets
from netstack.codec.train import PLAIN, SHAPES
from netstack.core.drops import DropReason
from netstack.core.flow import ICMP, ICMPV6, KEY, TCP, UDP
from netstack.core.packet import ACK, PSH, Datagram, DatagramRun, IcmpMessage, Octets, SegmentRun
from netstack.wire import icmp, ipv4, ipv6, tcp, udp
from netstack.wire.checksum import is_valid, residue
from netstack.wire.vnet import GSO_ECN, GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, HEADER, TRUSTED

_NO_KEY = bytes(KEY.size)

# places in a record: the order of DESCRIPTOR
_KIND, _BITS, _FLAGS, _TOS, _NSEGS, _REASON, _HOPS, _KEY, _WINDOW, _SEQ, _ACK, _TSVAL, _TSECR = range(13)
_PACKET, _PACKET_LEN, _PAYLOAD, _LENGTH, _OPTIONS, _OPTIONS_LEN, _ADVANCE = range(13, 20)

Record = list[Any]


def _bad(reason: int, at: int, size: int) -> Record:
    return [KIND_BAD, 0, 0, 0, 1, reason, 0, _NO_KEY, 0, 0, 0, 0, 0, at, size, 0, 0, 0, 0, 0]


def parse_at(view: memoryview, at: int, size: int, verify: bool, trusted: bool) -> Record:
    """One record for the packet of `size` octets at `at`; `trusted` skips only the transport's checksum."""
    if not size:
        return _bad(DropReason.EMPTY, at, 0)
    version = view[at] >> 4
    if version == 4:
        return _parse4(view, at, size, verify, trusted)
    if version == 6:
        return _parse6(view, at, size, verify and not trusted)
    return _bad(DropReason.BAD_VERSION, at, size)


def _parse4(view: memoryview, at: int, size: int, verify: bool, trusted: bool) -> Record:
    if size < 20:
        return _bad(DropReason.TRUNCATED_IP, at, size)
    first, tos, length, _, where, hops, protocol, _, source, destination = ipv4.HEADER.unpack_from(view, at)
    header = (first & 15) * 4
    if header < 20 or length < header:
        return _bad(DropReason.BAD_IP_HEADER, at, size)
    if length > size:
        return _bad(DropReason.TRUNCATED_IP, at, size)
    if verify and int.from_bytes(view[at : at + header], "big") % 65535:
        return _bad(DropReason.BAD_IP_CHECKSUM, at, size)
    if header > 20 and not ipv4.are_options_legal(view[at + 20 : at + header]):
        return _bad(DropReason.BAD_IP_HEADER, at, size)
    if ipv4.is_bad_source(source):
        return _bad(DropReason.BAD_ADDRESS, at, size)
    if where & 0x3FFF:
        if ipv4.fragment_problem((where & 0x1FFF) * 8, where & 0x2000 != 0, header, length - header):
            return _bad(DropReason.BAD_FRAGMENT, at, size)
        return [KIND_FRAGMENT, 0, 0, 0, 1, 0, 0, _NO_KEY, 0, 0, 0, 0, 0, at, length, 0, 0, 0, 0, 0]
    pseudo = -1
    if verify and not trusted:
        pseudo = int.from_bytes(source, "big") + int.from_bytes(destination, "big") + protocol
    return _transport(view, at, size, length, 4, protocol, at + header, tos, hops, source, destination, pseudo)


def _parse6(view: memoryview, at: int, size: int, verify: bool) -> Record:
    if size < 40:
        return _bad(DropReason.TRUNCATED_IP, at, size)
    word, length, kind, hops, source, destination = ipv6.HEADER.unpack_from(view, at)
    length += 40
    if length > size:
        return _bad(DropReason.TRUNCATED_IP, at, size)
    if ipv6.is_bad_source(source):
        return _bad(DropReason.BAD_ADDRESS, at, size)
    start = 40
    if kind in ipv6.CHAIN:
        reason, kind, start, fragment = ipv6.walk(view[at : at + length], kind, 40, length)
        if reason:
            return _bad(reason, at, size)
        if fragment:
            return [KIND_FRAGMENT, 0, 0, 0, 1, 0, 0, _NO_KEY, 0, 0, 0, 0, 0, at, length, 0, 0, 0, 0, 0]
    pseudo = int.from_bytes(source, "big") + int.from_bytes(destination, "big") + kind if verify else -1
    tos = word >> 20 & 0xFF
    return _transport(view, at, size, length, 6, kind, at + start, tos, hops, source, destination, pseudo)


def _is_sum_wrong(view: memoryview, start: int, end: int, pseudo: int) -> bool:
    number = int.from_bytes(view[start:end], "big")
    if (end - start) & 1:
        number <<= 8
    return residue(number + pseudo + end - start) != 0


def _transport(
    view: memoryview, at: int, size: int, length: int, version: int, protocol: int, start: int,
    tos: int, hops: int, source: bytes, destination: bytes, pseudo: int,
) -> Record:  # fmt: skip
    """`pseudo` is the pseudo-header's sum without the length, or -1 when checksums are not to be looked at."""
    end = at + length
    if protocol == TCP:
        if end - start < 20:
            return _bad(DropReason.TRUNCATED_TRANSPORT, at, size)
        sport, dport, seq, ack, offset, flags, window, _, _ = tcp.HEADER.unpack_from(view, start)
        payload = start + (offset >> 4) * 4
        if offset < 0x50 or payload > end:
            return _bad(DropReason.BAD_TRANSPORT_HEADER, at, size)
        if pseudo >= 0 and _is_sum_wrong(view, start, end, pseudo):
            return _bad(DropReason.BAD_TCP_CHECKSUM, at, size)
        bits = ts_val = ts_ecr = options = options_length = 0
        if payload > start + 20:
            if payload == start + 32 and view[start + 20 : start + 24] == PLAIN:
                _, ts_val, ts_ecr = tcp.PADDED_TIMESTAMPS.unpack_from(view, start + 20)
                bits = HAS_TS
            else:
                legal, more, has_ts, ts_val, ts_ecr = tcp.scan_options(view[start + 20 : payload])
                if not legal:
                    return _bad(DropReason.BAD_TCP_OPTION, at, size)
                bits = HAS_TS if has_ts else 0
                if more:
                    options, options_length = start + 20, payload - start - 20
        key = KEY.pack(version, TCP, source, destination, sport, dport)
        return [
            KIND_TCP, bits, flags, tos, 1, 0, hops, key, window, seq, ack, ts_val, ts_ecr,
            at, length, payload, end - payload, options, options_length, 0,
        ]  # fmt: skip
    if protocol == UDP:
        if end - start < 8:
            return _bad(DropReason.TRUNCATED_TRANSPORT, at, size)
        sport, dport, own, total = udp.HEADER.unpack_from(view, start)
        if not 8 <= own <= end - start:
            return _bad(DropReason.BAD_TRANSPORT_HEADER, at, size)
        if pseudo >= 0:
            if total:
                if _is_sum_wrong(view, start, start + own, pseudo):
                    return _bad(DropReason.BAD_UDP_CHECKSUM, at, size)
            elif version == 6:
                return _bad(DropReason.ZERO_UDP_CHECKSUM_V6, at, size)
        key = KEY.pack(version, UDP, source, destination, sport, dport)
        return [KIND_UDP, 0, 0, tos, 1, 0, hops, key, 0, 0, 0, 0, 0, at, length, start + 8, own - 8, 0, 0, 0]
    if protocol == (ICMP if version == 4 else ICMPV6):
        if end - start < 8:
            return _bad(DropReason.TRUNCATED_TRANSPORT, at, size)
        kind, code, _, rest = icmp.HEADER.unpack_from(view, start)
        if pseudo >= 0:
            wrong = not is_valid(view[start:end]) if version == 4 else _is_sum_wrong(view, start, end, pseudo)
            if wrong:
                return _bad(DropReason.BAD_ICMP_CHECKSUM, at, size)
        ident = rest >> 16 if icmp.is_echo(version, kind) else 0
        key = KEY.pack(version, protocol, source, destination, ident, 0)
        payload = start + 8
        return [
            KIND_ICMP, 0, kind, tos, 1, code, hops, key, 0, rest, 0, 0, 0,
            at, length, payload, end - payload, 0, 0, 0,
        ]  # fmt: skip
    key = KEY.pack(version, protocol, source, destination, 0, 0)
    return [KIND_OTHER, 0, 0, tos, 1, protocol, hops, key, 0, 0, 0, 0, 0, at, length, start, end - start, 0, 0, 0]


def may_merge(lane: Record, new: Record) -> bool:
    """True when the segment `new` may become part of the super-segment `lane`, the last one of its flow.

    Only ACK and PSH may be set, so that SYN, FIN, RST, URG and ECN marks stay visible one by one;
    options beyond timestamps (SACK) stay with their own segment; neither the sequence may have a gap
    nor the acknowledgment or the timestamp go backwards; equal ACKs without data are duplicate ACKs,
    which loss recovery counts. The ACK field may move by 65,535 in all: its advance is kept, so that a last ACK of
    what was never sent does not hide the honest ones before it.
    """
    if (lane[_FLAGS] | new[_FLAGS]) & ~PSH != ACK or not lane[_FLAGS] & new[_FLAGS] & ACK:
        return False
    if lane[_OPTIONS_LEN] or new[_OPTIONS_LEN] or lane[_BITS] != new[_BITS]:
        return False
    if lane[_TOS] != new[_TOS] or lane[_HOPS] != new[_HOPS]:
        return False
    length = lane[_LENGTH]
    if (lane[_SEQ] + length) & 0xFFFFFFFF != new[_SEQ] or lane[_NSEGS] + new[_NSEGS] > 0xFFFF:
        return False
    advance = (new[_ACK] - lane[_ACK]) & 0xFFFFFFFF
    if advance + lane[_ADVANCE] > 0xFFFF or (new[_TSVAL] - lane[_TSVAL]) & 0xFFFFFFFF >= 0x80000000:
        return False
    if length:
        return bool(new[_LENGTH])
    return not new[_LENGTH] and advance > 0


def _datagram_size(record: Record) -> int:
    size: int = record[_SEQ] if record[_NSEGS] > 1 else record[_LENGTH]
    return size


def _begin_run(record: Record, size: int) -> None:
    if record[_NSEGS] == 1:
        record[_SEQ] = size
        record[_WINDOW] = record[_PAYLOAD] - record[_PACKET]


def may_join(run: Record, new: Record) -> bool:
    """True when the datagram (or run) `new` may become part of `run`, the last one of its flow.

    A run's datagrams have one size; only the last may be shorter, so that the run's length says all. An empty one
    stays alone: nothing would show that it was there.
    """
    size, length = _datagram_size(run), new[_LENGTH]
    if not run[_LENGTH] or not length or run[_TOS] != new[_TOS] or run[_HOPS] != new[_HOPS]:
        return False
    if run[_NSEGS] + new[_NSEGS] > MAX_DATAGRAMS or run[_LENGTH] != run[_NSEGS] * size:
        return False
    return bool(new[_SEQ] == size if new[_NSEGS] > 1 else length <= size)


class _Filling:
    """A batch while it is being filled: records, and for each flow the record that may still grow."""

    __slots__ = ("batch", "coalesce", "cursor", "half", "lanes", "octets", "packets", "pieces", "records", "verify")

    def __init__(self, batch: PacketBatch, verify: bool, coalesce: bool) -> None:
        self.batch = batch
        self.verify = verify
        self.coalesce = coalesce
        self.cursor = 0
        self.half = len(batch.arena) // 2
        self.records: list[Record] = []
        self.lanes: dict[bytes, Record] = {}
        self.pieces: dict[int, list[Octets]] = {}  # by id of the record: payloads that are still apart
        self.packets = 0
        self.octets = 0

    def has_room(self, size: int) -> bool:
        """True when another packet of `size` octets may come."""
        capacity = self.batch.capacity
        return self.packets < capacity and len(self.records) < capacity and self.cursor + size <= self.half

    def fill(self, packets: Iterator[Octets], slot: int) -> None:
        """Take packets until there are no more or the batch is full.

        With a `slot` the next packet is asked for while that many octets are free, and an empty one is the end;
        without one, packets are in memory and one is taken when it has room itself.
        """
        view = self.batch.view
        packet: Octets | None = None
        while True:
            if packet is None:
                if slot and not self.has_room(slot):
                    return
                packet = next(packets, None)
                if packet is None:
                    return
            size, base = len(packet), self.cursor
            if slot:
                if not size:
                    return
            elif not self.has_room(size):
                if self.packets:
                    return
                packet, size = packet[: self.half], self.half
            view[base : base + size] = packet
            self._account(base, size, size)
            record = parse_at(view, base, size, self.verify, False)
            lane = self._add(record, base)
            packet = None if lane is None else self.follow(lane, record, packet, packets, slot)

    def follow(
        self, lane: Record, record: Record, like: Octets, packets: Iterator[Octets], slot: int
    ) -> Octets | None:  # fmt: skip
        """The short cut: take packets while each goes on where `lane` ends; the first that does not is given back.

        The packet `like` has just been merged into the lane by way of its `record`. One that has the same bits
        wherever `Shape.same` says so is of the same flow, well-formed and of a kind that merges. What is left to
        look at are the fields that may differ, as in `may_merge`, and the checksums: since those of `like` are right,
        what differs between the two has to sum to the same. None when there are no more packets or no more room.
        """
        header = record[_PAYLOAD] - record[_PACKET]
        shape = SHAPES.get(header)
        left = self.batch.capacity - self.packets if len(self.records) < self.batch.capacity else 0
        if shape is None or not left or len(like) != record[_PACKET_LEN]:
            return None
        number = int.from_bytes(like, "little")
        if number & shape.marks_at != shape.marks:
            return None
        same, stamped, unpack, from_bytes = shape.same, shape.stamped, shape.unpack, int.from_bytes
        alike = number & same
        verify, half, cursor = self.verify, self.half, self.cursor
        view, pieces = self.batch.view, self.pieces.get(id(lane))
        length, ident, total = unpack(like)[:3]
        # A little-endian sum is the big-endian one times 256. An IPv4 header that is right adds nothing to the number,
        # but the length is in the pseudo-header; an IPv6 header has the length itself, so that it need not be added.
        between = 40 if header >= 60 else 0
        per_octet = 0 if between else 256
        header_sum = (ident + total + length) % 65535
        rest = 65535 - residue(number + length * per_octet) if verify else 0
        ack, advance, flags, window = lane[_ACK], lane[_ADVANCE], lane[_FLAGS], lane[_WINDOW]
        ts_val, ts_ecr, grown, has_data = lane[_TSVAL], lane[_TSECR], lane[_LENGTH], lane[_LENGTH] > 0
        due = (lane[_SEQ] + grown) & 0xFFFFFFFF
        taken = octets = 0
        try:
            if cursor + slot > half:
                return None
            for packet in packets:
                size = len(packet)
                number = from_bytes(packet, "little")
                if size < header or number & same != alike or cursor + size > half:
                    return packet
                if stamped:
                    length, ident, total, seq, new_ack, bits, new_window, new_val, new_ecr = unpack(packet)
                    if (new_val - ts_val) & 0xFFFFFFFF >= 0x80000000:
                        return packet
                else:
                    length, ident, total, seq, new_ack, bits, new_window = unpack(packet)
                    new_val = new_ecr = 0
                if length + between != size or seq != due or (size > header) != has_data:
                    return packet
                if verify:
                    if per_octet and (ident + total + length) % 65535 != header_sum:
                        return packet
                    if (residue(number) + rest + length * per_octet) % 65535:
                        return packet
                moved = (new_ack - ack) & 0xFFFFFFFF
                if advance + moved > 0xFFFF or not (has_data or moved):
                    return packet
                if has_data:
                    if pieces is None:
                        view[cursor : cursor + size - header] = packet[header:]
                        cursor += size - header
                    else:
                        pieces.append(packet[header:])
                        cursor += size
                    grown += size - header
                    due = (seq + size - header) & 0xFFFFFFFF
                ack, window, ts_val, ts_ecr = new_ack, new_window, new_val, new_ecr
                advance += moved
                flags |= bits
                taken += 1
                octets += size
                if taken == left or cursor + slot > half:
                    return None
            return None
        finally:
            lane[_NSEGS] += taken
            lane[_LENGTH], lane[_FLAGS], lane[_WINDOW] = grown, flags, window
            lane[_ACK], lane[_ADVANCE], lane[_TSVAL], lane[_TSECR] = ack, advance, ts_val, ts_ecr
            self.cursor = cursor
            self.packets += taken
            self.octets += octets

    def take_vnet(self, base: int, size: int) -> None:
        """The same for one behind a virtio-net header; `size` counts both."""
        if size < VNET_HEADER:
            self._account(base, size, size)
            self.records.append(_bad(DropReason.BAD_GSO, base, size))
            return
        at, length = base + VNET_HEADER, size - VNET_HEADER
        self._account(base, size, length)
        flags, gso_type, _, gso_size, _, _ = HEADER.unpack_from(self.batch.view, base)
        gso_type &= ~GSO_ECN
        record = parse_at(self.batch.view, at, length, self.verify, gso_type != GSO_NONE or flags & TRUSTED != 0)
        if gso_type == GSO_NONE or record[_KIND] == KIND_BAD:
            self._add(record, base)
            return
        count = max(-(-record[_LENGTH] // gso_size), 1) if gso_size else 0
        if count and record[_KIND] == KIND_TCP and gso_type == (GSO_TCP4 if record[_KEY][0] == 4 else GSO_TCP6):
            record[_NSEGS] = count
            self._add(record, base)
        elif 0 < count <= MAX_DATAGRAMS and record[_KIND] == KIND_UDP and gso_type == GSO_UDP:
            if count > 1:
                _begin_run(record, gso_size)
            record[_NSEGS] = count
            self._add(record, base)
        else:
            self.records.append(_bad(DropReason.BAD_GSO, at, length))

    def _account(self, base: int, size: int, octets: int) -> None:
        self.cursor = base + size
        self.packets += 1
        self.octets += octets

    def _add(self, record: Record, base: int) -> Record | None:
        """Keep the record or merge it; the lane when it was a segment that has been merged."""
        if record[_KIND] not in (KIND_TCP, KIND_UDP) or not self.coalesce:
            self.records.append(record)
            return None
        lane = self.lanes.get(record[_KEY])
        if lane is not None and record[_KIND] == KIND_UDP and may_join(lane, record):
            _begin_run(lane, _datagram_size(lane))
            self._grow(lane, record, base)
            lane[_NSEGS] += record[_NSEGS]
            return None
        if lane is None or record[_KIND] == KIND_UDP or not may_merge(lane, record):
            self.lanes[record[_KEY]] = record
            self.records.append(record)
            return None
        if record[_LENGTH]:
            self._grow(lane, record, base)
        else:
            self.cursor = base  # nothing of a pure ACK has to stay
        lane[_FLAGS] |= record[_FLAGS]
        lane[_NSEGS] += record[_NSEGS]
        lane[_ADVANCE] += (record[_ACK] - lane[_ACK]) & 0xFFFFFFFF
        for place in (_WINDOW, _ACK, _TSVAL, _TSECR):
            lane[place] = record[place]
        return lane

    def _grow(self, lane: Record, record: Record, base: int) -> None:
        """Add the payload of a packet that came in at `base` to its lane: moved down over its own header when
        the lane ends there, else kept apart until `finish`."""
        view, at, length = self.batch.view, record[_PAYLOAD], record[_LENGTH]
        pieces = self.pieces.get(id(lane))
        if pieces is None and lane[_PAYLOAD] + lane[_LENGTH] == base:
            view[base : base + length] = view[at : at + length]
            self.cursor = base + length
        else:
            if pieces is None:
                pieces = self.pieces[id(lane)] = [view[lane[_PAYLOAD] : lane[_PAYLOAD] + lane[_LENGTH]]]
            pieces.append(view[at : at + length])
        lane[_LENGTH] += length

    def finish(self) -> int:
        """Join what is apart, write the descriptors; how many packets there were."""
        batch, spill = self.batch, self.half
        records = self.records
        if self.pieces:
            for record in records:
                pieces = self.pieces.get(id(record))
                if pieces is not None:
                    batch.view[spill : spill + record[_LENGTH]] = b"".join(pieces)
                    record[_PAYLOAD] = spill
                    spill += record[_LENGTH]
        descriptors, pack_into = batch.descriptors, DESCRIPTOR.pack_into
        for number, record in enumerate(records):
            pack_into(descriptors, number * DESCRIPTOR_SIZE, *record)
        batch.count, batch.packets, batch.octets = len(records), self.packets, self.octets
        return self.packets


def _read_vnet(fd: int, filling: _Filling) -> None:
    """Read until there is no more room, or an end of file. Raises OSError as read(2) does."""
    view, slot = filling.batch.view, filling.batch.slot
    while filling.has_room(slot):
        at = filling.cursor
        size = os.readv(fd, [view[at : at + slot]])
        if not size:
            return
        filling.take_vnet(at, size)


class PureCodec:
    """`PacketCodec` without C."""

    name = "pure"

    def read_batch(self, fd: int, batch: PacketBatch, *, vnet: bool = False) -> int:
        """See `PacketCodec.read_batch`."""
        filling = _Filling(batch, True, True)
        try:
            if vnet:
                _read_vnet(fd, filling)
            else:
                filling.fill(map(os.read, repeat(fd), repeat(batch.slot)), batch.slot)
        except BlockingIOError:
            return filling.finish()
        except OSError:
            if not filling.packets:
                batch.count = batch.packets = batch.octets = 0
                raise
        if not filling.packets:
            batch.count = batch.packets = batch.octets = 0
            raise OSError(errno.ENODEV, "end of file")
        return filling.finish()

    def parse_batch(
        self, packets: Iterable[Octets], batch: PacketBatch, *, verify: bool = True, coalesce: bool = True
    ) -> int:
        """See `PacketCodec.parse_batch`."""
        filling = _Filling(batch, verify, coalesce)
        filling.fill(iter(packets), 0)
        return filling.finish()

    def cut_run(self, run: SegmentRun) -> list[bytes]:
        """See `PacketCodec.cut_run`."""
        return list(cut(run))

    def write_run(self, fd: int, run: SegmentRun, *, vnet: bool = False) -> int:
        """See `PacketCodec.write_run`."""
        written, first = 0, True
        headers = (40 if run.key[0] == 4 else 60) + len(run.options)
        try:
            if vnet:
                for head, piece in gso_packets(run):
                    _put(fd, head, piece)
                    first = False
                    written += len(piece)
            else:
                for packet in cut(run):  # joined: cheaper than the two pieces of a writev
                    if os.write(fd, packet) != len(packet):
                        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
                    first = False
                    written += len(packet) - headers
        except OSError:
            if first:
                raise
        return written

    def emit_datagram(self, datagram: Datagram, mtu: int) -> list[bytes]:
        """See `PacketCodec.emit_datagram`."""
        return emit_datagram(datagram, mtu)

    def write_datagram(self, fd: int, datagram: Datagram, mtu: int, *, vnet: bool = False) -> None:
        """See `PacketCodec.write_datagram`."""
        packets = emit_datagram(datagram, mtu)
        if vnet and len(packets) == 1:
            _put(fd, gso_datagram(datagram), datagram.payload)
            return
        for packet in packets:
            self.write_packet(fd, packet, vnet=vnet)

    def write_datagrams(self, fd: int, run: DatagramRun, *, vnet: bool = False, uso: bool = False) -> int:
        """See `PacketCodec.write_datagrams`."""
        written = 0
        for head, piece, count in run_packets(run, vnet, uso):
            try:
                _put(fd, head, piece)
            except OSError:
                if not written:
                    raise
                break
            written += count
        return written

    def emit_icmp(self, message: IcmpMessage, mtu: int) -> list[bytes]:
        """See `PacketCodec.emit_icmp`."""
        return emit_icmp(message, mtu)

    def write_packet(self, fd: int, packet: Octets, *, vnet: bool = False) -> None:
        """See `PacketCodec.write_packet`."""
        _put(fd, bytes(VNET_HEADER) if vnet else b"", packet)


def _put(fd: int, head: bytes, rest: Octets) -> None:
    """One packet in two pieces. A TUN takes a packet whole or not at all."""
    if os.writev(fd, [head, rest]) != len(head) + len(rest):
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
