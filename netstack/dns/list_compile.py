"""Compiling lists of names into the file that `blocklist` reads.

Responsible for: the tree of labels, the tables and their sizes, writing the file in one piece.
Refuses to know: how lists are written by people (`list_text`), looking up.

Works level by level from the top, because an entry holds its parent's position. All work on names is done in plain
loops over octets and integers: one million names take seconds and some hundred MB, so a phone is given the file.
Where programs can be started, a large text is compiled by another process, which takes that memory with it.
"""

from __future__ import annotations

import gc
import mmap
import os
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from zlib import crc32

from netstack.dns.blocklist import (
    CHILDREN,
    HAS_EXCEPTIONS,
    HEADER,
    MAGIC,
    TABLE,
    VARIOUS,
    VERSION,
    ListError,
    NameList,
    is_compiled,
    label_bits,
    label_number,
    map_file,
    multiplier,
    nameless_file,
    open_list,
)
from netstack.dns.list_text import EXCEPTION, ListText

_FLAG_BITS = 8
_FLAGS = (1 << _FLAG_BITS) - 1
_MOST_IN_BUCKET = 4  # entries, on average
_MOST_BUCKET_BITS = 24
_LIMB = (1 << 64) - 1
_LARGE = 262_144
_LARGE_TEXT = 1_048_576  # octets from which another process is worth its start
_COMPILE_APART = """
import sys
path, *sys.path = sys.argv[1:]
from netstack.dns.list_compile import compile_files
import os
sys.stdout.buffer.write(compile_files([path])[0])
sys.stdout.flush()
try:
    os.fsync(1)  # clean pages of a file cost the process that maps them nothing
except OSError:
    pass
"""
_SEEDS = 8
_CROWDED = 64  # entries above the average from which on another multiplier is tried


def compile_names(names: dict[bytes, int]) -> bytes:
    """The file for `names` as `ListText` holds them."""
    collecting = gc.isenabled()
    gc.disable()  # there are no cycles here, and looking for them among millions of objects takes half the time
    try:
        return _Writer(names).file()
    finally:
        if collecting:
            gc.enable()


class _Writer:
    def __init__(self, names: dict[bytes, int]) -> None:
        self._pieces: list[tuple[array[int], bytes]] = []
        self._octets = 0
        self._described: list[list[int]] = []
        self._names = len(names)
        self._nodes = 0
        self._exceptions = False
        for flags in set(names.values()):
            self._exceptions |= bool(flags & EXCEPTION)
        positions = {b"": 0}
        above = 1
        for depth, level in enumerate(_levels(names)):
            positions = self._level(depth, level, positions, (above - 1).bit_length())
            above = len(level)
            self._nodes += above

    def _level(
        self, depth: int, level: dict[bytes, int], parents: dict[bytes, int], parent_bits: int
    ) -> dict[bytes, int]:
        """Write the tables of one level; where those of its nodes are that have children."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        inner: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for name, flags in level.items():
            label, _, parent = name.partition(b".")
            if label.isalnum():
                kind = len(label)
                number = int(label, 36)
            else:
                kind, number = label_number(label)
                kind |= len(label)
            raw = (number << parent_bits | parents[parent]) << _FLAG_BITS | flags
            groups[kind].append(raw)
            if flags & CHILDREN:
                inner[kind].append((raw, name))
        positions: dict[bytes, int] = {}
        base = 0
        for kind in sorted(groups):
            raws = groups.pop(kind)
            self._table(depth << 8 | kind, raws, parent_bits, base, inner.get(kind, ()), positions)
            base += len(raws)
        return positions

    def _table(
        self, key: int, raws: list[int], parent_bits: int, base: int,
        inner: Iterable[tuple[int, bytes]], positions: dict[bytes, int],
    ) -> None:  # fmt: skip
        bits = label_bits(key & 0xC0, key & 0x3F) + parent_bits
        bucket_bits, width = _shape(bits, len(raws))
        shift = bits - bucket_bits + _FLAG_BITS
        mask = (1 << bits) - 1 << _FLAG_BITS
        best: tuple[int, int] | None = None
        for seed in [*range(_SEEDS), -1]:
            if seed < 0:  # none spreads them well: the best one it is
                assert best is not None
                seed = best[1]
            factor = multiplier(bits, seed)
            values = sorted([(raw & ~_FLAGS) * factor & mask | raw & _FLAGS for raw in raws])
            counts = [0] * (1 << bucket_bits)
            for value in values:
                counts[value >> shift] += 1
            crowd = max(counts)
            if crowd <= _CROWDED + len(raws) // len(counts) or (best is not None and best[1] == seed):
                break
            if best is None or crowd < best[0]:
                best = crowd, seed
        low = (1 << shift) - 1
        flags = {raw & _FLAGS for raw in raws}
        if len(flags) == 1:
            uniform = flags.pop()
            entries = _packed([(value & low) >> _FLAG_BITS for value in values], width)
        else:
            uniform = VARIOUS
            entries = _packed([value & low for value in values], width + 1)
        at = self._octets
        entries_at = at + 4 * (len(counts) + 1)
        stride = len(entries) // len(raws)
        index = array("I", accumulate([count * stride for count in counts], initial=entries_at))
        assert index.itemsize == 4
        self._pieces.append((index, entries))
        self._octets = entries_at + len(entries)
        self._described.append([key, parent_bits, bucket_bits, width, uniform, seed, len(raws), base, at, entries_at])
        where: dict[int, int] = {}
        for raw, name in inner:
            if not where:
                where = dict(zip(values, range(base, base + len(values)), strict=True))
            positions[name] = where[(raw & ~_FLAGS) * factor & mask | raw & _FLAGS]

    def file(self) -> bytes:
        """Header, descriptors, body."""
        start = HEADER.size + len(self._described) * TABLE.size
        tables = b"".join(
            TABLE.pack(*each[:8], *(offset + start for offset in each[8:])) for each in self._described
        )
        body = b"".join([octets for index, entries in self._pieces for octets in (_moved(index, start), entries)])
        flags = HAS_EXCEPTIONS if self._exceptions else 0
        fields = (MAGIC, VERSION, flags, len(self._described), self._names, self._nodes, len(body), crc32(body), 0)
        header = HEADER.pack(*fields, 0)
        return HEADER.pack(*fields, crc32(tables, crc32(header))) + tables + body


def _moved(index: array[int], start: int) -> bytes:
    """A table's index, when the body begins at `start`."""
    moved = array("I", [offset + start for offset in index])
    if sys.byteorder == "big":
        moved.byteswap()
    return moved.tobytes()


