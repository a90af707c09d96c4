"""The engine as a whole: dispatch, fragments, DNS-first, both codecs, hostile packets."""

import random
import struct

import pytest

from netstack.codec import load
from netstack.config import Config, make_config
from netstack.core.drops import DropReason
from netstack.core.errors import CodecError
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, PSH, RST, SYN, Datagram, IcmpMessage
from netstack.engine import Engine
from netstack.link.memory import MemoryTunnel
from netstack.testing.world import APP, APP6, SERVER, SeededEntropy, World
from netstack.upstream.assemble import with_rules
from netstack.wire import ipv4

DNS = Endpoint.of("10.0.0.1", 53)
PUBLIC_DNS = Endpoint.of("192.0.2.53", 53)
QUESTION = b"\x03www\x07example\x00\x00\x01\x00\x01"


def query(ident: int = 0x1234) -> bytes:
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + QUESTION


def answer_to(message: bytes, address: bytes = SERVER.address, ttl: int = 60) -> bytes:
    head = message[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
    return head + QUESTION + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, ttl, 4) + address


@pytest.fixture(params=["pure", "native"])
def codec(request):
    try:
        return load(request.param)
    except CodecError as problem:
        pytest.skip(f"native codec not built: {problem}")


@pytest.mark.parametrize("server", [DNS, PUBLIC_DNS])
def test_dns_first(codec, server: Endpoint) -> None:
    w = World(codec=codec)
    syn = w.tcp_packet(SYN, 1)
    assert w.send(syn)[0].flags & RST
    assert w.send(w.udp_packet(query(), destination=server)) == []
    [(token, message)] = w.resolver.queries.items()
    w.resolver.answer(token, answer_to(message), w.now)
    [reply] = w.run()
    assert isinstance(reply, Datagram)
    assert bytes(reply.payload)[:2] == b"\x12\x34"
    assert reply.key[2:6] == server.address and reply.key[34:36] == b"\0\x35"
    assert w.engine.tracker.lookup(SERVER.address, w.now) is not None
    assert w.send(syn) == [] and len(w.streams) == 1


def test_silent_resolver_is_servfail_and_delays_nobody() -> None:
    w = World()
    w.send(w.udp_packet(query(1), destination=DNS))
    w.run(1.0)
    w.send(w.udp_packet(query(2), source=Endpoint(APP.address, 40_001), destination=DNS))
    token = max(w.resolver.queries)
    w.resolver.answer(token, answer_to(w.resolver.queries[token]), w.now)
    assert len(w.run()) == 1
    [servfail] = w.run(6.0)
    assert bytes(servfail.payload)[3] & 15 == 2


def test_dns_over_tcp() -> None:
    w = World()
    where = {"destination": DNS}
    [syn_ack] = w.send(w.tcp_packet(SYN, 1000, **where))
    framed = struct.pack("!H", len(query())) + query()
    w.send(w.tcp_packet(ACK, 1001, syn_ack.seq + 1, framed * 2, **where))
    tokens = list(w.resolver.queries)
    for token in tokens:
        w.resolver.answer(token, answer_to(w.resolver.queries[token]), w.now)
    octets = b"".join(bytes(segment.payload) for segment in w.run(0.1))
    size = struct.unpack_from("!H", octets)[0]
    assert octets[2:4] == b"\x12\x34" and len(octets) in (size + 2, 2 * (size + 2))
    assert w.streams == [], "no real socket for the engine's own service"


def test_not_dns_on_port_53_is_plain_udp() -> None:
    w = World(make_config({"policy": {"enforcement": "off"}}))
    stun = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)
    w.send(w.udp_packet(stun, destination=PUBLIC_DNS))
    assert w.datagrams[0].sent == [(stun, PUBLIC_DNS)]


def test_fragments_are_put_together_before_the_verdict(codec) -> None:
    w = World(make_config({"policy": {"enforcement": "off"}}), codec=codec)
    packet = w.udp_packet(bytes(range(256)) * 12, destination=Endpoint.of("192.0.2.80", 9))
    header = ipv4.parse_ipv4(packet)
    parts = ipv4.cut_fragments(header, packet[20:], 1000, 99)
    random.Random(1).shuffle(parts)
    w.send(*parts)
    assert [len(octets) for octets, _ in w.datagrams[0].sent] == [3072]


def test_checksum_of_the_whole_is_checked_after_reassembly(codec) -> None:
    w = World(make_config({"policy": {"enforcement": "off"}}), codec=codec)
    packet = bytearray(w.udp_packet(bytes(3000), destination=Endpoint.of("192.0.2.80", 9)))
    packet[-1] ^= 1
    w.send(*ipv4.cut_fragments(ipv4.parse_ipv4(packet), bytes(packet[20:]), 1000, 99))
    assert w.datagrams == []
    assert w.stats.drops[DropReason.BAD_UDP_CHECKSUM] == 1


def test_unfinished_fragments_time_out_with_an_error() -> None:
    w = World()
    packet = w.udp_packet(bytes(3000), destination=Endpoint.of("192.0.2.80", 9))
    first = ipv4.cut_fragments(ipv4.parse_ipv4(packet), packet[20:], 1000, 99)[0]
    assert w.send(first) == []
    [message] = w.run(31.0)
    assert isinstance(message, IcmpMessage) and (message.type, message.code) == (11, 1)
    assert w.engine.next_timeout() is None


def test_unknown_transport_is_protocol_unreachable() -> None:
    w = World()
    packet = ipv4.emit_ipv4(APP.address, SERVER.address, 132, 20) + bytes(20)
    [message] = w.send(packet)
    assert (message.type, message.code) == (3, 2)
    assert w.stats.drops[DropReason.UNSUPPORTED_PROTOCOL] == 1


