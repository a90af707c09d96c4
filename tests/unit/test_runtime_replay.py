"""Captures through the engine: verdicts, times, adaptation, evidence."""

import io
import json
import struct
from ipaddress import ip_address

import pytest

from netstack.codec import load
from netstack.config import make_config
from netstack.core.packet import ACK, FIN, PSH, RST, SYN
from netstack.link.pcap import read_frames
from netstack.runtime.replay import Replay
from netstack.runtime.trace import AnnotatedCapture, EventLines
from netstack.wire.ipv4 import Ipv4Header, cut_fragments
from tests.made_captures import (
    APP,
    DNS_SERVER,
    SERVER,
    answer,
    client_hello,
    echo,
    exchange,
    facts_of,
    frames,
    ip,
    lookup,
    query,
    tcp,
    udp,
)  # fmt: skip

NAME = "www.example.test"


class Run:
    def __init__(self, packets, *, config=None, change=None, **options):
        made = frames(sorted(packets, key=lambda item: item[0]))
        if change is not None:
            change(made)
        self.lines = io.StringIO()
        self.file = io.BytesIO()
        self.replay = Replay(
            facts_of(made), make_config(config or {}), load("pure"), emit=EventLines(self.lines),
            annotated=AnnotatedCapture(self.file), **options,
        )  # fmt: skip
        for frame in made:
            self.replay.frame(frame)
        self.replay.finish()
        self.shown = self.replay.as_dict(streams=True)
        self.flows = self.shown["flows"]

    def verdicts(self):
        return [(row["verdict"], row["reason"]) for row in self.flows]

    def events(self, kind):
        return [event for line in self.lines.getvalue().splitlines() if (event := json.loads(line))["event"] == kind]


RESOLVED = lookup(0.0, 5000, NAME, SERVER)


def test_a_resolved_address_is_allowed_and_its_octets_are_the_captured_ones():
    run = Run(RESOLVED + exchange(1.0, 40000, b"GET /", b"x" * 5000))
    assert run.verdicts() == [("allow", "dns"), ("allow", "lease")]
    row = run.flows[1]
    assert row["streams"] == {
        "up": {"result": "match", "captured": 5, "sent": 5},
        "down": {"result": "match", "captured": 5000, "sent": 5000},
    }
    assert (row["how"], row["octets_up"], row["octets_down"], row["names"]) == ("finished", 5, 5000, [NAME])
    assert run.shown["queries"][0]["addresses"] == [SERVER]
    assert run.shown["queries"][0]["elapsed"] == 0.02
    assert run.shown["engine"]["drops"] == {}


def test_a_hard_coded_address_is_refused_and_its_app_falls_silent():
    run = Run(exchange(0.0, 40000, client_hello(NAME), b"x"))
    assert run.verdicts() == [("block", "unresolved")]
    assert run.flows[0]["names"] == [NAME]
    assert run.shown["skipped"] == {"after_reset": 4}
    assert run.shown["engine"]["tcp_blocked"] == 1


@pytest.mark.parametrize(("enforcement", "verdict", "would_block"), [("off", "allow", False), ("audit", "allow", True)])
def test_enforcement(enforcement, verdict, would_block):
    run = Run(exchange(0.0, 40000, b"a", b"b"), config={"policy": {"enforcement": enforcement}})
    assert run.flows[0]["verdict"] == verdict
    assert run.flows[0].get("would_block", False) is would_block
    assert run.flows[0]["octets_down"] == 1


@pytest.mark.parametrize(("check", "verdict"), [(False, "block"), (True, "allow")])
def test_what_a_blocking_state_would_let_pass(check, verdict):
    lockdown = {"blocking": True, "network_check": check, "names": [NAME]}
    other = exchange(2.0, 40001, b"a", b"b", server="203.0.113.99")
    run = Run(RESOLVED + exchange(1.0, 40000, b"a", b"b") + other, config={"lockdown": lockdown})
    assert run.verdicts() == [("allow", "dns"), (verdict, "lockdown"), ("block", "lockdown")]
    assert [event["state"] for event in run.events("lockdown_changed")] == ["blocking"]


def test_the_answer_counts_from_the_moment_it_was_captured():
    packets = [(0.0, udp(APP, 5000, DNS_SERVER, 53, query(7, NAME)))]
    packets += [(1.0, tcp(APP, 40000, SERVER, 80, 1000, 0, SYN))]
    packets += [(2.0, udp(DNS_SERVER, 53, APP, 5000, answer(7, NAME, SERVER)))]
    packets += exchange(3.0, 40001, b"a", b"b")
    assert Run(packets).verdicts() == [("allow", "dns"), ("block", "unresolved"), ("allow", "lease")]


