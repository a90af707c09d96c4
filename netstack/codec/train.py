"""What the segments of a train have in common, for the pure codec's short cut.

Responsible for: which bits of two headers must be equal, and where the fields are that may differ.
Refuses to know: what is done with them (`pure._Filling.follow`). RFCs: 791, 8200, 9293 3.1, 7323 appendix A.
"""

from __future__ import annotations

import struct

from netstack.core.flow import TCP
from netstack.core.packet import PSH

PLAIN = b"\x01\x01\x08\x0a"  # NOP, NOP, timestamps: what nearly every data segment carries


class Shape:
    """Where things are in segments whose headers have one length: no IP options, TCP timestamps or nothing.

    `same` selects the bits that all segments of a train share, of the packet read as a little-endian number (octet n
    is then at bit 8n, however long the packet is): everything but lengths, IPv4's identification, checksums, the
    fields that `unpack` gives, and PSH. `marks` says what these bits must be for the shape to be this one.
    """

    __slots__ = ("header", "marks", "marks_at", "same", "stamped", "unpack")

    def __init__(self, version: int, stamped: bool) -> None:
        start = 20 if version == 4 else 40
        self.header = start + (32 if stamped else 20)
        self.stamped = stamped
        same, marks, marks_at = bytearray(self.header), bytearray(self.header), bytearray(self.header)
        constant = [0, 1, *range(6, 10), *range(12, 20)] if version == 4 else [0, 1, 2, 3, *range(6, 40)]
        constant += [*range(start, start + 4), start + 12]  # ports, header length
        if stamped:
            constant += range(start + 20, start + 24)
            marks[start + 20 : start + 24] = PLAIN
            marks_at[start + 20 : start + 24] = b"\xff" * 4
        for at in constant:
            same[at] = 0xFF
        same[start + 13] = 0xFF & ~PSH
        where = 9 if version == 4 else 6
        for at, octet in ((where, TCP), (start + 12, (self.header - start) << 2)):
            marks[at], marks_at[at] = octet, 0xFF
        marks[0], marks_at[0] = (0x45, 0xFF) if version == 4 else (0x60, 0xF0)
        self.same = int.from_bytes(same, "little")
        self.marks = int.from_bytes(marks, "little")
        self.marks_at = int.from_bytes(marks_at, "little")
        # length, identification and checksum (IPv6: two fields that are the same in all), seq, ack, flags, window
        layout = "!2xHH4xH12xIIxBH" if version == 4 else "!4xHHH34xIIxBH"
        self.unpack = struct.Struct(layout + ("8xII" if stamped else "")).unpack_from


SHAPES = {shape.header: shape for shape in (Shape(4, False), Shape(4, True), Shape(6, False), Shape(6, True))}
