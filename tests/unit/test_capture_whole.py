"""Captured fragments put together, whatever their checksums say."""

from ipaddress import ip_address

from netstack.capture.dissect import read_ip
from netstack.capture.whole import CapturedFragments
from netstack.wire import ipv4, ipv6
from tests.made_captures import APP, SERVER, udp


def add_all(pieces, version):
    fragments = CapturedFragments()
    done = []
    for piece in pieces:
        found = fragments.add(piece, read_ip(piece, version, 0, len(piece)), 0.0)
        if found is not None:
            done.append(found)
    return done


def test_ipv4_with_wrong_header_checksums():
    packet = udp(APP, 1, SERVER, 2, bytes(range(200)))
    header = ipv4.Ipv4Header(ip_address(APP).packed, ip_address(SERVER).packed, 17, 20, len(packet))
    pieces = [piece[:10] + b"\0\0" + piece[12:] for piece in ipv4.cut_fragments(header, packet[20:], 100, 9)]
    assert len(pieces) == 3
    [(whole, ip)] = add_all(pieces, 4)
    assert (whole[20:], ip.protocol, ip.fragment) == (packet[20:], 17, False)


def test_ipv6():
    packet = udp("2001:db8::1", 1, "2001:db8::2", 2, bytes(range(200)))
    header = ipv6.Ipv6Header(packet[8:24], packet[24:40], 17, 40, len(packet))
    pieces = ipv6.cut_fragments(header, packet[40:], 136, 9)
    [(whole, ip)] = add_all(reversed(pieces), 6)
    assert (whole[40:], ip.protocol) == (packet[40:], 17)


def test_a_cut_fragment_never_completes():
    packet = udp(APP, 1, SERVER, 2, bytes(200))
    header = ipv4.Ipv4Header(ip_address(APP).packed, ip_address(SERVER).packed, 17, 20, len(packet))
    pieces = ipv4.cut_fragments(header, packet[20:], 100, 9)
    assert add_all([pieces[0][:50], *pieces[1:]], 4) == []