def test_a_forged_answer_opens_nothing():
    packets = [(0.0, udp(APP, 5000, DNS_SERVER, 53, query(7, NAME)))]
    packets += [(0.1, udp(DNS_SERVER, 53, APP, 5000, answer(8, NAME, SERVER)))]
    packets += exchange(1.0, 40000, b"a", b"b")
    run = Run(packets)
    assert run.verdicts()[1] == ("block", "unresolved")
    assert run.shown["queries"][0] | {"time": ""} == {
        "time": "", "client": f"{APP}:5000", "server": f"{DNS_SERVER}:53", "name": NAME, "type": "A",
        "rcode": "SERVFAIL", "failed": "timeout",
    }  # fmt: skip
    assert run.events("query_failed")[0]["at"] == 5.0  # the engine's deadline, not the next packet


def test_a_lease_ends_on_the_virtual_clock():
    run = Run(RESOLVED + exchange(299.0, 40000, b"a", b"b") + exchange(700.0, 40001, b"a", b"b"))
    assert run.verdicts() == [("allow", "dns"), ("allow", "lease"), ("block", "expired")]


def test_quic_is_refused_even_when_resolved():
    initial = (b"\xc3\0\0\0\x01\x08" + bytes(8) + b"\0\0" + struct.pack("!H", 0x4000 | 1182)).ljust(1200, b"\xa5")
    run = Run([*RESOLVED, (1.0, udp(APP, 6000, SERVER, 443, initial))])
    assert run.verdicts()[1] == ("block", "quic")


def test_udp_replies_come_back_and_strangers_do_not():
    packets = [
        *RESOLVED,
        (1.0, udp(APP, 6000, SERVER, 9, b"ping")), (1.1, udp(SERVER, 9, APP, 6000, b"pong")),
        (1.2, udp(SERVER, 9, APP, 6001, b"nobody asked")),
    ]  # fmt: skip
    run = Run(packets)
    assert (run.flows[1]["octets_up"], run.flows[1]["octets_down"]) == (4, 4)
    assert run.shown["skipped"] == {"no_listener": 1}


def test_a_closed_port_is_reported_to_the_app():
    asked = udp(APP, 6000, SERVER, 9, b"ping")
    error = ip(SERVER, APP, 1, b"\3\3\0\0\0\0\0\0" + asked)
    run = Run([*RESOLVED, (1.0, asked), (1.1, error)], keep_bad_checksums=True)
    sent = [frame.data for frame in read_frames(io.BytesIO(run.file.getvalue()), "x")]
    assert sent[-2][20:22] == b"\3\3" and sent[-1][20:22] == b"\3\3"  # the captured one and the engine's own


def test_a_refused_dial_is_a_reset():
    packets = [(1.0, tcp(APP, 5, SERVER, 80, 1000, 0, SYN)), (1.1, tcp(SERVER, 80, APP, 5, 0, 1001, RST | ACK))]
    run = Run(RESOLVED + packets)
    assert (run.flows[1]["verdict"], run.flows[1]["how"]) == ("allow", "refused")
    assert run.events("flow_closed")[0]["at"] == 1.1


def test_a_silent_server_is_a_timeout():
    run = Run([*RESOLVED, (1.0, tcp(APP, 5, SERVER, 80, 1000, 0, SYN))])
    assert run.flows[1]["how"] == "timeout"
    assert run.events("flow_closed")[0]["at"] == 21.0


def test_a_reset_of_the_server_is_one_to_the_app():
    packets = exchange(1.0, 40000, b"a", b"bc")[:6]
    packets.append((2.0, tcp(SERVER, 80, APP, 40000, 5003, 1002, RST | ACK)))
    assert Run(RESOLVED + packets).flows[1]["how"] == "reset-by-peer"


def test_a_pair_is_used_again_without_an_end():
    packets = RESOLVED + exchange(1.0, 40000, b"one", b"two")[:6] + exchange(2.0, 40000, b"three", b"four", isn=9000)
    run = Run(packets)
    assert [row["how"] for row in run.flows] == ["", "cut", "finished"]
    assert [row["octets_up"] for row in run.flows] == [len(query(7, NAME)), 3, 5]


def test_an_app_never_acknowledges_what_it_was_not_sent():
    packets = exchange(1.0, 40000, b"a", b"x" * 3000)
    late = [(at + 0.05 if index in (5, 6) else at, packet) for index, (at, packet) in enumerate(packets)]
    run = Run(RESOLVED + late)
    assert run.flows[1]["streams"]["down"]["result"] == "match"
    assert run.shown["engine"]["drops"] == {}


