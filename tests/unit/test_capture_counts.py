"""Frames by layer, checksums by state."""

import pytest

from netstack.core.packet import ACK, SYN
from tests.made_captures import APP, SERVER, echo, facts_of, frames, ip, query, tcp, udp

V6, V6_SERVER = "2001:db8::1", "2001:db8::2"


def account(*packets):
    shown = facts_of(frames((0, packet) for packet in packets)).as_dict()
    return shown["counts"], shown["checksums"]


def test_layers():
    counts, checksums = account(
        tcp(APP, 1, SERVER, 2, 0, 0, SYN), tcp(SERVER, 2, APP, 1, 0, 1, SYN | ACK), tcp(V6, 1, V6_SERVER, 2, 0, 0, ACK),
        udp(APP, 1, SERVER, 443, b"x"), udp(SERVER, 80, APP, 9, b"x"), udp(APP, 1, SERVER, 53, query(1, "a.test")),
        echo(APP, SERVER, 8, 1), ip(APP, SERVER, 47, b"gre!"), b"\x30 no ip",
    )  # fmt: skip
    assert counts == {
        "frames": 9, "non_ip": 1, "ipv4": 7, "ipv6": 1, "tcp": 3, "udp": 3, "icmp": 1,
        "tcp_syn": 1, "tcp_synack": 1, "tcp_fin": 0, "tcp_rst": 0,
        "udp_port_53": 1, "udp_to_443_or_80": 1, "udp_443_or_80_any_direction": 2,
    }  # fmt: skip
    assert checksums == {"ipv4": {"good": 7}, "tcp": {"good": 3}, "udp": {"good": 3}, "icmp": {"good": 1}}


def test_nothing_of_tcp_is_said_where_there_is_none():
    assert account(udp(APP, 1, SERVER, 2, b""))[0] == {"frames": 1, "ipv4": 1, "udp": 1}


def broken(packet, at):
    return packet[:at] + bytes((packet[at] ^ 0xFF,)) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("packet", "layer", "state"),
    [
        (broken(tcp(APP, 1, SERVER, 2, 0, 0, ACK, b"x"), 37), "tcp", "bad"),
        (broken(tcp(APP, 1, SERVER, 2, 0, 0, ACK), 11), "ipv4", "bad"),
        (udp(APP, 1, SERVER, 2, b"abc")[:26] + b"\0\0abc", "udp", "not_present"),
        (udp(V6, 1, V6_SERVER, 2, b"abc")[:46] + b"\0\0abc", "udp", "bad"),
        (tcp(APP, 1, SERVER, 2, 0, 0, ACK)[:30], "tcp", "absent"),
        (udp(APP, 1, SERVER, 2, b"abc")[:24], "udp", "absent"),
    ],
)
def test_checksum_states(packet, layer, state):
    made = frames([(0, packet)])
    made[0].length = 100
    assert facts_of(made).as_dict()["checksums"][layer] == {state: 1}


def test_a_cut_packet_is_not_judged_and_counted_as_cut():
    made = frames([(0, udp(APP, 1, SERVER, 2, bytes(50)))])
    made[0].data = made[0].data[:40]
    shown = facts_of(made).as_dict()
    assert shown["checksums"]["udp"] == {"unverified": 1}
    assert shown["counts"]["truncated_by_snaplen"] == 1


def test_inner_headers_do_not_count():
    quoted = udp(SERVER, 2, APP, 1, b"")
    tunnelled = ip(APP, SERVER, 4, tcp(APP, 1, SERVER, 2, 0, 0, SYN))
    counts, _ = account(ip(APP, SERVER, 1, b"\3\3\0\0\0\0\0\0" + quoted), tunnelled)
    assert counts == {"frames": 2, "ipv4": 2, "icmp": 1, "with_inner_ip": 2}


def test_segments_without_a_header():
    counts, _ = account(ip(APP, SERVER, 6, b"short"))
    assert counts["tcp"] == counts["tcp_headerless"] == 1
