"""DNS datagrams and DNS streams between the tunnel and the bridge."""

import dns.message
import dns.rrset
import pytest

from netstack.config import DnsConfig, LimitsConfig
from netstack.core.drops import DropReason
from netstack.core.flow import TCP, UDP, Endpoint, FiveTuple, pack_key
from netstack.core.packet import Datagram
from netstack.core.stats import Stats
from netstack.dns.bridge import DnsBridge
from netstack.dns.framing import MessageReader, frame
from netstack.forward.dns import OUTPUT_LIMIT, PENDING_MOST, DnsForwarder, DnsStream
from netstack.testing.world import ScriptedResolver, SeededEntropy

APP = Endpoint.of("10.0.0.2", 40000)
SERVER = Endpoint.of("9.9.9.9", 53)


class Owner:
    def on_readable(self, socket: object, now: float) -> None: ...

    def on_writable(self, socket: object, now: float) -> None: ...


class Desk:
    def __init__(self, mtu: int = 1500) -> None:
        self.resolver = ScriptedResolver()
        self.stats = Stats()
        self.sent: list[Datagram] = []
        self.ready: list[object] = []
        bridge = DnsBridge(
            self.resolver, self, DnsConfig(), LimitsConfig(), self.stats, lambda event: None, SeededEntropy()
        )
        self.resolver.start(bridge)
        self.forwarder = DnsForwarder(bridge, self.sent.append, self.stats, mtu=mtu)

    def learn(self, name, address, ttl, now, app=None):  # type: ignore[no-untyped-def]
        return True

    def stream(self) -> DnsStream:
        return self.forwarder.open_stream(FiveTuple(TCP, APP, SERVER), Owner(), self.ready.append)

    def answer(self, token: int, size: int = 0) -> None:
        asked = dns.message.from_wire(self.resolver.queries[token])
        response = dns.message.make_response(asked)
        for _ in range(size // 250 + (size > 0)):
            response.answer.append(
                dns.rrset.from_text(asked.question[0].name, 5, "IN", "TXT", *['"' + "x" * 240 + '"'])
            )
        self.resolver.answer(token, response.to_wire(max_size=65_535), 0.0)


def query(ident: int, name: str = "a.test") -> bytes:
    return dns.message.make_query(name, "TXT", id=ident).to_wire()


def drain(stream: DnsStream) -> list[int]:
    """Ids of the answers that can be read now."""
    reader = MessageReader()
    while True:
        try:
            octets = stream.recv(1000)
        except BlockingIOError:
            break
        if not octets:
            break
        reader.feed(octets)
    ids = []
    while (message := reader.next_message()) is not None:
        ids.append(dns.message.from_wire(message).id)
    assert len(reader) == 0
    return ids


def test_the_reply_comes_from_the_address_that_was_asked() -> None:
    for source, server in ((APP, SERVER), (Endpoint.of("fd00::2", 1), Endpoint.of("2001:db8::53", 53))):
        desk = Desk()
        payload = memoryview(query(5))
        assert desk.forwarder.on_datagram(Datagram(pack_key(UDP, source, server), payload), 0.0)
        desk.answer(1)
        [reply] = desk.sent
        assert reply.key == pack_key(UDP, server, source)
        assert dns.message.from_wire(bytes(reply.payload)).id == 5


def test_the_tunnels_mtu_limits_answers() -> None:
    desk = Desk(mtu=1000)
    made = dns.message.make_query("a.test", "TXT", use_edns=0, payload=4096)
    desk.forwarder.on_datagram(Datagram(pack_key(UDP, APP, SERVER), made.to_wire()), 0.0)
    desk.answer(1, 1000)
    assert bytes(desk.sent[0].payload)[2] & 2, "TC"


def test_what_is_not_dns_is_left_to_others() -> None:
    desk = Desk()
    for payload in (b"", b"junk", b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)):
        assert not desk.forwarder.on_datagram(Datagram(pack_key(UDP, APP, SERVER), payload), 0.0)
    assert not desk.sent and not desk.resolver.queries


def test_a_query_over_tcp_waits_for_flush_and_is_answered() -> None:
    desk = Desk()
    stream = desk.stream()
    assert stream.connect_error() == 0 and stream.is_alive()
    stream.watch(readable=True, writable=False)
    octets = frame(query(1))
    assert stream.send(memoryview(octets)) == len(octets)
    assert not desk.resolver.queries, "a stream knows no time"
    desk.forwarder.flush(0.0)
    assert len(desk.resolver.queries) == 1
    with pytest.raises(BlockingIOError):
        stream.recv(10)
    assert not desk.ready
    desk.answer(1)
    assert desk.ready == [stream]
    assert drain(stream) == [1]


def test_pipelined_queries_are_answered_in_any_order_and_however_they_were_cut() -> None:
    desk = Desk()
    stream = desk.stream()
    octets = b"".join(frame(query(ident)) for ident in range(1, 6))
    for at in range(0, len(octets), 7):
        assert stream.send(octets[at : at + 7]) == len(octets[at : at + 7])
        desk.forwarder.flush(0.0)
    for token in (3, 1, 5, 2, 4):
        desk.answer(token)
    assert drain(stream) == [3, 1, 5, 2, 4]


