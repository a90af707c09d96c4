"""IPv4 headers, options and fragments."""

from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.wire import ipv4
from netstack.wire.checksum import checksum

A, B = bytes((10, 0, 0, 2)), bytes((1, 2, 3, 4))


def header(**fields: object) -> ipv4.Ipv4Header:
    parsed = ipv4.parse_ipv4(ipv4.emit_ipv4(A, B, 17, 8, **fields) + bytes(8))  # type: ignore[arg-type]
    assert isinstance(parsed, ipv4.Ipv4Header)
    return parsed


def test_fields_survive() -> None:
    parsed = header(tos=0xB9, hop_limit=3, ident=0x1234, dont_fragment=False, more_fragments=True, fragment_offset=800)
    assert (parsed.source, parsed.destination, parsed.protocol) == (A, B, 17)
    assert (parsed.header_length, parsed.length, parsed.tos, parsed.hop_limit) == (20, 28, 0xB9, 3)
    assert (parsed.ident, parsed.dont_fragment, parsed.more_fragments, parsed.fragment_offset) == (
        0x1234, False, True, 800
    )  # fmt: skip
    assert parsed.is_fragment


def test_an_ordinary_packet_says_do_not_fragment_and_has_no_identification() -> None:
    parsed = header()
    assert (parsed.dont_fragment, parsed.ident, parsed.is_fragment) == (True, 0, False)


def with_options(options: bytes) -> bytes:
    packet = bytearray(ipv4.emit_ipv4(A, B, 17, 8 + len(options)) + options + bytes(8))
    packet[0] = 0x45 + len(options) // 4
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(packet[: 20 + len(options)]).to_bytes(2, "big")
    return bytes(packet)


@pytest.mark.parametrize("options", [b"\x07\x03\x04\x00", b"\x01\x01\x01\x01", b"\x00\xff\xff\xff", b"\x94\x04\0\0"])
def test_options_are_skipped(options: bytes) -> None:
    parsed = ipv4.parse_ipv4(with_options(options))
    assert isinstance(parsed, ipv4.Ipv4Header)
    assert (parsed.options, parsed.header_length) == (options, 24)


@pytest.mark.parametrize(
    "options", [b"\x07\x00\x00\x00", b"\x07\x01\x00\x00", b"\x07\x05\x00\x00", b"\x01\x01\x01\x07"]
)
def test_options_that_leave_the_header_are_refused(options: bytes) -> None:
    assert ipv4.parse_ipv4(with_options(options)) is DropReason.BAD_IP_HEADER


def test_a_wrong_checksum_passes_only_unverified() -> None:
    packet = bytearray(ipv4.emit_ipv4(A, B, 17, 0))
    packet[8] -= 1
    assert ipv4.parse_ipv4(packet) is DropReason.BAD_IP_CHECKSUM
    assert isinstance(ipv4.parse_ipv4(packet, verify=False), ipv4.Ipv4Header)


def test_cut_fragments_come_together_again() -> None:
    payload = bytes(range(256)) * 20
    whole = header(tos=4, hop_limit=9)
    cut = ipv4.cut_fragments(whole, payload, 1500, 0xABCD)
    assert [len(packet) for packet in cut] == [1500, 1500, 1500, 700]
    parts = [ipv4.parse_fragment(packet) for packet in cut]
    together = bytearray(len(payload))
    for packet, part in zip(cut, parts, strict=True):
        assert isinstance(part, ipv4.FragmentPart)
        together[part.offset : part.offset + part.end - part.start] = packet[part.start : part.end]
        assert part.more is (packet is not cut[-1])
    first = parts[0]
    assert isinstance(first, ipv4.FragmentPart)
    assert len({part.key for part in parts if isinstance(part, ipv4.FragmentPart)}) == 1
    rebuilt = ipv4.rebuild(first.header, together)
    parsed = ipv4.parse_ipv4(rebuilt)
    assert isinstance(parsed, ipv4.Ipv4Header)
    assert not parsed.is_fragment
    assert (parsed.tos, parsed.hop_limit, rebuilt[20:]) == (4, 9, payload)


def test_the_identity_holds_addresses_protocol_and_identification() -> None:
    keys = set()
    for source, protocol, ident in ((A, 17, 1), (B, 17, 1), (A, 6, 1), (A, 17, 2), (A, 17, 1)):
        packet = ipv4.emit_ipv4(source, B, protocol, 8, ident=ident, more_fragments=True) + bytes(8)
        part = ipv4.parse_fragment(packet)
        assert isinstance(part, ipv4.FragmentPart)
        keys.add(part.key)
    assert len(keys) == 4


def test_a_bad_packet_is_no_fragment() -> None:
    assert ipv4.parse_fragment(b"") is DropReason.EMPTY
    assert ipv4.parse_fragment(b"\x65") is DropReason.BAD_VERSION


def test_what_is_too_large_is_not_rebuilt() -> None:
    head = ipv4.emit_ipv4(A, B, 17, 0)
    assert len(ipv4.rebuild(head, bytes(65_515))) == 65_535
    with pytest.raises(ValueError):
        ipv4.rebuild(head, bytes(65_516))
