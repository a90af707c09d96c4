"""Who talked to whom: clients, reuse of a pair, figures for each side."""

import hashlib
import struct

import pytest

from netstack.capture.conversations import format_time
from netstack.core.packet import ACK, FIN, RST, SYN
from tests.made_captures import APP, SERVER, exchange, facts_of, frames, lookup, tcp, udp


def tcp_of(packets):
    return [conversation.as_dict() for conversation in facts_of(frames(packets)).tcp]


def test_a_whole_connection():
    [shown] = tcp_of(exchange(0.0, 40000, b"up", b"d" * 2500))
    assert (shown["client"], shown["cport"], shown["server"], shown["sport"]) == (APP, 40000, SERVER, 80)
    assert (shown["role"], shown["syn"], shown["synack"]) == ("syn", 1, 1)
    assert (shown["pkts_client"], shown["pkts_server"]) == (5, 6)
    assert (shown["bytes_client"], shown["bytes_server"]) == (2, 2500)
    assert (shown["fin_client"], shown["fin_server"], shown["isn_client"], shown["isn_server"]) == (1, 1, 1000, 5000)
    assert (shown["mss_client"], shown["wscale_client"]) == (1400, None)
    assert shown["stream_sha256"] == {
        "client": hashlib.sha256(b"up").hexdigest(),
        "client_len": 2,
        "server": hashlib.sha256(b"d" * 2500).hexdigest(),
        "server_len": 2500,
    }


def test_the_receiver_of_the_synack_is_the_client_when_there_is_no_syn():
    [shown] = tcp_of([(0, tcp(SERVER, 80, APP, 5, 10, 1, SYN | ACK)), (1, tcp(APP, 5, SERVER, 80, 1, 11, ACK))])
    assert (shown["client"], shown["role"], shown["isn_client"], shown["isn_server"]) == (APP, "synack", None, 10)


def test_who_was_seen_first_is_the_client_when_nothing_else_tells():
    [shown] = tcp_of([(0, tcp(SERVER, 80, APP, 5, 10, 1, ACK)), (1, tcp(APP, 5, SERVER, 80, 1, 11, ACK))])
    assert (shown["client"], shown["role"]) == (SERVER, "first-packet")


def test_a_new_initial_sequence_number_is_a_new_conversation():
    def syn(seq):
        return tcp(APP, 5, SERVER, 80, seq, 0, SYN)

    assert len(tcp_of([(0, syn(100)), (1, syn(100)), (2, syn(300)), (3, syn(300))])) == 2
    # the far end's ACK has told the number already
    assert len(tcp_of([(0, tcp(SERVER, 80, APP, 5, 9, 101, ACK)), (1, syn(100)), (2, syn(101))])) == 2


def test_a_hole_or_a_snap_length_forbids_a_digest():
    whole = exchange(0.0, 5, b"up", b"d" * 2500)
    assert "stream_sha256" in tcp_of(whole)[0]
    assert "stream_sha256" not in tcp_of(whole[:5] + whole[6:])[0]
    made = frames(whole)
    made[5].data = made[5].data[:100]
    assert "stream_sha256" not in facts_of(made).tcp[0].as_dict()


def test_resets_and_options():
    options = struct.pack("!BBBBBBBBII", 3, 3, 7, 4, 2, 1, 8, 10, 1, 2) + b"\1\1"
    [shown] = tcp_of(
        [(0, tcp(APP, 5, SERVER, 80, 1, 0, SYN, options=options)), (1, tcp(SERVER, 80, APP, 5, 0, 2, RST | ACK))]
    )
    assert (shown["sack_perm"], shown["timestamps"], shown["wscale_client"], shown["rst_server"]) == (1, 1, 7, 1)
    assert shown["fin_client"] == 0


def test_age_of_the_answer_that_named_the_server():
    made = lookup(0.0, 5000, "www.example.test", SERVER) + exchange(1.0, 40000, b"x", b"y")
    made.append((3.0, udp(APP, 1, SERVER, 9, b"z")))
    facts = facts_of(frames(made))
    assert facts.tcp[0].as_dict()["dns_age_s"] == 0.98
    assert facts.udp[1].as_dict()["dns_age_s"] == 2.98
    assert facts.udp[0].as_dict()["dns_age_s"] is None


def test_udp():
    made = [(0, udp(APP, 1, SERVER, 2, b"abc")), (1, udp(SERVER, 2, APP, 1, b"")), (2, udp(APP, 1, SERVER, 3, b"d"))]
    first, second = [conversation.as_dict() for conversation in facts_of(frames(made)).udp]
    assert (first["pkts_client"], first["pkts_server"], first["bytes_client"], first["bytes_server"]) == (1, 1, 3, 0)
    assert (second["sport"], second["first_frame"]) == (3, 3)


@pytest.mark.parametrize(
    ("time_ns", "text"), [(0, "0.000000000"), (1_500_000_001, "1.500000001"), (-1_500_000_000, "-1.500000000")]
)
def test_times_are_exact(time_ns, text):
    assert format_time(time_ns) == text


def test_a_fin_does_not_start_anything():
    [shown] = tcp_of([(0, tcp(APP, 5, SERVER, 80, 1, 1, FIN | ACK))])
    assert (shown["role"], shown["fin_client"]) == ("first-packet", 1)