def test_answers_larger_than_a_datagram() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.send(frame(query(1)))
    desk.forwarder.flush(0.0)
    desk.answer(1, 30_000)
    taken = b""
    while True:
        try:
            taken += stream.recv(4096)
        except BlockingIOError:
            break
    assert len(taken) > 30_000 and len(taken) == 2 + int.from_bytes(taken[:2], "big")


def test_too_many_unanswered_queries_close_the_window() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.sendmsg([frame(query(ident, f"n{ident}.test")) for ident in range(PENDING_MOST + 6)])
    desk.forwarder.flush(0.0)
    assert len(desk.resolver.queries) == PENDING_MOST == stream.pending
    with pytest.raises(BlockingIOError):
        stream.send(b"more")
    with pytest.raises(BlockingIOError):
        stream.sendmsg([b"more"])
    stream.watch(readable=False, writable=True)
    assert not desk.ready
    desk.answer(1)
    assert desk.ready == [stream], "room again"
    desk.forwarder.flush(0.0)
    assert len(desk.resolver.queries) == PENDING_MOST, "the next one that waited was asked"


def test_answers_that_the_app_does_not_take_are_bounded() -> None:
    desk = Desk()
    stream = desk.stream()
    for ident in range(40):
        stream.send(frame(query(ident, f"n{ident}.test")))
    desk.forwarder.flush(0.0)
    for token in list(desk.resolver.queries):
        desk.answer(token, 60_000)
    with pytest.raises(BlockingIOError):
        stream.send(b"x")
    total, ids = 0, []
    reader = MessageReader()
    while True:
        try:
            octets = stream.recv(65_536)
        except BlockingIOError:
            break
        total += len(octets)
        reader.feed(octets)
    while (message := reader.next_message()) is not None:
        ids.append(message[0] << 8 | message[1])
    assert total < OUTPUT_LIMIT + 65_536 and sorted(ids) == list(range(40)), "late ones get SERVFAIL"
    assert stream.send(b"x") == 1


def test_after_the_apps_fin_what_was_asked_is_answered_and_then_the_stream_ends() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.watch(readable=True, writable=False)
    stream.send(frame(query(1)) + frame(query(2, "b.test")))
    stream.shutdown_write()
    desk.forwarder.flush(0.0)
    with pytest.raises(BrokenPipeError):
        stream.send(b"x")
    desk.answer(1)
    assert drain(stream) == [1]
    with pytest.raises(BlockingIOError):
        stream.recv(10)
    desk.answer(2)
    assert drain(stream) == [2]
    assert stream.recv(10) == b""
    assert desk.ready and all(each is stream for each in desk.ready)


def test_fin_without_a_query_ends_at_once() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.watch(readable=True, writable=False)
    stream.shutdown_write()
    desk.forwarder.flush(0.0)
    assert desk.ready == [stream] and stream.recv(10) == b""


def test_octets_that_are_not_dns_end_the_stream() -> None:
    desk = Desk()
    for junk in (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n" + b"x" * 18_300, frame(b""), frame(b"not dns, really")):
        stream = desk.stream()
        stream.watch(readable=True, writable=False)
        stream.send(junk)
        desk.forwarder.flush(0.0)
        assert stream.recv(10) == b"", junk[:10]
        assert stream.send(b"whatever follows") == 16, "goes nowhere"
    assert desk.stats.drops[DropReason.DNS_MALFORMED] == 3


def test_a_duplicate_query_does_not_hold_the_stream_open() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.send(frame(query(1)) * 2)
    stream.shutdown_write()
    desk.forwarder.flush(0.0)
    assert len(desk.resolver.queries) == 1
    desk.answer(1)
    assert drain(stream) == [1] and stream.recv(10) == b""


def test_a_closed_stream_is_silent() -> None:
    desk = Desk()
    for close in (DnsStream.close, DnsStream.abort):
        stream = desk.stream()
        stream.watch(readable=True, writable=True)
        desk.ready.clear()
        stream.send(frame(query(1)) + frame(query(2, "b.test"))[:9])
        desk.forwarder.flush(0.0)
        close(stream)
        close(stream)
        desk.ready.clear()
        desk.answer(list(desk.resolver.queries)[-1])
        desk.forwarder.flush(0.0)
        assert not desk.ready
        with pytest.raises(BrokenPipeError):
            stream.send(b"x")


def test_interest_is_level_triggered() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.send(frame(query(1)))
    desk.forwarder.flush(0.0)
    desk.answer(1)
    assert not desk.ready, "nobody asked"
    stream.watch(readable=True, writable=False)
    assert desk.ready == [stream]
    desk.ready.clear()
    stream.recv(3)
    assert desk.ready == [stream], "there is more"
