"""Reads and writes capture files as streams of frames: classic pcap here, pcapng in `link/pcapng.py`.

Responsible for: telling the formats apart, all byte orders and resolutions of classic pcap, writing it.
Refuses to know: what is in a frame (`link/linktype.py` finds the IP header).

Reading is lazy and sequential: nothing but the record at hand is in memory, and what was read before some
damage stays valid. Damage is a CaptureError that names the file and the offset.

Source: draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from netstack.core.errors import CaptureError
from netstack.core.packet import Octets
from netstack.core.record import recordclass
from netstack.link.linktype import RAW

LARGEST_RECORD = 1 << 24
"""Octets of one frame; what claims more is damage (libpcap stops at 256 KiB for every link type that carries IP)."""


@recordclass()
class Frame:
    """One captured frame. `number` counts from 1; `time_ns` since 1970; `length` on the wire, `data` as captured."""

    number: int
    time_ns: int
    linktype: int
    interface: int
    data: bytes
    length: int

    @property
    def snapped(self) -> bool:
        """Part of the frame was not captured (or the record contradicts itself)."""
        return len(self.data) != self.length


class Source:
    """A binary file that knows its offset, and complains with it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.offset = 0

    def read(self, size: int) -> bytes:
        """At most `size` octets; fewer only at the end of the file."""
        try:
            data = self.file.read(size)
            while 0 < len(data) < size and (more := self.file.read(size - len(data))):
                data += more
        except (OSError, EOFError) as problem:  # gzip raises both for a damaged archive
            raise self.problem(f"cannot read: {problem}") from problem
        self.offset += len(data)
        return data

    def exactly(self, size: int, what: str) -> bytes:
        """`size` octets of `what`, else CaptureError at the place where it started."""
        start = self.offset
        data = self.read(size)
        if len(data) < size:
            raise self.problem(f"the file ends inside {what} ({len(data)} of {size} octets)", start)
        return data

    def skip(self, size: int, what: str) -> None:
        """Pass over `size` octets without holding them."""
        while size:
            size -= len(self.exactly(min(size, 1 << 16), what))

    def problem(self, what: str, offset: int | None = None) -> CaptureError:
        """The error to raise."""
        return CaptureError(f"{self.name}: {what}, at offset {self.offset if offset is None else offset}")


_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000, 0),
    b"\xa1\xb2\xc3\xd4": (">", 1000, 0),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 0),
    b"\xa1\xb2\x3c\x4d": (">", 1, 0),
    b"\x34\xcd\xb2\xa1": ("<", 1000, 8),  # Kuznetzov's libpcap: 8 more octets in each record header
    b"\xa1\xb2\xcd\x34": (">", 1000, 8),
}
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"


def open_capture(path: str) -> BinaryIO:
    """Open for reading, unpacking gzip. Raises CaptureError naming the file."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except OSError as problem:
        raise CaptureError(f"{path}: cannot open: {problem.strerror}") from problem
    try:
        return unpacked(file)
    except OSError as problem:
        raise CaptureError(f"{path}: cannot read: {problem.strerror}") from problem


def unpacked(file: BinaryIO) -> BinaryIO:
    """The file itself, or what is in it when it is a gzip archive."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    if not buffered.peek(2).startswith(b"\x1f\x8b"):
        return buffered
    return io.BufferedReader(_Archive(gzip.GzipFile(fileobj=buffered)))


class _Archive(io.RawIOBase):
    """A gzip archive that gives what it holds before it complains about damage; `read` of the library does not."""

    def __init__(self, archive: gzip.GzipFile) -> None:
        self._archive = archive

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, memory: Any, /) -> int:
        octets = self._archive.read1(len(memory))
        memory[: len(octets)] = octets
        return len(octets)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._archive.seek(offset, whence)

    def close(self) -> None:
        self._archive.close()
        super().close()


def read_capture(path: str) -> Iterator[Frame]:
    """The frames of a capture file. Raises CaptureError, possibly after some frames."""
    with open_capture(path) as file:
        yield from read_frames(file, path)


def read_frames(file: BinaryIO, name: str) -> Iterator[Frame]:
    """The frames of an open file of either format; `name` is for errors. Raises CaptureError."""
    source = Source(file, name)
    magic = source.read(4)
    if not magic:
        raise CaptureError(f"{name}: the file is empty, at offset 0")
    if magic == PCAPNG_MAGIC:
        from netstack.link.pcapng import read_sections

        return read_sections(source)
    known = _MAGICS.get(magic)
    if known is None:
        raise CaptureError(f"{name}: neither pcap nor pcapng (it starts with {magic.hex()}), at offset 0")
    return _read_pcap(source, *known)


def _read_pcap(source: Source, order: str, unit_ns: int, extra: int) -> Iterator[Frame]:
    major, minor, _, _, _, network = struct.unpack(order + "HHiIII", source.exactly(20, "the file header"))
    if major != 2:
        raise source.problem(f"pcap version {major}.{minor} is not known", 4)
    linktype = network & 0xFFFF  # the upper bits tell the length of a frame check sequence
    header = struct.Struct(order + "IIII")
    number = 0
    while True:
        start = source.offset
        octets = source.read(16)
        if not octets:
            return
        if len(octets) < 16:
            raise source.problem(f"the file ends inside a record header ({len(octets)} of 16 octets)", start)
        seconds, fraction, size, length = header.unpack(octets)
        if (major, minor) < (2, 3) or ((major, minor) == (2, 3) and size > length):
            size, length = length, size  # old writers swapped them
        if size > LARGEST_RECORD:
            raise source.problem(f"record {number + 1} claims {size} octets", start)
        if extra:
            source.exactly(extra, "a record header")
        data = source.exactly(size, f"record {number + 1}")
        number += 1
        yield Frame(number, seconds * 1_000_000_000 + fraction * unit_ns, linktype, 0, data, length)


class CaptureWriter(Protocol):
    """What takes packets for a capture file."""

    def write(self, packet: Octets, time_ns: int, comment: str = "") -> None:
        """Append one packet."""

    def flush(self) -> None:
        """Everything so far is in the file: a reader sees whole records even if the process is killed now."""


class PcapWriter:
    """Classic pcap, nanoseconds. Comments have no place in this format and are left out."""

    def __init__(self, file: BinaryIO, *, linktype: int = RAW) -> None:
        self._file = file
        file.write(struct.pack("<4sHHiIII", b"\x4d\x3c\xb2\xa1", 2, 4, 0, 0, 262_144, linktype))

    def write(self, packet: Octets, time_ns: int, comment: str = "") -> None:
        """Append one packet in a single write, so that a killed process leaves whole records."""
        seconds, fraction = divmod(time_ns, 1_000_000_000)
        size = len(packet)
        self._file.write(struct.pack("<IIII", seconds & 0xFFFFFFFF, fraction, size, size) + bytes(packet))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()
