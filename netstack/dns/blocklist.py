"""A compiled list of names: read in place from a file that is mapped into memory, exact, and cheap to ask.

Responsible for: the file's format, refusing what is damaged or of another version, looking names up.
Refuses to know: how lists are written by people (`list_text`), how the file is made (`list_compile`), what a match
means for a query (`ruleset`).
RFCs: 1035 3.1 (labels), 4343 (case).

The format (all numbers little-endian)::

    header       magic, version, sizes, counts, CRC-32 of the body, CRC-32 of header and table descriptors
    descriptors  one for each table
    body         for each table its bucket index (where in the file each bucket begins) and its entries

The names form a tree of labels, from the top level down. A node is a pair (parent, label), and is kept in the table
for its depth, its label's length and its label's alphabet. The pair is one number: the label in base 36 (letters and
digits), 64 (with - and _) or 256 (other octets), times the number of nodes one level up, plus the parent's position
there. The number is multiplied by an odd constant modulo a power of two. That can be undone, so nothing is lost and
no two nodes become the same: this is not a digest, and a name that is not in the list cannot match. The upper bits of
the product choose a bucket, the lower ones are what an entry stores, as octets of fixed width, with the node's flags
behind them unless all nodes of the table have the same. A bucket is searched by `find`, whose hits count only at a
whole entry. Most names that are not in a list are known after two such steps.

One million names take 6 to 12 octets each, nothing of which is copied: the pages belong to the file, are clean, and
can be taken back by the system at any time. What is mapped is a copy that has no name: whatever becomes of the file, a
list in force stays as it is.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import struct
from binascii import a2b_base64
from math import isqrt
from typing import BinaryIO
from zlib import crc32

from netstack.core.errors import ConfigError
from netstack.dns.list_text import ALLOW, SELF, UNDER

MAGIC = b"\x8eNSLIST\n"
VERSION = 1
HEADER = struct.Struct("<8sHHIIIIIQI")
"""magic, version, flags, tables, names, nodes, octets of the body, CRC of the body, reserved, CRC of what precedes the
body (with this field zero)."""
TABLE = struct.Struct("<HBBBBHIIII")
"""depth << 8 | alphabet | label length; bits of the parent's position; bits that choose the bucket; octets of the lower
bits; flags of all entries or VARIOUS; multiplier; entries; position of the first on its level; offsets of index and
entries."""
CHILDREN = 16  # flag of a node: there are names below it
VARIOUS = 255
HAS_EXCEPTIONS = 1  # flag of the file

BASE64, BASE256 = 0x80, 0x40  # alphabets; base 36 is 0
_MOST_TABLES = 32_768
_numbers = itertools.count()
_KEPT_TOPS = 256
_unpack_pair = struct.Struct("<II").unpack_from
_TO64 = bytes.maketrans(b"-_", b"+/")
_PADS = (b"", b"AAA", b"AA", b"A")

BLOCKED = 1
ALLOWED = 2


class ListError(ConfigError):
    """A list cannot be used; the message names the file and what is wrong with it."""


Table = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""Multiplier, mask of all bits, bits of the parent's position, lower bits, the mask of those, their octets, octets of
an entry, offsets of index and entries, flags of all or VARIOUS, position of the first. (A plain tuple: others are
unpacked half as fast.)"""


def label_number(label: bytes) -> tuple[int, int]:
    """The alphabet of a lower-case label, and the label as a number in it."""
    if label.isalnum():
        return 0, int(label, 36)
    rest = label.translate(None, b"-_")
    if not rest or rest.isalnum():
        pad = _PADS[len(label) & 3]
        return BASE64, int.from_bytes(a2b_base64(label.translate(_TO64) + pad), "big") >> 6 * len(pad)
    return BASE256, int.from_bytes(label, "big")


def label_bits(alphabet: int, length: int) -> int:
    """How many bits `label_number` needs."""
    if alphabet == BASE64:
        return 6 * length
    return 8 * length if alphabet == BASE256 else (36**length - 1).bit_length()


def multiplier(bits: int, seed: int) -> int:
    """An odd number of `bits` bits that spreads what it multiplies: seed 0 is the golden ratio's fraction."""
    root = isqrt((5 + 8 * seed) << 2 * bits)
    return root >> 1 & (1 << bits) - 1 | 1


