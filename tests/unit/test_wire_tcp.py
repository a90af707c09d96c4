"""TCP headers and options."""

from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.wire import tcp

A, B = bytes((10, 0, 0, 2)), bytes((1, 2, 3, 4))


def test_fields_survive() -> None:
    options = tcp.emit_timestamps(1, 2)
    octets = tcp.emit_tcp(A, B, 5, 6, 7, 8, 0x3F, 9, options, b"payload", urgent=3)
    header = tcp.parse_tcp(octets)
    assert isinstance(header, tcp.TcpHeader)
    assert (header.source_port, header.destination_port, header.seq, header.ack) == (5, 6, 7, 8)
    assert (header.flags, header.window, header.urgent, header.options) == (0x3F, 9, 3, options)
    assert octets[header.header_length :] == b"payload"
    assert tcp.is_checksum_valid(A, B, octets)
    assert not tcp.is_checksum_valid(A, B, octets + b"\1")
    assert tcp.is_checksum_valid(b"\xfd" + bytes(15), b"\xfe" + bytes(15), tcp.emit_tcp(
        b"\xfd" + bytes(15), b"\xfe" + bytes(15), 1, 2, 3, 4, 5, 6, b"", b"odd"
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (bytes(19), DropReason.TRUNCATED_TRANSPORT),
        (bytes(20), DropReason.BAD_TRANSPORT_HEADER),
        (bytes(12) + b"\x60" + bytes(7), DropReason.BAD_TRANSPORT_HEADER),
    ],
)
def test_headers_that_are_not_whole(octets: bytes, reason: DropReason) -> None:
    assert tcp.parse_tcp(octets) is reason


@pytest.mark.parametrize(
    "options",
    [
        {"mss": 1460},
        {"mss": 1460, "window_scale": 7, "sack_permitted": True, "timestamps": (1, 0xFFFFFFFF)},
        {"sack_permitted": True},
        {"window_scale": 0},
        {"timestamps": (0, 0)},
        {"timestamps": (1, 2), "sack": ((1, 2), (3, 4), (5, 6))},
        {"sack": ((1, 2), (3, 4), (5, 6), (7, 8))},
        {},
    ],
    ids=str,
)
def test_options_come_back(options: dict[str, object]) -> None:
    octets = tcp.emit_options(**options)  # type: ignore[arg-type]
    assert len(octets) % 4 == 0
    assert len(octets) <= 40
    assert tcp.parse_options(octets) == tcp.TcpOptions(**options)  # type: ignore[arg-type]


def test_sack_blocks_without_room_are_left_out() -> None:
    blocks = tuple((n, n + 1) for n in range(4))
    octets = tcp.emit_options(timestamps=(1, 2), sack=blocks)
    assert len(octets) == 40
    found = tcp.parse_options(octets)
    assert found is not None
    assert found.sack == blocks[:3]


ILLEGAL = [b"\x02\x00\x05\xb4", b"\x02\x01\x05\xb4", b"\x08\x0a\0\0", b"\x01\x01\x01\x02", b"\xfe\x05\0\0"]


@pytest.mark.parametrize("options", ILLEGAL)
def test_an_illegal_length_is_seen(options: bytes) -> None:
    assert tcp.parse_options(options) is None
    assert tcp.scan_options(options)[0] is False


@pytest.mark.parametrize(
    "options",
    [
        b"\xfd\x04\0\0",
        b"\x02\x03\x01\x01",
        b"\x03\x02\x01\x01",
        b"\x04\x03\x01\x01",
        b"\x05\x02\x01\x01",
        b"\x08\x04\0\0",
    ],
)
def test_unknown_kinds_and_foreign_lengths_are_skipped(options: bytes) -> None:
    assert tcp.parse_options(options) == tcp.TcpOptions()
    legal, more, has_ts, _, _ = tcp.scan_options(options)
    assert (legal, more, has_ts) == (True, True, False)


def test_nothing_behind_the_end_of_options_counts() -> None:
    assert tcp.parse_options(b"\0\x02\x00\xff") == tcp.TcpOptions()
    assert tcp.scan_options(b"\0\x02\x00\xff") == (True, False, False, 0, 0)


def test_a_scan_finds_timestamps_wherever_they_stand() -> None:
    assert tcp.scan_options(tcp.emit_timestamps(3, 4)) == (True, False, True, 3, 4)
    assert tcp.scan_options(tcp.emit_options(mss=9, timestamps=(3, 4))) == (True, True, True, 3, 4)
    assert tcp.scan_options(b"") == (True, False, False, 0, 0)


LINUX_SYN = bytes.fromhex("020405b4 0402 080a 00000001 00000002 01 030307")


def test_the_usual_options_of_a_syn_both_ways() -> None:
    options = {"mss": 1460, "window_scale": 7, "sack_permitted": True, "timestamps": (1, 2)}
    assert tcp.emit_options(**options) == LINUX_SYN  # type: ignore[arg-type]
    assert tcp.parse_options(LINUX_SYN) == tcp.TcpOptions(1460, 7, True, (), (1, 2))


@pytest.mark.parametrize("at", range(20))
def test_whatever_only_resembles_the_usual_options_is_read_one_by_one(at: int) -> None:
    other = bytearray(LINUX_SYN)
    other[at] ^= 1
    found = tcp.parse_options(bytes(other) + b"\1")  # one more octet, and nothing is usual any more
    assert tcp.parse_options(bytes(other)) == found
