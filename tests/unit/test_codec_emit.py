"""Packets for the app: fragments, identifications, sizes that cannot be."""

from __future__ import annotations

import errno

import pytest

from netstack.codec.emit import check_run, cut, emit_datagram, emit_icmp, gso_datagram, gso_packets
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import ACK, FIN, PSH, SYN, Datagram, IcmpMessage, SegmentRun
from netstack.wire import icmp, ipv4, ipv6, udp, vnet

A4, B4 = Endpoint.of("1.2.3.4", 443), Endpoint.of("10.0.0.2", 40000)
A6, B6 = Endpoint.of("2001:db8::1", 443), Endpoint.of("fd00::2", 40000)
KEYS = {(4, protocol): pack_key(protocol, A4, B4) for protocol in (6, 17)}
KEYS |= {(6, protocol): pack_key(protocol, A6, B6) for protocol in (6, 17)}


def reassembled(packets: list[bytes]) -> bytes:
    """The whole packet, put together as a receiver would."""
    version = packets[0][0] >> 4
    parse, rebuild = (ipv4.parse_fragment, ipv4.rebuild) if version == 4 else (ipv6.parse_fragment, ipv6.rebuild)
    parts = []
    for packet in packets:
        part = parse(packet)
        assert isinstance(part, ipv4.FragmentPart)
        parts.append((part, packet[part.start : part.end]))
    assert len({part.key for part, _ in parts}) == 1
    assert [part.more for part, _ in parts] == [True] * (len(parts) - 1) + [False]
    return rebuild(parts[0][0].header, b"".join(octets for _, octets in parts))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [1473, 2953, 9000, 65_000])
def test_a_large_datagram_is_fragmented_and_whole_again(version: int, size: int) -> None:
    payload = bytes(n * 7 % 256 for n in range(size))
    packets = emit_datagram(Datagram(KEYS[version, 17], payload, 5, 9), 1500)
    assert len(packets) > 1
    assert all(len(packet) <= 1500 for packet in packets)
    whole = reassembled(packets)
    octets = whole[20:] if version == 4 else whole[40:]
    near, far = (A4, B4) if version == 4 else (A6, B6)
    assert udp.checksum_problem(near.address, far.address, octets) is None
    assert octets[8:] == payload


@pytest.mark.parametrize("version", [4, 6])
def test_other_datagrams_have_other_identifications(version: int) -> None:
    keys = set()
    for n in range(200):
        first = emit_datagram(Datagram(KEYS[version, 17], n.to_bytes(2, "big") + bytes(2000)), 1500)[0]
        part = ipv4.parse_fragment(first) if version == 4 else ipv6.parse_fragment(first)
        assert isinstance(part, ipv4.FragmentPart)
        keys.add(part.key)
    assert len(keys) > 195


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_of_exactly_the_mtu_stays_whole(version: int) -> None:
    room = 1500 - (28 if version == 4 else 48)
    [packet] = emit_datagram(Datagram(KEYS[version, 17], bytes(room)), 1500)
    assert len(packet) == 1500
    assert len(emit_datagram(Datagram(KEYS[version, 17], bytes(room + 1)), 1500)) == 2


@pytest.mark.parametrize(("version", "most"), [(4, 65_507), (6, 65_527)])
def test_the_largest_datagram(version: int, most: int) -> None:
    assert len(reassembled(emit_datagram(Datagram(KEYS[version, 17], bytes(most)), 1500))) > 65_530
    with pytest.raises(OSError) as problem:
        emit_datagram(Datagram(KEYS[version, 17], bytes(most + 1)), 1500)
    assert problem.value.errno == errno.EMSGSIZE


def test_an_icmp_message_is_fragmented_too() -> None:
    message = IcmpMessage(4, A4.address, B4.address, 0, 0, 1, bytes(3000))
    whole = reassembled(emit_icmp(message, 1500))
    back = icmp.parse_icmp(whole[20:], A4.address, B4.address)
    assert isinstance(back, IcmpMessage)
    assert bytes(back.payload) == bytes(3000)


def test_fin_and_push_go_with_the_last_octets() -> None:
    run = SegmentRun(KEYS[4, 6], 1, 2, ACK | PSH | FIN, 3, 10, b"", bytes(25))
    assert [packet[33] for packet in cut(run)] == [ACK, ACK, ACK | PSH | FIN]
    assert [len(packet) - 40 for packet in cut(run)] == [10, 10, 5]


def test_a_syn_is_one_segment_whatever_the_mss() -> None:
    run = SegmentRun(KEYS[4, 6], 1, 2, SYN, 3, 1, b"", b"data")
    assert [packet[40:] for packet in cut(run)] == [b"data"]
    assert [bytes(piece) for _, piece in gso_packets(run)] == [b"data"]


def test_a_run_within_one_segment_is_no_gso_packet() -> None:
    [(head, _)] = gso_packets(SegmentRun(KEYS[6, 6], 1, 2, ACK, 3, 10, b"", bytes(10)))
    assert vnet.HEADER.unpack_from(head) == (vnet.NEEDS_CSUM, vnet.GSO_NONE, 0, 0, 40, 16)


def test_a_datagram_behind_a_virtio_header_leaves_its_checksum_to_the_kernel() -> None:
    datagram = Datagram(KEYS[4, 17], b"payload")
    head = gso_datagram(datagram)
    assert vnet.HEADER.unpack_from(head) == (vnet.NEEDS_CSUM, vnet.GSO_NONE, 0, 0, 20, 6)
    assert head[10:36] == emit_datagram(datagram, 1500)[0][:26]


@pytest.mark.parametrize("wrong", [{"mss": 0}, {"options": b"\1"}, {"options": bytes(44)}], ids=str)
def test_a_run_that_cannot_be_cut(wrong: dict[str, object]) -> None:
    run = SegmentRun(KEYS[4, 6], 1, 2, ACK, 3)
    check_run(run)
    for name, value in wrong.items():
        setattr(run, name, value)
    with pytest.raises(ValueError):
        check_run(run)