def labels_of(wire: bytes) -> list[bytes]:
    """The labels of an uncompressed name, top level last; the case stays."""
    labels = []
    at = 0
    while size := wire[at]:
        end = at + 1 + size
        labels.append(wire[at + 1 : end])
        at = end
    return labels


class NameList:
    """A compiled list. `names` is how many lines it was made of, duplicates counted once."""

    __slots__ = ("_data", "_find", "_tables", "_tops", "has_exceptions", "names", "nodes", "path")

    def __init__(self, data: mmap.mmap | bytes, path: str = "", *, verify: bool = True) -> None:
        """Check and use `data`; without `verify` only its header is looked at. Raises ListError naming `path`."""
        self._data = data
        self._find = data.find
        self.path = path
        self._tops: dict[bytes, tuple[int, int] | None] = {}
        size = len(data)
        if size < HEADER.size or data[: len(MAGIC)] != MAGIC:
            raise ListError(f"{path}: not a compiled list")
        _, version, flags, count, names, nodes, body, _, _, crc = HEADER.unpack_from(data)
        if version != VERSION:
            raise ListError(f"{path}: compiled list of version {version}, {VERSION} is wanted: compile it again")
        start = HEADER.size + count * TABLE.size
        if count > _MOST_TABLES or start + body != size:
            raise ListError(f"{path}: damaged list: {size} octets, {start + body} are announced")
        if crc32(data[HEADER.size : start], crc32(bytes(data[: HEADER.size - 4]) + bytes(4))) != crc:
            raise ListError(f"{path}: damaged list: wrong checksum of the header")
        self.names: int = names
        self.nodes: int = nodes
        self.has_exceptions = bool(flags & HAS_EXCEPTIONS)
        self._tables = self._read_tables(count)
        if verify and not self.verify():
            raise ListError(f"{path}: damaged list: wrong checksum")

    def body(self) -> tuple[int, int]:
        """Where the body begins, and its checksum."""
        header = HEADER.unpack_from(self._data)
        return HEADER.size + header[3] * TABLE.size, header[7]

    def verify(self) -> bool:
        """Whether the body's checksum is right; reads the whole file."""
        start, crc = self.body()
        with memoryview(self._data) as view, view[start:] as body:
            return crc32(body) == crc

    def _read_tables(self, count: int) -> dict[int, Table]:
        tables = {}
        size = len(self._data)
        for number in range(count):
            key, parent_bits, bucket_bits, width, uniform, seed, entries, base, index_at, entries_at = (
                TABLE.unpack_from(self._data, HEADER.size + number * TABLE.size)
            )
            stride = width + (uniform == VARIOUS)
            bits = label_bits(key & 0xC0, key & 0x3F) + parent_bits
            rest = bits - bucket_bits
            whole = (
                index_at + 4 * ((1 << bucket_bits) + 1) <= size and entries_at + entries * stride <= size
                if bucket_bits < 32 else False
            )  # fmt: skip
            if not whole or rest < 0 or not width or rest > 8 * width or parent_bits > 32:
                raise ListError(f"{self.path}: damaged list: impossible table")
            tables[key] = (
                multiplier(bits, seed), (1 << bits) - 1, parent_bits, rest, (1 << rest) - 1, width, stride,
                index_at, entries_at, uniform, base,
            )  # fmt: skip
        return tables

    def __len__(self) -> int:
        return self.names

    @property
    def octets(self) -> int:
        """Size of the file."""
        return len(self._data)

    # --- looking up ---

    def match(self, labels: list[bytes]) -> int:
        """What the list says of a name, given as lower-case labels with the top level last: BLOCKED, ALLOWED, both.

        One loop without calls of its own: it runs for every query, some twenty operations for each label.
        """
        at = len(labels) - 1
        if at < 0:
            return 0
        found = depth = position = flags = 0
        tops, tables, data, find = self._tops, self._tables, self._data, self._find
        label = labels[at]
        if label in tops:
            known = tops[label]
            if known is None:
                return 0
            position, flags = known
            if at and flags & CHILDREN:
                found = flags >> 1 & 5
                at -= 1
                depth = 256
            else:
                found = flags >> 1 & 5 if at else flags
                at = -1
        while at >= 0:
            label = labels[at]
            if label.isalnum():
                number = int(label, 36)
                table = tables.get(depth | len(label))
            else:
                alphabet, number = label_number(label)
                table = tables.get(depth | alphabet | len(label))
            flags = -1
            if table is not None:
                factor, mask, parent_bits, shift, low, width, stride, index, entries, uniform, base = table
                mixed = (number << parent_bits | position) * factor & mask
                first, behind = _unpack_pair(data, index + (mixed >> shift << 2))
                wanted = (mixed & low).to_bytes(width, "big")
                hit = find(wanted, first, behind)
                while hit >= 0:
                    place, across = divmod(hit - entries, stride)
                    if not across and place >= 0:
                        flags = data[hit + width] if uniform == VARIOUS else uniform
                        position = base + place
                        break
                    hit = find(wanted, hit + 1, behind)
            if not depth and len(tops) < _KEPT_TOPS:  # nearly every name has one of a few: half of all steps are spared
                tops[label] = (position, flags) if flags >= 0 else None
            if flags < 0:
                break
            if not at:
                found |= flags
                break
            found |= flags >> 1 & 5  # UNDER counts as SELF for what is below
            if not flags & CHILDREN:
                break
            at -= 1
            depth += 256
        return found & BLOCKED | (found & SELF << ALLOW) >> 1

    def blocks(self, name: str) -> bool:
        """Whether a name in presentation form is blocked: listed, and not an exception."""
        text = name.rstrip(".").lower().encode("utf-8", "surrogateescape")
        labels = text.split(b".")
        return all(0 < len(label) < 64 for label in labels) and self.match(labels) == BLOCKED

    def close(self) -> None:
        """Give the mapping back; the list must not be asked any more."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()


def is_compiled(start: bytes) -> bool:
    """Whether a file that begins so is a compiled list (of any version)."""
    return start.startswith(MAGIC)


def open_list(path: str, *, verify: bool = True) -> NameList:
    """Map a copy of a compiled list. Raises ListError naming the file.

    What is cut off a mapped file ends the process that reads it, so nobody may be able to write into that one.
    """
    try:
        with open(path, "rb") as file, _copy_of(file) as copy:
            names = NameList(map_file(copy), path, verify=False)
            if verify and not _is_whole(copy, *names.body()):
                raise ListError(f"{path}: damaged list: wrong checksum")
            return names
    except ListError:
        raise
    except (OSError, ValueError) as problem:
        raise ListError(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from None


def _is_whole(file: BinaryIO, start: int, crc: int) -> bool:
    """As `NameList.verify`, by reading: mapped pages that were looked at count as memory until they are on the disk."""
    file.seek(start)
    found = 0
    while octets := file.read(65_536):
        found = crc32(octets, found)
    return found == crc


def _copy_of(file: BinaryIO) -> BinaryIO:
    """The same octets in a file without a name; the file itself where there is no room for that."""
    try:
        copy = nameless_file()
    except OSError:
        return file
    try:
        while octets := file.read(65_536):
            copy.write(octets)
        copy.flush()
    except OSError:
        copy.close()
        return file
    return copy


def map_file(file: BinaryIO) -> mmap.mmap:
    """A file's octets, to be read in place. Raises OSError, and ValueError for an empty file."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def nameless_file() -> BinaryIO:
    """A new file in no directory (the module `tempfile` loads half the library). Raises OSError.

    It is made in TMPDIR, /var/tmp or /tmp, whichever is the first that takes it.
    """
    problem = FileNotFoundError(errno.ENOENT, "no directory for temporary files")
    for directory in filter(None, (os.environ.get("TMPDIR"), "/var/tmp", "/tmp")):
        path = f"{directory}/netstack-{os.getpid()}-{next(_numbers)}"
        try:
            file = open(path, "x+b", opener=_private)  # noqa: SIM115
        except OSError as refusal:
            problem.__cause__ = refusal
        else:
            os.unlink(path)
            return file
    raise problem


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


__all__ = [
    "ALLOWED", "BLOCKED", "SELF", "UNDER", "ListError", "NameList", "is_compiled", "labels_of", "map_file",
    "nameless_file", "open_list",
]  # fmt: skip
