"""Captured packets made fit for an engine."""

import pytest

from netstack.capture.dissect import read_ip
from netstack.codec import PacketBatch, load
from netstack.core.packet import ACK, Segment
from netstack.runtime.adapt import clamp_ack, is_intact, whole_packet
from tests.made_captures import APP, SERVER, echo, tcp, udp

PACKET = tcp(APP, 1, SERVER, 2, 10, 0xFFFFFF00, ACK, b"data")
V6 = tcp("2001:db8::1", 1, "2001:db8::2", 2, 10, 500, ACK, b"data")


def header(packet, version=4, length=None):
    return read_ip(packet, version, 0, length or len(packet))


def parsed(packet, verify=True):
    batch = PacketBatch(capacity=1)
    load("pure").parse_batch([packet], batch, verify=verify)
    [item] = batch.items()
    return item


def test_a_whole_packet_is_left_alone_and_its_trailer_cut():
    assert whole_packet(PACKET + b"pad", header(PACKET + b"pad")) == (PACKET, True)


def test_a_cut_packet_is_filled():
    packet, intact = whole_packet(PACKET[:41], header(PACKET[:41], length=len(PACKET)))
    assert not intact and packet == PACKET[:41] + bytes(3)
    assert bytes(parsed(packet, verify=False).payload) == b"d\0\0\0"


def test_a_length_left_to_offload_is_written():
    packet, intact = whole_packet(PACKET[:2] + b"\0\0" + PACKET[4:], header(PACKET[:2] + b"\0\0" + PACKET[4:]))
    assert not intact
    assert isinstance(parsed(packet, verify=False), Segment)


@pytest.mark.parametrize(("packet", "version"), [(PACKET, 4), (V6, 6)])
@pytest.mark.parametrize("ack", [0, 1, 499, 0x12345678, 0xFFFFFFFF])
def test_a_clamped_ack_keeps_the_checksum_right_or_wrong(packet, version, ack):
    changed = clamp_ack(packet, header(packet, version), ack)
    assert parsed(changed).ack == ack
    wrong = packet[:-1] + b"?"
    assert not is_intact(clamp_ack(wrong, header(wrong, version), ack), header(wrong, version))


def test_intact():
    for packet, version in [(PACKET, 4), (V6, 6), (udp(APP, 1, SERVER, 2, b"x"), 4), (echo(APP, SERVER, 8, 1), 4)]:
        assert is_intact(packet, header(packet, version))
        for at in (len(packet) - 1, 19 if version == 4 else 39):
            damaged = packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :]
            assert not is_intact(damaged, header(damaged, version))
    unsummed = udp(APP, 1, SERVER, 2, b"x")
    unsummed = unsummed[:26] + b"\0\0" + unsummed[28:]
    assert is_intact(unsummed, header(unsummed))