def _levels(names: dict[bytes, int]) -> list[dict[bytes, int]]:
    """Names by their number of labels, with every name's ancestors, which are marked as having children."""
    levels: list[dict[bytes, int]] = []
    for name, flags in names.items():
        depth = name.count(b".")
        while depth >= len(levels):
            levels.append({})
        levels[depth][name] = flags
    for depth in range(len(levels) - 1, 0, -1):
        above = levels[depth - 1]
        for parent in {name.partition(b".")[2] for name in levels[depth]}:
            above[parent] = above.get(parent, 0) | CHILDREN
    return levels


def _packed(values: list[int], width: int) -> bytes:
    """Each value as `width` octets, the highest first: column by column, which is twice as fast as one by one."""
    packed = bytearray(len(values) * width)
    at = width
    while True:
        limb = array("Q", values if at <= 8 else [value & _LIMB for value in values])
        if sys.byteorder == "little":
            limb.byteswap()
        octets = limb.tobytes()
        columns = min(at, 8)
        at -= columns
        for column in range(columns):
            packed[at + column :: width] = octets[8 - columns + column :: 8]
        if not at:
            return bytes(packed)
        values = [value >> 64 for value in values]


def _shape(bits: int, count: int) -> tuple[int, int]:
    """How many bits choose a bucket, and the octets of the others: the smallest file whose buckets are short."""
    most = min(bits, _MOST_BUCKET_BITS)
    least = min(most, max(0, (count // _MOST_IN_BUCKET).bit_length()))
    shapes = [(bucket_bits, max(1, (bits - bucket_bits + 7) // 8)) for bucket_bits in range(least, most + 1)]
    return min(shapes, key=lambda shape: count * shape[1] + (4 << shape[0]))


def compile_files(paths: Iterable[str]) -> tuple[bytes, ListText]:
    """The compiled file for some lists in text form together, and what was read. Raises ListError naming a file."""
    text = ListText()
    for path in paths:
        try:
            with open(path, "rb") as file:
                octets = file.read()
        except OSError as problem:
            raise ListError(f"{path}: cannot be read: {problem.strerror}") from None
        if is_compiled(octets):
            raise ListError(f"{path}: compiled already")
        if b"\0" in octets:  # among millions of octets some lines look like names, and they would be blocked
            raise ListError(f"{path}: not a list: octets of zero in it, as in a compiled list that is damaged")
        before, skipped = len(text.names), text.skipped
        text.read(octets, source=path)
        if len(text.names) == before and text.skipped - skipped > 3:
            raise ListError(f"{path}: not a list of names: no line of it can be used, such as {text.shown[-1]!r}")
    return compile_names(text.names), text


def write_list(data: bytes, path: str) -> None:
    """Put a compiled list in place of `path` at once, so that whoever has the old one mapped keeps it."""
    if os.path.exists(path) and not os.path.isfile(path):  # a device or pipe would be replaced by a file
        raise ListError(f"{path}: cannot be written: not a file")
    path = os.path.realpath(path)
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise ListError(f"{path}: cannot be written: {problem.strerror}") from None


def load_list(path: str) -> NameList:
    """A list from a file of either kind: a compiled one is mapped, a text is compiled first."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
            size = os.fstat(file.fileno()).st_size
    except OSError as problem:
        raise ListError(f"{path}: cannot be read: {problem.strerror}") from None
    if is_compiled(start):
        return open_list(path)
    if size >= _LARGE_TEXT:
        apart = _compiled_apart(path)
        if apart is not None:
            return apart
    return NameList(_aside(compile_files([path])[0]), path, verify=False)


def _aside(data: bytes) -> bytes | mmap.mmap:
    """The same octets, mapped from a file without a name when they are many and there is a place for one."""
    if len(data) < _LARGE:
        return data
    try:
        with nameless_file() as file:
            file.write(data)
            file.flush()
            return map_file(file)
    except OSError:  # no such place on this device, or it is full
        return data


def _compiled_apart(path: str) -> NameList | None:
    """A text compiled by another Python, whose memory goes with it, into a file without a name, mapped.

    None when there is no other Python to be had, no place for the file, or anything wrong with the text.
    """
    python = sys.executable or ""
    if "python" not in os.path.basename(python).lower() or not hasattr(os, "posix_spawn"):  # part of an app
        return None
    try:
        with nameless_file() as file:
            command = [python, "-I", "-S", "-c", _COMPILE_APART, os.path.abspath(path), *sys.path]
            output = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
            child = os.posix_spawn(python, command, os.environ, file_actions=output)
            _, status = os.waitpid(child, 0)
            if status:
                return None
            return NameList(map_file(file), path, verify=False)
    except (OSError, ValueError, ListError):
        return None
