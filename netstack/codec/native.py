"""The packet codec in C, through cffi (out-of-line API mode).

Responsible for: handing memory to `native/` and errors back; refusing a library of another layout.
Refuses to know: what C does with the octets. Datagrams larger than the MTU and ICMP messages are rare
and are left to `codec/emit.py`, which the pure codec uses too.

cffi releases the interpreter lock during every call. Nothing is copied on the way in: `bytes` are
passed as they are, other buffers by `from_buffer`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from netstack.codec._native import ffi, lib
from netstack.codec.base import DESCRIPTOR, DESCRIPTOR_SIZE, LAYOUT_VERSION, PacketBatch
from netstack.codec.emit import check_run, emit_datagram, emit_icmp
from netstack.core.errors import CodecError
from netstack.core.packet import RST, SYN, Datagram, DatagramRun, IcmpMessage, Octets, SegmentRun

_HEADERS = {4: 40, 6: 60}  # octets of IP and TCP header


def check_layout(library: Any = lib) -> None:
    """Raises CodecError when the library's descriptor or version is not the one that Python reads."""
    version, size = library.netstack_layout_version(), library.netstack_descriptor_size()
    if version != LAYOUT_VERSION or size != DESCRIPTOR_SIZE:
        raise CodecError(
            f"built for layout {version} with descriptors of {size} octets, "
            f"wanted are layout {LAYOUT_VERSION} and {DESCRIPTOR_SIZE}"
        )
    record = bytearray(DESCRIPTOR_SIZE)
    library.netstack_number_fields(ffi.from_buffer("netstack_descriptor *", record))
    fields = list(DESCRIPTOR.unpack(record))
    key = fields.pop(7)
    if key[0] != 8 or key[37] != 8 or fields != [n for n in range(1, 21) if n != 8]:
        raise CodecError("the fields of its descriptor are not where they are read")


check_layout()

_read_batch, _parse_batch = lib.netstack_read_batch, lib.netstack_parse_batch
_cut_run, _write_run = lib.netstack_cut_run, lib.netstack_write_run
_emit_datagram, _write_datagram = lib.netstack_emit_datagram, lib.netstack_write_datagram
_write_packet, _write_datagrams = lib.netstack_write_packet, lib.netstack_write_datagrams


def _octets(octets: Octets) -> Any:
    """What cffi takes for a `const uint8_t *`."""
    return octets if type(octets) is bytes else ffi.from_buffer("uint8_t[]", octets)


def _raise(result: int) -> None:
    raise OSError(-result, os.strerror(-result))


class NativeCodec:
    """`PacketCodec` over `native/`."""

    name = "native"

    def _memory(self, batch: PacketBatch) -> Any:
        """The C view of a batch's memory, made at first use; the bytearrays cannot be resized while it lives."""
        if batch.pinned is None:
            arena = ffi.from_buffer("uint8_t[]", batch.arena)
            descriptors = ffi.from_buffer("netstack_descriptor[]", batch.descriptors)
            memory = ffi.new(
                "netstack_batch *",
                {
                    "arena": arena,
                    "arena_size": len(batch.arena),
                    "slot": batch.slot,
                    "descriptors": descriptors,
                    "capacity": batch.capacity,
                },
            )
            batch.pinned = memory, arena, descriptors
        return batch.pinned[0]

    def read_batch(self, fd: int, batch: PacketBatch, *, vnet: bool = False) -> int:
        """See `PacketCodec.read_batch`."""
        memory = self._memory(batch)
        packets: int = _read_batch(fd, memory, vnet)
        batch.count, batch.packets, batch.octets = memory.count, memory.packets, memory.octets
        if packets < 0:
            _raise(packets)
        return packets

    def parse_batch(
        self, packets: Iterable[Octets], batch: PacketBatch, *, verify: bool = True, coalesce: bool = True
    ) -> int:
        """See `PacketCodec.parse_batch`."""
        memory = self._memory(batch)
        some = list(islice(packets, batch.capacity))
        sizes = ffi.new("uint32_t[]", list(map(len, some)))
        taken: int = _parse_batch(memory, b"".join(some), sizes, len(some), verify, coalesce)
        batch.count, batch.packets, batch.octets = memory.count, memory.packets, memory.octets
        return taken

    def cut_run(self, run: SegmentRun) -> list[bytes]:
        """See `PacketCodec.cut_run`."""
        check_run(run)
        header = _HEADERS[run.key[0]] + len(run.options)
        total = len(run.payload)
        size = max(total, 1) if run.flags & (SYN | RST) else min(run.mss, 65_535 - header)
        out = bytearray(total + header * max(-(-total // size), 1))
        _cut_run(
            run.key, run.seq, run.ack, run.flags, run.window, run.mss, run.options, len(run.options),
            _octets(run.payload), total, ffi.from_buffer("uint8_t[]", out), len(out),
        )  # fmt: skip
        view, step = memoryview(out), size + header
        return [bytes(view[at : at + step]) for at in range(0, len(out), step)]

    def write_run(self, fd: int, run: SegmentRun, *, vnet: bool = False) -> int:
        """See `PacketCodec.write_run`."""
        payload, options = run.payload, run.options
        written: int = _write_run(
            fd, run.key, run.seq, run.ack, run.flags, run.window, run.mss, options, len(options),
            payload if type(payload) is bytes else ffi.from_buffer("uint8_t[]", payload), len(payload), vnet,
        )  # fmt: skip
        if written < 0:
            if written == -errno.EINVAL:
                check_run(run)
            _raise(written)
        return written

    def emit_datagram(self, datagram: Datagram, mtu: int) -> list[bytes]:
        """See `PacketCodec.emit_datagram`."""
        payload, key = datagram.payload, datagram.key
        size = len(payload) + (28 if key[0] == 4 else 48)
        if size > min(mtu, 65_535):
            return emit_datagram(datagram, mtu)
        out = bytearray(size)
        _emit_datagram(
            key, datagram.tos, datagram.hop_limit, _octets(payload), len(payload), _octets(out), size,
        )  # fmt: skip
        return [bytes(out)]

    def write_datagram(self, fd: int, datagram: Datagram, mtu: int, *, vnet: bool = False) -> None:
        """See `PacketCodec.write_datagram`."""
        payload, key = datagram.payload, datagram.key
        if len(payload) + (28 if key[0] == 4 else 48) > mtu:
            for packet in emit_datagram(datagram, mtu):
                self.write_packet(fd, packet, vnet=vnet)
            return
        result = _write_datagram(
            fd, key, datagram.tos, datagram.hop_limit, _octets(payload), len(payload), vnet
        )  # fmt: skip
        if result:
            _raise(result)

    def write_datagrams(self, fd: int, run: DatagramRun, *, vnet: bool = False, uso: bool = False) -> int:
        """See `PacketCodec.write_datagrams`."""
        payload = run.payload
        written: int = _write_datagrams(
            fd, run.key, run.tos, run.hop_limit, _octets(payload), len(payload), run.size, vnet, uso
        )
        if written < 0:
            _raise(written)
        return written

    def emit_icmp(self, message: IcmpMessage, mtu: int) -> list[bytes]:
        """See `PacketCodec.emit_icmp`."""
        return emit_icmp(message, mtu)

    def write_packet(self, fd: int, packet: Octets, *, vnet: bool = False) -> None:
        """See `PacketCodec.write_packet`."""
        result = _write_packet(fd, _octets(packet), len(packet), vnet)
        if result:
            _raise(result)
