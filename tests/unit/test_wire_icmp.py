"""ICMP messages, and errors about packets: what they quote and when they must not be sent."""

from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.core.packet import IcmpMessage
from netstack.wire import icmp, ipv4, ipv6, udp

A4, B4 = bytes((10, 0, 0, 2)), bytes((1, 2, 3, 4))
A6, B6 = b"\xfd" + bytes(15), b"\x20\x01" + bytes(13) + b"\1"


def packet4(payload: bytes = b"x", destination: bytes = B4, **fields: object) -> bytes:
    octets = udp.emit_udp(A4, destination, 5, 6, payload)
    return ipv4.emit_ipv4(A4, destination, 17, len(octets), **fields) + octets  # type: ignore[arg-type]


def packet6(payload: bytes = b"x", destination: bytes = B6) -> bytes:
    octets = udp.emit_udp(A6, destination, 5, 6, payload)
    return ipv6.emit_ipv6(A6, destination, 17, len(octets)) + octets


def icmp_packet(message: IcmpMessage) -> bytes:
    octets = icmp.emit_icmp(message)
    if message.version == 4:
        return ipv4.emit_ipv4(message.source, message.destination, 1, len(octets)) + octets
    return ipv6.emit_ipv6(message.source, message.destination, 58, len(octets)) + octets


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_a_message_comes_back(source: bytes, destination: bytes) -> None:
    version = 4 if len(source) == 4 else 6
    octets = icmp.emit_icmp(IcmpMessage(version, source, destination, 8, 1, 0x00050007, b"odd"))
    back = icmp.parse_icmp(octets, source, destination)
    assert isinstance(back, IcmpMessage)
    assert (back.version, back.type, back.code, back.rest, bytes(back.payload)) == (version, 8, 1, 0x00050007, b"odd")
    wrong = octets[:-1] + b"x"
    assert icmp.parse_icmp(wrong, source, destination) is DropReason.BAD_ICMP_CHECKSUM
    assert isinstance(icmp.parse_icmp(wrong, source, destination, verify=False), IcmpMessage)
    assert icmp.parse_icmp(octets[:7], source, destination) is DropReason.TRUNCATED_TRANSPORT


def test_port_unreachable_goes_back_to_the_sender_from_where_the_packet_was_for() -> None:
    for packet, kind, code, source, destination in (
        (packet4(), 3, 3, B4, A4),
        (packet6(), 1, 4, B6, A6),
    ):
        message = icmp.unreachable(packet + b"trailer")
        assert message is not None
        assert (message.type, message.code, message.source, message.destination) == (kind, code, source, destination)
        assert message.payload == packet


@pytest.mark.parametrize(
    ("code", "translated"), [(icmp.NET, 0), (icmp.HOST, 3), (icmp.PORT, 4), (icmp.ADMINISTRATIVELY, 1)]
)
def test_codes_are_translated_for_icmpv6(code: int, translated: int) -> None:
    four, six = icmp.unreachable(packet4(), code), icmp.unreachable(packet6(), code)
    assert four is not None
    assert six is not None
    assert (four.code, six.code) == (code, translated)


def test_an_error_quotes_no_more_than_it_may() -> None:
    four, six = icmp.time_exceeded(packet4(bytes(1400)), B4), icmp.time_exceeded(packet6(bytes(1400)))
    assert four is not None
    assert six is not None
    assert len(icmp_packet(four)) == 576  # RFC 1812 4.3.2.3
    assert len(icmp_packet(six)) == 1280  # RFC 4443 2.4 (c)
    assert (four.type, six.type) == (11, 3)


def test_packet_too_big_carries_the_mtu() -> None:
    four, six = icmp.packet_too_big(packet4(), 1400), icmp.packet_too_big(packet6(), 1400)
    assert four is not None
    assert six is not None
    assert (four.type, four.code, four.rest) == (3, 4, 1400)
    assert (six.type, six.code, six.rest) == (2, 0, 1400)


def test_reassembly_time_exceeded_has_its_own_code() -> None:
    message = icmp.reassembly_time_exceeded(packet4(bytes(16), more_fragments=True))
    assert message is not None
    assert (message.type, message.code) == (11, 1)


def error4(kind: int) -> bytes:
    return icmp_packet(IcmpMessage(4, A4, B4, kind, 0))


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x45" + bytes(30), id="no whole header"),
        pytest.param(packet4(destination=bytes((224, 0, 0, 1))), id="to a group"),
        pytest.param(packet4(destination=b"\xff\xff\xff\xff"), id="to everyone"),
        pytest.param(packet4(bytes(16), fragment_offset=8), id="not the first fragment"),
        pytest.param(error4(3), id="unreachable"),
        pytest.param(error4(11), id="time exceeded"),
        pytest.param(packet6(destination=b"\xff\x02" + bytes(14)), id="to a group of IPv6"),
        pytest.param(icmp_packet(IcmpMessage(6, A6, B6, 1, 0)), id="an ICMPv6 error"),
        pytest.param(ipv4.emit_ipv4(A4, B4, 1, 0), id="an ICMP of nothing"),
    ],
)
def test_no_error_about(packet: bytes) -> None:
    assert icmp.unreachable(packet) is None
    assert icmp.time_exceeded(packet) is None


def test_errors_about_echo_and_group_packets_that_may_be_sent() -> None:
    assert icmp.unreachable(error4(8)) is not None
    assert icmp.unreachable(icmp_packet(IcmpMessage(6, A6, B6, 128, 0))) is not None
    assert icmp.packet_too_big(packet6(destination=b"\xff\x02" + bytes(14)), 1280) is not None  # RFC 4443 2.4 (e.3)


def test_which_messages_carry_an_identifier() -> None:
    assert [kind for kind in range(256) if icmp.is_echo(4, kind)] == [0, 8]
    assert [kind for kind in range(256) if icmp.is_echo(6, kind)] == [128, 129]
