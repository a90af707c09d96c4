"""IPv6 headers, extension headers and fragments."""

from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.wire import ipv6
from netstack.wire.ipv4 import FragmentPart

A, B = b"\xfd" + bytes(14) + b"\2", b"\x20\x01" + bytes(13) + b"\1"
PAD = b"\x01\x04\0\0\0\0"


def packet(first: int, extensions: bytes = b"", payload: bytes = b"12345678", **fields: int) -> bytes:
    return ipv6.emit_ipv6(A, B, first, len(extensions + payload), **fields) + extensions + payload


def parsed(octets: bytes) -> ipv6.Ipv6Header:
    header = ipv6.parse_ipv6(octets)
    assert isinstance(header, ipv6.Ipv6Header)
    return header


def test_fields_survive() -> None:
    header = parsed(packet(17, tos=0xB9, hop_limit=3) + b"trailer")
    assert (header.source, header.destination, header.protocol) == (A, B, 17)
    assert (header.header_length, header.length, header.tos, header.hop_limit) == (40, 48, 0xB9, 3)
    assert (header.flow_label, header.is_fragment) == (0, False)


CHAIN = [
    (0, bytes((60, 0)) + PAD),  # hop-by-hop
    (60, bytes((43, 0)) + PAD),  # destination options
    (43, bytes((51, 0, 2, 0)) + bytes(4)),  # routing, no segments left
    (51, bytes((44, 4)) + bytes(22)),  # authentication counts in 4 octets, less 2
    (44, bytes((60, 0, 0, 0)) + bytes(4)),  # an atomic fragment
    (60, bytes((17, 1)) + b"\0" * 6 + b"\x3e\x06abcdef"),  # an option that may be skipped
]


def test_a_chain_of_every_extension_leads_to_the_transport() -> None:
    extensions = b"".join(octets for _, octets in CHAIN)
    header = parsed(packet(0, extensions))
    assert (header.protocol, header.header_length, header.fragment_at) == (17, 40 + len(extensions), 0)


@pytest.mark.parametrize("length", range(72 + 8))
def test_a_chain_that_is_cut_is_refused(length: int) -> None:
    extensions = b"".join(octets for _, octets in CHAIN)
    assert len(extensions) == 72
    cut = ipv6.emit_ipv6(A, B, 0, min(length, 71)) + extensions[: min(length, 71)]
    assert ipv6.parse_ipv6(cut) is DropReason.BAD_EXTENSION_HEADER


@pytest.mark.parametrize("action", [0x40, 0x80, 0xC0])
def test_an_unknown_option_that_demands_discard(action: int) -> None:
    for kind in (ipv6.HOP_BY_HOP, ipv6.DESTINATION):
        option = bytes((17, 0, action | 0x1E, 4)) + bytes(4)
        assert ipv6.parse_ipv6(packet(kind, option)) is DropReason.BAD_EXTENSION_HEADER


def test_hop_by_hop_stands_first_or_nowhere() -> None:
    late = bytes((0, 0)) + PAD + bytes((17, 0)) + PAD
    assert ipv6.parse_ipv6(packet(60, late)) is DropReason.BAD_EXTENSION_HEADER


def test_routing_with_segments_left() -> None:
    assert ipv6.parse_ipv6(packet(43, bytes((17, 0, 0, 1)) + bytes(4))) is DropReason.ROUTING_HEADER
    assert parsed(packet(43, bytes((17, 0, 0, 0)) + bytes(4))).protocol == 17


def test_no_next_header() -> None:
    assert ipv6.parse_ipv6(packet(59)) is DropReason.NO_NEXT_HEADER


def test_fragments_come_together_again_with_the_headers_before_them() -> None:
    payload = bytes(range(256)) * 12
    header = ipv6.Ipv6Header(A, B, 17, 40, 40 + len(payload), 4, 0, 9)
    cut = ipv6.cut_fragments(header, payload, 1280, 0xDEADBEEF)
    assert [len(part) for part in cut] == [1280, 1280, 656]
    together = bytearray(len(payload))
    heads, keys = [], set()
    for octets in cut:
        with_options = insert_hop_by_hop(octets)
        assert parsed(with_options).is_fragment
        part = ipv6.parse_fragment(with_options)
        assert isinstance(part, FragmentPart)
        together[part.offset : part.offset + part.end - part.start] = with_options[part.start : part.end]
        assert part.more is (octets is not cut[-1])
        heads.append(part.header)
        keys.add(part.key)
    assert len(keys) == 1
    whole = parsed(ipv6.rebuild(heads[0], together))
    assert (whole.protocol, whole.header_length, whole.length) == (17, 48, 48 + len(payload))
    assert (whole.tos, whole.hop_limit, whole.is_fragment) == (4, 9, False)
    assert bytes(together) == payload


def insert_hop_by_hop(octets: bytes) -> bytes:
    length = int.from_bytes(octets[4:6], "big") + 8
    head = octets[:4] + length.to_bytes(2, "big") + bytes((0,)) + octets[7:40]
    return head + bytes((octets[6], 0)) + PAD + octets[40:]


def test_the_header_before_a_fragment_is_found_behind_every_extension() -> None:
    extensions = b"".join(octets for _, octets in CHAIN[:4]) + bytes((17, 0, 0, 1, 0, 0, 0, 5))
    part = ipv6.parse_fragment(packet(0, extensions))
    assert isinstance(part, FragmentPart)
    whole = parsed(ipv6.rebuild(part.header, b"12345678"))
    assert (whole.protocol, whole.header_length) == (17, 40 + sum(len(octets) for _, octets in CHAIN[:4]))


def test_a_whole_packet_is_no_fragment() -> None:
    assert ipv6.parse_fragment(packet(17)) is DropReason.BAD_FRAGMENT
    assert ipv6.parse_fragment(packet(44, bytes((17, 0, 0, 0)) + bytes(4))) is DropReason.BAD_FRAGMENT
    assert ipv6.parse_fragment(b"") is DropReason.EMPTY


def test_a_fragment_beyond_the_largest_packet() -> None:
    fits = bytes((17, 0, 0xFF, 0xF0, 0, 0, 0, 5))  # 65,520 and 8 octets
    assert parsed(packet(44, fits)).is_fragment
    over = bytes((17, 0, 0xFF, 0xF8, 0, 0, 0, 5))
    assert ipv6.parse_ipv6(packet(44, over)) is DropReason.BAD_FRAGMENT


def test_what_is_too_large_is_not_rebuilt() -> None:
    head = packet(17)[:40]
    assert len(ipv6.rebuild(head, bytes(65_535))) == 65_575
    with pytest.raises(ValueError):
        ipv6.rebuild(head, bytes(65_536))
