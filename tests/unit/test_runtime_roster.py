"""Who is the app of a conversation, and which conversation a packet belongs to."""

import pytest

from netstack.core.flow import pack_key
from netstack.core.packet import ACK, SYN
from netstack.runtime.roster import Roster, peer_of
from tests.made_captures import APP, DNS_SERVER, SERVER, answer, exchange, facts_of, frames, tcp, udp


def roster_of(packets, reused=None):
    return Roster(facts_of(frames(packets)), (53,), (reused if reused is not None else []).append)


def clients(roster):
    return [(row.flow.source.host, row.flow.source.port) for row in roster.rows]


def test_the_sender_of_the_syn_is_the_app_whoever_came_first():
    made = [(0, tcp(SERVER, 80, APP, 5, 100, 8, SYN | ACK)), (1, tcp(APP, 5, SERVER, 80, 7, 0, SYN))]
    assert clients(roster_of(made)) == [(APP, 5)]


@pytest.mark.parametrize(
    ("source", "sport", "destination", "dport", "app"),
    [
        (APP, 5000, SERVER, 443, APP),
        (DNS_SERVER, 53, APP, 5000, APP),  # the capture starts with an answer
        (SERVER, 443, APP, 5000, APP),
        (APP, 123, SERVER, 123, APP),
        (APP, 68, "255.255.255.255", 67, APP),
        (APP, 137, "224.0.0.252", 5355, APP),
    ],
)
def test_the_app_of_a_udp_conversation(source, sport, destination, dport, app):
    assert clients(roster_of([(0, udp(source, sport, destination, dport, answer(1, "a.test", SERVER)))]))[0][0] == app


def test_a_pair_that_is_used_again():
    reused = []
    roster = roster_of(exchange(0.0, 5, b"a", b"b") + exchange(1.0, 5, b"c", b"d", isn=9000), reused)
    first, second = roster.rows
    one, other = peer_of(first.flow.source), peer_of(first.flow.destination)
    assert roster.tcp(one, other, 8).row is first
    assert roster.tcp(other, one, 9).row is first and not reused
    assert roster.tcp(one, other, 10).row is second
    assert reused == [first]
    key = pack_key(6, second.flow.source, second.flow.destination)
    assert roster.current(key).row is second is roster.row_of(second.flow)
    assert roster.script_of(second.flow).conversation.sides[0].isn == 9000


def test_pings_have_one_row_each():
    roster = roster_of([])
    key = (1, (b"\x0a\0\0\2", 7), (b"\xcb\0\x71\x50", 0))
    assert roster.ping(key) is None
    row = roster.add_ping(key, 4, 0)
    assert roster.add_ping(key, 9, 0) is row is roster.ping(key) is roster.row_of(row.flow)
    assert row.first_frame == 4


def test_far_ends_are_those_that_are_never_an_app():
    made = [(0, udp(APP, 5, SERVER, 9, b"")), (1, udp(SERVER, 6, DNS_SERVER, 9, b""))]
    made.append((2, tcp(APP, 5, SERVER, 1, 0, 0, ACK)))
    assert roster_of(made).far_ends == {bytes((10, 0, 0, 53))}


def test_unknown_pairs():
    roster = roster_of([])
    assert roster.tcp((b"", 1), (b"", 2), 1) is None
    assert roster.udp((b"", 1), (b"", 2)) is None