def test_dns_only_mode_carries_dns_and_nothing_else() -> None:
    w = World(make_config({"mode": "dns-only", "policy": {"enforcement": "off"}}))
    assert w.send(w.tcp_packet(SYN, 1))[0].flags & RST
    w.send(w.udp_packet(query(), destination=DNS))
    assert len(w.resolver.queries) == 1


def hostile_packets(w: World, seed: int, count: int) -> list[bytes]:
    """Honest packets of all kinds, each with some octets changed, cut or added."""
    rng = random.Random(seed)
    honest = [
        w.tcp_packet(SYN, 1), w.tcp_packet(ACK, 2, 3, b"data"), w.udp_packet(query(), destination=DNS),
        w.udp_packet(b"x" * 50), w.echo_packet(), w.echo_packet(source=APP6, destination=Endpoint.of("2001:db8::1", 0)),
        w.udp_packet(b"y", source=APP6, destination=Endpoint.of("2001:db8::1", 99)),
    ]  # fmt: skip
    packets = []
    for _ in range(count):
        packet = bytearray(rng.choice(honest))
        for _ in range(rng.randrange(4)):
            packet[rng.randrange(len(packet))] = rng.randrange(256)
        if rng.random() < 0.3:
            del packet[rng.randrange(len(packet)) :]
        if rng.random() < 0.1:
            packet += rng.randbytes(30)
        packets.append(bytes(packet))
    return packets


@pytest.mark.parametrize("seed", range(3))
def test_hostile_packets_never_raise_and_always_leave_a_reason(codec, seed: int) -> None:
    w = World(codec=codec)
    packets = hostile_packets(w, seed, 1000)
    for packet in packets:
        w.send(packet)
    assert w.stats.packets_in == len(packets)
    assert sum(w.stats.drops.values()) > 300
    w.run(100.0)
    w.engine.stop(w.now)


def test_both_codecs_tell_the_same_story() -> None:
    try:
        native = load("native")
    except CodecError as problem:
        pytest.skip(f"native codec not built: {problem}")
    stories = []
    for codec in (load("pure"), native):
        w = World(codec=codec)
        out = []
        for packet in hostile_packets(w, 7, 500):
            w.tunnel.app.give(packet)
            w._settle()
            out += w.tunnel.app.take()
        stories.append((out, [event.as_dict() for event in w.events], w.stats.as_dict()))
    assert stories[0] == stories[1]


def test_apps_and_networks_reach_the_rules() -> None:
    class Apps:
        def owner_of(self, flow):
            return "mail" if flow.source.port == 40_000 else None

    config = make_config(
        {"rules": [{"action": "nxdomain", "names": ["www.example"], "apps": ["mail"], "networks": ["office"]}]}
    )
    w = World(config)
    inner, emit = w.resolver, w.events.append
    w.engine = Engine(
        config, tunnel=w.tunnel, codec=w.codec, dialer=w.dialer, entropy=SeededEntropy(), emit=emit, stats=w.stats,
        resolver=with_rules(config, inner, w.stats, emit, lambda now: 0.0, apps=Apps()),
    )  # fmt: skip
    w.send(w.udp_packet(query(1), destination=DNS))
    assert len(inner.queries) == 1, "another network: the rule does not hold"
    w.engine.network_changed(w.now, "office")
    [answer] = w.send(w.udp_packet(query(2), destination=DNS))
    assert bytes(answer.payload)[3] & 15 == 3
    w.send(w.udp_packet(query(3), source=Endpoint(APP.address, 40_001), destination=DNS))
    assert len(inner.queries) == 2, "another app: the rule does not hold"


def test_flows_survive_another_tunnel() -> None:
    w = World(make_config({"policy": {"enforcement": "off"}}))
    w.send(w.tcp_packet(SYN, 1000))
    w.streams[0].connect()
    [syn_ack] = w.run()
    w.send(w.tcp_packet(ACK, 1001, syn_ack.seq + 1))
    old, w.tunnel = w.tunnel, MemoryTunnel(w.codec, 1400, stats=w.stats)
    w.engine.replace_tunnel(w.tunnel, w.now)
    old.close()
    w.streams[0].deliver(b"still here")
    [data] = w.run()
    assert bytes(data.payload) == b"still here"
    w.send(w.tcp_packet(ACK | PSH, 1001, data.seq + 10, b"me too"))
    assert w.streams[0].sent == b"me too"
    w.send(w.udp_packet(query(), destination=DNS))
    [(token, message)] = w.resolver.queries.items()
    w.resolver.answer(token, answer_to(message), w.now)
    assert any(isinstance(item, Datagram) for item in w.run())
    assert old.app.take() == []


def test_gauges() -> None:
    w = World(make_config({"policy": {"enforcement": "off"}}))
    w.send(w.tcp_packet(SYN, 1), w.udp_packet(b"x", destination=Endpoint.of("192.0.2.9", 9)), w.echo_packet())
    stats = w.engine.gauges()
    assert (stats.tcp_open, stats.tcp_half_open, stats.udp_sessions, stats.icmp_sessions) == (1, 1, 1, 1)


def test_configuration_defaults_serve() -> None:
    assert World(Config()).engine.next_timeout() is None


def test_stop_closes_the_rest_when_one_part_fails() -> None:
    w = World(make_config({"policy": {"enforcement": "off"}}))
    w.send(w.udp_packet(b"x", destination=Endpoint.of("192.0.2.7", 7)), w.echo_packet(), w.tcp_packet(SYN))

    def broken() -> None:
        raise RuntimeError("a defect")

    w.streams[0].abort = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        w.engine.stop(w.now)
    assert [socket.closed for socket in w.datagrams] == [True, True]
    assert w.resolver.closed
