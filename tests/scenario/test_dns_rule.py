"""The DNS-first rule through a whole engine: a lying resolver upstream, an app that tries everything."""

from collections.abc import Callable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.events import FlowBlocked, QueryAnswered, QueryFailed
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Datagram, IcmpMessage, Segment
from netstack.dns.framing import MessageReader, frame
from netstack.engine import Engine
from netstack.testing.world import APP, APP6, SeededEntropy, World
from netstack.upstream.proxy import ProxyResolver

RESOLVER = Endpoint.of("198.51.100.53", 53)
ASKED = Endpoint.of("9.9.9.9", 53)  # whom the app believes to ask
WEB = Endpoint.of("203.0.113.7", 443)
WEB6 = Endpoint.of("2001:db8:7::7", 443)
INITIAL = b"\xc3\0\0\0\1\x08" + bytes(range(8)) + b"\0\0\x44\x9e" + b"\x55" * 1182

Behaviour = Callable[[bytes], list[bytes]]


class DnsWorld(World):
    """A world with the real resolver code; `behave` is what the server behind it does with a query."""

    def __init__(self, behave: Behaviour | None = None, **tables) -> None:  # type: ignore[no-untyped-def]
        super().__init__(make_config(tables))
        self.behave = behave or (lambda query: [answer(query, WEB.host)])
        self.upstream = ProxyResolver(self.dialer, (RESOLVER,), SeededEntropy(9), stats=self.stats)
        self.engine = Engine(
            self.config, tunnel=self.tunnel, codec=self.codec, dialer=self.dialer, resolver=self.upstream,
            entropy=SeededEntropy(), emit=self.events.append, stats=self.stats,
        )  # fmt: skip

    def serve(self) -> list:  # type: ignore[type-arg]
        """The upstream answers what it was asked; what reaches the app."""
        for socket in list(self.datagrams):
            asked, socket.sent = [each for each in socket.sent if each[1] == RESOLVER], []
            for query, _ in asked:
                socket.incoming.extend((message, RESOLVER) for message in self.behave(query))
        return self.run()

    def ask(self, name: str = "www.example.test", kind: str = "A", *, port: int = 5000, ident: int = 1, **how):  # type: ignore[no-untyped-def]
        """The app asks and the upstream answers; the replies as messages."""
        made = dns.message.make_query(name, kind, id=ident, **how)
        out = self.send(self.udp_packet(made.to_wire(), source=Endpoint(APP.address, port), destination=ASKED))
        return messages(out + self.serve())

    def connect(self, destination: Endpoint, port: int = 40000) -> list:  # type: ignore[type-arg]
        source = Endpoint(APP.address if destination.version == 4 else APP6.address, port)
        return self.send(self.tcp_packet(SYN, seq=100, source=source, destination=destination))

    def dialled(self) -> list[Endpoint]:
        return [stream.destination for stream in self.streams]


def messages(packets: list) -> list[dns.message.Message]:  # type: ignore[type-arg]
    return [dns.message.from_wire(bytes(each.payload)) for each in packets if isinstance(each, Datagram)]


def answer(query: bytes, *addresses: str, owner: str | None = None) -> bytes:
    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked)
    name = dns.name.from_text(owner) if owner else asked.question[0].name
    for address in addresses:
        made.answer.append(dns.rrset.from_text(name, 30, "IN", "AAAA" if ":" in address else "A", address))
    return made.to_wire(max_size=65_535)


def is_reset(packets: list) -> bool:  # type: ignore[type-arg]
    return len(packets) == 1 and isinstance(packets[0], Segment) and packets[0].flags == RST | ACK


def test_hard_coded_address_is_refused_with_rst_and_allowed_once_resolved() -> None:
    w = DnsWorld()
    assert is_reset(w.connect(WEB))
    assert not w.streams
    [event] = [each for each in w.events if isinstance(each, FlowBlocked)]
    assert event.line() == "[TCP] BLOCKED hardcoded IP: 10.0.0.2:40000 -> 203.0.113.7:443"
    [reply] = w.ask()
    assert reply.answer[0][0].address == WEB.host
    assert w.connect(WEB, 40001) == [] and w.dialled() == [WEB]