def test_wrong_checksums_are_dropped_or_kept():
    packets = RESOLVED + exchange(1.0, 40000, b"a" * 50, b"b")
    bad = (packets[5][0], packets[5][1][:-1] + b"?")
    dropped = Run([*packets[:5], bad, *packets[6:]])
    assert dropped.flows[1]["drops"]["bad_tcp_checksum"] == 1
    assert dropped.flows[1]["octets_up"] == 0
    kept = Run([*packets[:5], bad, *packets[6:]], keep_bad_checksums=True)
    assert kept.flows[1]["octets_up"] == 50 and "drops" not in kept.flows[1]


def test_a_capture_of_headers_only_is_replayed():
    def cut(made):
        for frame in made[2:]:
            frame.data = frame.data[:60]

    run = Run(RESOLVED + exchange(1.0, 40000, b"a" * 500, b"b" * 900), change=cut)
    assert (run.flows[1]["octets_up"], run.flows[1]["octets_down"]) == (500, 900)


def test_fragments_are_judged_whole():
    def pieces(packet, ident):
        header = Ipv4Header(packet[12:16], packet[16:20], 17, 20, len(packet))
        return cut_fragments(header, packet[20:], 300, ident)

    asked = pieces(udp(APP, 6000, SERVER, 9, bytes(700)), 5)
    replied = pieces(udp(SERVER, 9, APP, 6000, bytes(800)), 6)
    packets = RESOLVED + [(1.0 + n / 10, piece) for n, piece in enumerate([*asked, *replied])]
    run = Run(packets)
    assert (run.flows[1]["verdict"], run.flows[1]["octets_up"], run.flows[1]["octets_down"]) == ("allow", 700, 800)
    assert ip_address(APP).packed == asked[0][12:16]


def test_dns_over_tcp():
    def framed(message):
        return len(message).to_bytes(2, "big") + message

    up, down = framed(query(3, NAME)), framed(answer(3, NAME, SERVER))
    packets = exchange(0.0, 5001, up, down, server=DNS_SERVER, dport=53) + exchange(1.0, 40000, b"a", b"b")
    run = Run(packets)
    assert run.verdicts() == [("allow", "dns"), ("allow", "lease")]
    assert run.flows[0]["octets_down"] == len(down)


def test_ping():
    run = Run([*RESOLVED, (1.0, echo(APP, SERVER, 8, 7)), (1.1, echo(SERVER, APP, 0, 7))])
    row = run.flows[1]
    assert (row["protocol"], row["cport"], row["verdict"]) == ("icmp", 7, "allow")
    assert row["octets_down"] == row["octets_up"] > 0


def test_flows_without_a_beginning_have_no_verdict():
    run = Run([(0.0, tcp(APP, 5, SERVER, 80, 1, 1, ACK, b"x")), (0.1, tcp(APP, 5, SERVER, 80, 2, 1, FIN | ACK))])
    assert run.verdicts() == [("none", "tcp_no_flow")]
    assert run.shown["skipped"] == {"after_reset": 1}


def test_packets_of_no_conversation_are_survived():
    junk = [ip(APP, SERVER, protocol, bytes(range(size))) for protocol in range(256) for size in (0, 1, 8, 40)]
    junk += [b"", b"\x45", b"\x60" + bytes(39), bytes(100), b"\xff" * 60]
    run = Run([(n / 100, packet) for n, packet in enumerate(junk)])
    assert run.shown["engine"]["drops"]["unsupported_protocol"] > 900


def test_stamps_that_go_back_do_not_move_the_clock():
    made = [(5.0, RESOLVED[0][1]), (1.0, RESOLVED[1][1])]

    def disorder(frames_):
        frames_.sort(key=lambda frame: -frame.time_ns)

    run = Run(made, change=disorder)
    assert run.shown["queries"][0]["rcode"] == "NOERROR"


def test_two_runs_are_the_same_to_the_octet():
    packets = RESOLVED + exchange(1.0, 40000, b"GET /", b"x" * 5000)
    packets += exchange(2.0, 40001, b"a", b"b", server=DNS_SERVER)
    first, second, other = Run(packets, seed=1), Run(packets, seed=1), Run(packets, seed=2)
    assert first.lines.getvalue() == second.lines.getvalue() != ""
    assert first.file.getvalue() == second.file.getvalue()
    assert first.shown == second.shown
    assert other.verdicts() == first.verdicts()


def test_annotations():
    run = Run(RESOLVED + exchange(1.0, 40000, b"GET /", b"page") + exchange(2.0, 40001, b"a", b"b", server="192.0.2.9"))
    octets = run.file.getvalue()
    assert b"synthetic: sent by the engine; flow 1; verdict allow (lease); www.example.test" in octets
    assert b"verdict block (unresolved); never resolved" in octets
    written = list(read_frames(io.BytesIO(octets), "x"))
    assert len(written) > 2 + 10 + 10
    assert written[0].data == RESOLVED[0][1]
    assert PSH and written[0].linktype == 101
