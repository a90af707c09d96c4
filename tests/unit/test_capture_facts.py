"""The whole account in one pass: DNS over everything, server names, fragments."""

from ipaddress import ip_address

from netstack.capture.facts import CaptureFacts
from netstack.core.packet import ACK, PSH, SYN
from netstack.wire.ipv4 import Ipv4Header, cut_fragments
from tests.made_captures import (
    APP,
    DNS_SERVER,
    SERVER,
    START_NS,
    answer,
    client_hello,
    exchange,
    facts_of,
    frames,
    lookup,
    query,
    tcp,
    udp,
)  # fmt: skip


def dns_of(packets):
    return facts_of(frames(packets)).as_dict()["dns"]


def test_an_empty_capture():
    shown = CaptureFacts().as_dict()
    assert shown["counts"] == {"frames": 0}
    assert shown["first_time"] is None
    assert shown["dns"]["messages"] == []


def test_dns_over_udp():
    dns = dns_of(lookup(0.0, 5000, "www.example.test", SERVER, ident=0xABC))
    assert (dns["queries"], dns["responses"]) == (1, 1)
    assert dns["address_answers"] == [
        {"frame": 2, "ip": SERVER, "name": "www.example.test", "time": "1700000000.020000000", "ttl": 60}
    ]
    asked, answered = dns["messages"]
    assert (asked["id"], asked["rcode"], asked["queries"]) == ("0x0abc", None, [["www.example.test", "1"]])
    assert answered["answers"] == [{"name": "www.example.test", "ttl": "60", "type": "1", "a": SERVER}]
    assert (answered["rcode"], answered["src"], answered["dst"], answered["over"]) == ("0", DNS_SERVER, APP, "udp")


def test_only_port_53_is_dns():
    assert dns_of([(0, udp(APP, 5353, "224.0.0.251", 5353, query(1, "a.test")))])["queries"] == 0


def framed(message):
    return len(message).to_bytes(2, "big") + message


def test_dns_over_tcp_counts_where_a_message_ends():
    up = framed(query(1, "a.test")) + framed(query(2, "b.test"))
    packets = exchange(0.0, 5, up, framed(answer(1, "a.test", SERVER)), server=DNS_SERVER, dport=53)
    split = packets[3]
    whole = packets[:3]
    whole += [(0.03, tcp(APP, 5, DNS_SERVER, 53, 1001, 5001, ACK, up[:5]))]
    whole += [(0.031, tcp(APP, 5, DNS_SERVER, 53, 1006, 5001, PSH | ACK, up[5:]))]
    dns = dns_of(whole + packets[4:])
    assert split and [message["frame"] for message in dns["messages"]] == [5, 5, 6]
    assert dns["messages"][0]["over"] == "tcp"
    assert dns["address_answers"][0]["ip"] == SERVER


def fragments_of(packet, mtu):
    header = Ipv4Header(ip_address(DNS_SERVER).packed, ip_address(APP).packed, 17, 20, len(packet))
    return cut_fragments(header, packet[20:], mtu, 77)


def test_dns_in_fragments_belongs_to_the_last_one():
    packet = udp(DNS_SERVER, 53, APP, 5000, answer(1, "a.test", SERVER).ljust(900, b"\0"))
    pieces = fragments_of(packet, 300)
    pieces.reverse()
    facts = facts_of(frames(enumerate(pieces)))
    shown = facts.as_dict()
    assert shown["counts"]["udp"] == 1 and shown["counts"]["ipv4_fragments"] == len(pieces)
    assert [message["frame"] for message in shown["dns"]["messages"]] == [len(pieces)]


def test_server_names():
    made = exchange(0.0, 5, client_hello("www.example.test"), b"x", dport=443)
    [shown] = facts_of(frames(made)).as_dict()["tls_sni"]
    assert shown == {
        "frame": 4, "name": "www.example.test", "over": "tcp", "port": "443", "server": SERVER, "tcp_stream": "0",
    }  # fmt: skip


def test_a_name_in_segments_out_of_order():
    hello = client_hello("www.example.test", padding=2000)
    made = [(0.0, tcp(APP, 5, SERVER, 443, 100, 0, SYN))]
    made += [(0.2, tcp(APP, 5, SERVER, 443, 1101, 1, ACK, hello[1000:]))]
    made += [(0.3, tcp(APP, 5, SERVER, 443, 101, 1, ACK, hello[:1000]))]
    [shown] = facts_of(frames(made)).as_dict()["tls_sni"]
    assert (shown["frame"], shown["name"]) == (3, "www.example.test")


def test_times():
    shown = facts_of(frames([(0, b""), (2.5, b"")])).as_dict()
    assert (shown["first_time"], shown["last_time"]) == ("1700000000.000000000", "1700000002.500000000")
    assert START_NS == 1_700_000_000 * 10**9