def test_the_lease_ends_after_five_minutes() -> None:
    w = DnsWorld()
    w.run(1.0)
    w.ask()
    w.run(300.5)
    assert is_reset(w.connect(WEB))
    assert [each.verdict.evidence for each in w.events if isinstance(each, FlowBlocked)] == [
        "www.example.test, expired 0 s ago"
    ]


def test_aaaa_too() -> None:
    w = DnsWorld(lambda query: [answer(query, WEB6.host)])
    assert is_reset(w.connect(WEB6))
    w.ask(kind="AAAA")
    w.connect(WEB6, 40001)
    assert w.dialled() == [WEB6]


def test_the_reply_comes_from_the_address_that_was_asked() -> None:
    w = DnsWorld()
    made = dns.message.make_query("a.test", "A")
    w.send(w.udp_packet(made.to_wire(), source=Endpoint(APP.address, 5000), destination=ASKED))
    [reply] = w.serve()
    assert reply.key[18:22] == APP.address and reply.key[2:6] == ASKED.address and reply.key[34:36] == b"\0\x35"


def test_quic_is_refused_even_to_a_resolved_address() -> None:
    w = DnsWorld()
    w.ask()
    for port in (443, 80):
        out = w.send(w.udp_packet(INITIAL, destination=Endpoint(WEB.address, port)))
        assert [type(each) for each in out] == [IcmpMessage] and (out[0].type, out[0].code) == (3, 3)
    assert w.stats.drops[DropReason.POLICY_QUIC] == 2
    assert not any(sent[1].address == WEB.address for socket in w.datagrams for sent in socket.sent)


def test_a_session_that_opened_with_stun_cannot_turn_into_quic() -> None:
    w = DnsWorld()
    w.ask()
    stun = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(range(12))
    assert w.send(w.udp_packet(stun, destination=WEB)) == []
    [socket] = [each for each in w.datagrams if each.sent]
    [refusal] = w.send(w.udp_packet(INITIAL, destination=WEB))
    assert isinstance(refusal, IcmpMessage) and socket.sent == [(stun, WEB)]


def test_forged_answers_are_never_tracked() -> None:
    def lie(query: bytes) -> list[bytes]:
        good = answer(query, WEB.host)
        return [
            bytes([good[0] ^ 0x55]) + good[1:],
            answer(dns.message.make_query("other.test", "A", id=query[0] << 8 | query[1]).to_wire(), WEB.host),
            good[:2] + bytes([good[2] & 0x7F]) + good[3:],
        ]

    w = DnsWorld(lie)
    assert w.ask() == []
    assert is_reset(w.connect(WEB))
    assert w.stats.drops[DropReason.DNS_UNEXPECTED_ANSWER] == 3
    assert [reply.rcode() for reply in messages(w.run(6.0))] == [dns.rcode.SERVFAIL]
    assert is_reset(w.connect(WEB, 40001))


def test_loops_and_counts_larger_than_the_data_are_survived() -> None:
    def broken(query: bytes) -> list[bytes]:
        end = query.index(b"\0", 12) + 5
        head = query[:2] + b"\x81\x80\0\1"
        pointer = (0xC000 | end).to_bytes(2, "big")
        loop = head + b"\0\1\0\0\0\0" + query[12:end] + pointer + b"\0\1\0\1\0\0\0\1\0\4" + WEB.address
        return [loop] if b"loop" in query else [head + b"\xff\xff\xff\xff\xff\xff" + query[12:end]]

    w = DnsWorld(broken)
    for name in ("loop.test", "counts.test"):
        assert [reply.rcode() for reply in w.ask(name, port=5000 + len(name))] == [dns.rcode.SERVFAIL]
    assert is_reset(w.connect(WEB))
    w.behave = lambda query: [answer(query, WEB.host)]
    assert w.ask("fine.test", port=6000)[0].rcode() == dns.rcode.NOERROR


