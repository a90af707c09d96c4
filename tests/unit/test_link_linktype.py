"""Where the IP header starts, for every link type that carries IP."""

import struct

import pytest

from netstack.link.linktype import find_ip
from tests.made_captures import APP, SERVER, udp

V4 = udp(APP, 1, SERVER, 2, b"four")
V6 = udp("2001:db8::1", 1, "2001:db8::2", 2, b"six")
MACS = bytes(12)


def tlv(order, kind, value):
    return struct.pack(order + "HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


CASES = {
    "ethernet": (1, MACS + b"\x08\0", 4),
    "ethernet v6": (1, MACS + b"\x86\xdd", 6),
    "vlan": (1, MACS + b"\x81\0\0\x05\x08\0", 4),
    "three vlan tags": (1, MACS + b"\x88\xa8\0\x05\x81\0\0\x06\x91\0\0\x07\x86\xdd", 6),
    "mpls, two labels": (1, MACS + b"\x88\x47\0\0\x10\x40\0\0\x11\x41", 4),
    "pppoe": (1, MACS + b"\x88\x64\x11\0\0\1\0\x22\0\x21", 4),
    "llc snap": (1, MACS + b"\0\x40\xaa\xaa\x03\0\0\0\x08\0", 4),
    "raw": (101, b"", 6),
    "raw 12": (12, b"", 4),
    "raw 14": (14, b"", 4),
    "ipv4": (228, b"", 4),
    "ipv6": (229, b"", 6),
    "null little": (0, b"\x02\0\0\0", 4),
    "null big": (0, b"\0\0\0\x02", 4),
    "null v6": (0, b"\x1e\0\0\0", 6),
    "loop": (108, b"\0\0\0\x18", 6),
    "ppp": (9, b"\xff\x03\0\x21", 4),
    "ppp compressed": (9, b"\x57", 6),
    "ppp hdlc": (50, b"\xff\x03\0\x21", 4),
    "cisco hdlc": (104, b"\x0f\0\x08\0", 4),
    "ppp with direction": (204, b"\0\xff\x03\0\x57", 6),
    "slip": (8, b"\0\x45" + bytes(14), 4),
    "cooked": (113, bytes(2) + b"\0\x01" + bytes(10) + b"\x08\0", 4),
    "cooked 2": (276, b"\x86\xdd" + bytes(18), 6),
    "nflog": (239, b"\x02\0\0\0" + tlv("<", 10, b"prefix\0") + struct.pack("<HH", 4 + len(V4), 9), 4),
    "frame relay nlpid": (107, b"\x18\x41\x03\xcc", 4),
    "frame relay cisco": (107, b"\x18\x41\x08\0", 4),
    "pflog": (117, b"\x3d\x02" + bytes(62), 4),
    "wifi data": (105, b"\x08\x02" + bytes(22) + b"\xaa\xaa\x03\0\0\0\x08\0", 4),
    "radiotap": (127, b"\0\0\x08\0" + bytes(4) + b"\x88\x01" + bytes(24) + b"\xaa\xaa\x03\0\0\0\x86\xdd", 6),
    "ppi": (192, b"\0\0\x08\0\x01\0\0\0" + MACS + b"\x08\0", 4),
}


@pytest.mark.parametrize(("linktype", "header", "version"), CASES.values(), ids=CASES)
def test_the_header_is_found(linktype, header, version):
    expected = (version, len(header))
    assert find_ip(linktype, header + (V6 if version == 6 else V4)) == expected


@pytest.mark.parametrize(
    ("linktype", "frame"),
    [
        (1, MACS + b"\x08\x06" + bytes(28)),  # ARP
        (1, MACS),  # cut before the type
        (1, MACS + b"\x86\xdd" + V4),  # the type says IPv6, the version IPv4
        (101, b"\x30" + V4),
        (253, V4),  # netlink
        (147, V4),  # a user's own
        (8, bytes(16) + V4),  # no SLIP header
        (113, bytes(2) + b"\x03\x38" + bytes(10) + b"\x08\0" + V4),  # cooked netlink
        (239, b"\x02\0\0\0\0\x01\x09\0" + V4),  # an item of one octet
    ],
)
def test_no_ip_is_an_answer(linktype, frame):
    assert find_ip(linktype, frame) is None


def test_every_cut_is_survived():
    for linktype, header, _ in CASES.values():
        for other in {linktype, 1, 0, 127, 239}:
            frame = header + V4
            for cut in range(len(frame)):
                found = find_ip(other, frame[:cut])
                assert found is None or found[1] <= cut


def test_a_stack_of_tags_ends():
    assert find_ip(1, MACS + b"\x81\0\0\x05" * 1000) is None
