"""Lenient headers: what is there is told, at whatever length."""

import struct

import pytest

from netstack.capture.dissect import NOTHING, read_ip, read_tcp, read_udp
from netstack.core.packet import ACK, SYN
from tests.made_captures import APP, SERVER, ip, tcp, udp

OPTIONS = struct.pack("!BBHBBBBBBBBII", 2, 4, 1400, 3, 3, 7, 4, 2, 1, 8, 10, 1, 2)
OPTIONS += bytes(-len(OPTIONS) % 4)


def test_a_whole_tcp_packet():
    packet = tcp(APP, 40000, SERVER, 443, 100, 200, SYN | ACK, b"hello", OPTIONS)
    header = read_ip(packet, 4, 0, len(packet))
    assert (header.protocol, header.at, header.end, header.whole) == (6, 20, len(packet), True)
    fields = read_tcp(packet, header)
    assert (fields.source_port, fields.destination_port, fields.seq, fields.ack) == (40000, 443, 100, 200)
    assert packet[fields.at : fields.end] == b"hello" and fields.size == 5
    assert (fields.mss, fields.wscale, fields.sack_permitted, fields.timestamps) == (1400, 7, True, True)


def test_trailers_do_not_count():
    packet = udp(APP, 1, SERVER, 2, b"abc")
    header = read_ip(packet + b"trailer", 4, 0, len(packet) + 7)
    fields = read_udp(packet + b"trailer", header)
    assert (packet + b"trailer")[fields.at : fields.end] == b"abc"


def test_a_cut_packet_keeps_its_announced_size():
    packet = udp(APP, 1, SERVER, 2, bytes(100))
    header = read_ip(packet[:40], 4, 0, len(packet))
    fields = read_udp(packet[:40], header)
    assert (fields.size, fields.end - fields.at, header.whole) == (100, 12, False)


def test_a_length_of_zero_is_segmentation_offload():
    packet = bytearray(tcp(APP, 1, SERVER, 2, 0, 0, ACK, bytes(3000)))
    packet[2:4] = b"\0\0"
    assert read_tcp(bytes(packet), read_ip(bytes(packet), 4, 0, len(packet))).size == 3000


def test_fragments():
    packet = bytearray(udp(APP, 1, SERVER, 2, bytes(64)))
    packet[6:8] = b"\x20\x00"
    first = read_ip(bytes(packet), 4, 0, len(packet))
    assert first.fragment and first.protocol == 17
    packet[6:8] = b"\x00\x02"
    later = read_ip(bytes(packet), 4, 0, len(packet))
    assert later.fragment and later.protocol == NOTHING


def test_ipv6_extension_headers():
    inner = udp("2001:db8::1", 5, "2001:db8::2", 53, b"x")[40:]
    hop = b"\x3c\0\x01\x04\0\0\0\0"  # hop-by-hop, then destination options
    chain = hop + b"\x2c\0\x01\x04\0\0\0\0" + b"\x11\0\0\0\0\0\0\x09" + inner  # then an atomic fragment header
    packet = ip("2001:db8::1", "2001:db8::2", 0, chain)
    header = read_ip(packet, 6, 0, len(packet))
    assert (header.protocol, header.at) == (17, 64)
    assert header.extensions and header.fragment_header and not header.fragment
    assert read_udp(packet, header).destination_port == 53


def test_a_routing_header_names_the_last_stop():
    last = bytes(15) + b"\x09"
    routing = b"\x11\x02\0\x01\0\0\0\0" + last
    packet = ip("2001:db8::1", "2001:db8::2", 43, routing + bytes(8))
    assert read_ip(packet, 6, 0, len(packet)).checksum_destination == last


@pytest.mark.parametrize(
    "patch",
    [{0: 0x44}, {0: 0x65}, {2: 0, 3: 10}, {0: 0x4F}],
    ids=["header of 16", "version 6", "total below header", "header beyond the packet"],
)
def test_contradictions_have_no_transport(patch):
    packet = bytearray(udp(APP, 1, SERVER, 2, b"abc"))
    for at, value in patch.items():
        packet[at] = value
    assert read_ip(bytes(packet), 4, 0, len(packet)).protocol == NOTHING


def test_every_cut_and_every_octet_is_survived():
    inner = tcp("2001:db8::1", 5, "2001:db8::2", 53, 1, 2, SYN, b"x", OPTIONS)[40:]
    for version, packet in [
        (4, tcp(APP, 1, SERVER, 2, 0, 0, SYN, b"data", OPTIONS)),
        (6, ip("2001:db8::1", "2001:db8::2", 0, b"\x06\0\xc2\x04\0\0\0\0" + inner)),
    ]:
        for at in range(len(packet)):
            rest = packet[at + 1 :]
            for octets in (packet[:at], packet[:at] + b"\xff" + rest, packet[:at] + b"\0" + rest):
                header = read_ip(octets, version, 0, len(octets))
                assert header.end <= len(octets)
                for reader in (read_tcp, read_udp):
                    fields = reader(octets, header) if header.at else None
                    assert fields is None or fields.at <= max(fields.end, header.end)