def test_25_addresses_are_all_tracked_and_dialled() -> None:
    hosts = [f"203.0.113.{last}" for last in range(100, 125)]
    w = DnsWorld(lambda query: [answer(query, *hosts)])
    [reply] = w.ask()
    assert len(reply.answer[0]) == 25
    for number, host in enumerate(hosts):
        w.connect(Endpoint.of(host, 443), 41000 + number)
    assert [each.host for each in w.dialled()] == hosts


def test_addresses_behind_a_cname_chain_are_tracked_and_strangers_are_not() -> None:
    def chain(query: bytes) -> list[bytes]:
        made = dns.message.make_response(dns.message.from_wire(query))
        for owner, kind, text in (
            ("www.example.test.", "CNAME", "one.cdn.test."), ("two.cdn.test.", "A", WEB.host),
            ("one.cdn.test.", "CNAME", "two.cdn.test."), ("stranger.test.", "A", "203.0.113.66"),
        ):  # fmt: skip
            made.answer.append(dns.rrset.from_text(dns.name.from_text(owner), 30, "IN", kind, text))
        return [made.to_wire()]

    w = DnsWorld(chain)
    w.ask()
    assert is_reset(w.connect(Endpoint.of("203.0.113.66", 443)))
    w.connect(WEB, 40001)
    assert w.dialled() == [WEB]


def test_block_page_addresses_open_nothing() -> None:
    w = DnsWorld(lambda query: [answer(query, "127.0.0.1", "0.0.0.0")])
    assert w.ask()[0].answer, "the answer itself passes"
    assert len(w.engine.tracker) == 0
    assert is_reset(w.connect(Endpoint.of("127.0.0.1", 8080)))


def test_nxdomain_passes() -> None:
    def nxdomain(query: bytes) -> list[bytes]:
        made = dns.message.make_response(dns.message.from_wire(query))
        made.set_rcode(dns.rcode.NXDOMAIN)
        return [made.to_wire()]

    assert [reply.rcode() for reply in DnsWorld(nxdomain).ask()] == [dns.rcode.NXDOMAIN]


def test_a_silent_resolver_gives_servfail_in_time_and_delays_nobody() -> None:
    w = DnsWorld(lambda query: [] if b"silent" in query else [answer(query, WEB.host)])
    assert w.ask("silent.test", port=5001) == []
    w.run(0.5)
    assert len(w.ask("fine.test", port=5002)) == 1
    w.connect(WEB)
    assert w.dialled() == [WEB]
    assert messages(w.run(3.5)) == []
    assert [reply.rcode() for reply in messages(w.run(2.0))] == [dns.rcode.SERVFAIL]
    assert w.now < 7.0
    assert [each.why for each in w.events if isinstance(each, QueryFailed)] == ["timeout"]


def test_two_apps_with_one_id_get_their_own_answers() -> None:
    w = DnsWorld(lambda query: [answer(query, "203.0.113.1" if b"one" in query else "203.0.113.2")])
    made_queries = [dns.message.make_query(name, "A", id=7) for name in ("one.test", "two.test")]
    packets = [
        w.udp_packet(made.to_wire(), source=Endpoint(APP.address, port), destination=ASKED)
        for port, made in zip((5001, 5002), made_queries, strict=True)
    ]
    w.send(*packets)
    got = {reply.key[36:38]: dns.message.from_wire(bytes(reply.payload)) for reply in w.serve()}
    assert str(got[(5001).to_bytes(2, "big")].answer[0][0]) == "203.0.113.1"
    assert str(got[(5002).to_bytes(2, "big")].answer[0][0]) == "203.0.113.2"


def test_500_queries_at_once() -> None:
    w = DnsWorld()
    for number in range(500):
        made = dns.message.make_query(f"n{number}.test", "A", id=number)
        w.send(w.udp_packet(made.to_wire(), source=Endpoint(APP.address, 10_000 + number), destination=ASKED))
    assert w.stats.dns_pending == 500
    replies = messages(w.serve())
    assert sorted(reply.id for reply in replies) == list(range(500))
    assert all(str(reply.question[0].name) == f"n{reply.id}.test." for reply in replies)


def test_junk_to_port_53_is_judged_as_any_datagram_and_counted() -> None:
    w = DnsWorld()
    for number, junk in enumerate((b"", b"x", b"\0" * 11, b"\xff" * 40, b"hello there, general")):
        w.send(w.udp_packet(junk, source=Endpoint(APP.address, 5000 + number), destination=ASKED))
    assert w.stats.drops[DropReason.POLICY_UNTRACKED] == 5 and not w.datagrams
    header_only = b"\x12\x34\1\0" + bytes(8)
    [reply] = w.send(w.udp_packet(header_only, destination=ASKED))
    assert bytes(reply.payload) == b"\x12\x34\x81\x81" + bytes(8), "FORMERR"
    assert w.stats.drops[DropReason.DNS_MALFORMED] == 1
    assert len(w.ask(port=6000)) == 1, "and service goes on"


def test_a_large_answer_is_truncated_and_comes_whole_over_tcp() -> None:
    hosts = [f"203.0.113.{last}" for last in range(100)]
    w = DnsWorld(lambda query: [answer(query, *hosts)])
    [reply] = w.ask(ident=3)
    assert reply.flags & dns.flags.TC and not reply.answer
    client = Endpoint(APP.address, 42000)
    query = dns.message.make_query("www.example.test", "A", id=4)
    [syn_ack] = w.send(w.tcp_packet(SYN, seq=100, source=client, destination=ASKED))
    assert syn_ack.flags == SYN | ACK
    octets = frame(query.to_wire())
    out = w.send(w.tcp_packet(ACK | PSH, 101, syn_ack.seq + 1, octets, source=client, destination=ASKED))
    upstream = w.streams[0]
    assert upstream.destination == RESOLVER
    upstream.connect()
    w.run()
    reader = MessageReader()
    reader.feed(bytes(upstream.sent))
    asked = reader.next_message()
    assert asked is not None
    upstream.deliver(frame(answer(asked, *hosts)))
    out = w.run()
    received = b"".join(bytes(each.payload) for each in out if isinstance(each, Segment))
    reader = MessageReader()
    reader.feed(received)
    message = reader.next_message()
    assert message is not None
    whole = dns.message.from_wire(message)
    assert whole.id == 4 and len(whole.answer[0]) == 100
    last = syn_ack.seq + 1 + len(received)
    out = w.send(w.tcp_packet(FIN | ACK, 101 + len(octets), last, source=client, destination=ASKED))
    assert any(isinstance(each, Segment) and each.flags & FIN for each in out), "half-close is answered by a close"


def test_a_retransmitted_query_is_asked_once_and_answered_once() -> None:
    w = DnsWorld(lambda query: [])
    w.ask(ident=9)
    w.run(0.5)
    w.ask(ident=9)
    w.behave = lambda query: [answer(query, WEB.host)]
    w.run(0.6)
    assert len(messages(w.serve())) == 1
    assert w.stats.dns_queries == 1 and len([each for each in w.events if isinstance(each, QueryAnswered)]) == 1


def test_audit_reports_what_strict_would_refuse() -> None:
    w = DnsWorld(policy={"enforcement": "audit"})
    w.connect(WEB)
    w.streams[0].connect()
    w.run()
    [opened] = [each for each in w.events if each.kind == "flow_opened"]
    assert opened.verdict.would_block  # type: ignore[attr-defined]


def test_dns_only_mode_answers_and_carries_nothing_else() -> None:
    w = DnsWorld(mode="dns-only")
    assert len(w.ask()) == 1
    assert is_reset(w.connect(WEB)) and w.stats.drops[DropReason.POLICY_MODE] == 1


def test_a_new_network_asks_again() -> None:
    w = DnsWorld(lambda query: [])
    w.ask()
    w.run(0.2)
    w.behave = lambda query: [answer(query, WEB.host)]
    w.engine.network_changed(w.now)
    assert len(messages(w.serve())) == 1
