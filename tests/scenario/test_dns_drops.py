"""Dropping and postponing DNS queries selectively, through a whole engine.

Each test is one statement of the design note on selective DNS filtering: what a filter built on sockets cannot do,
because a dropped query there kills the socket that sent it.
"""

from collections.abc import Mapping

import dns.message
import dns.rcode
import dns.rrset
import pytest

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.events import FlowClosed, QueryJudged
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Datagram, Segment
from netstack.dns.framing import MessageReader, frame
from netstack.dns.rules import Rule, RuleSettings, RuleStage
from netstack.engine import Engine
from netstack.testing.world import APP, SeededEntropy, World

A = Endpoint.of("192.0.2.53", 53)
B = Endpoint.of("198.51.100.53", 53)
SOCKET = Endpoint(APP.address, 5353)
DENY = Rule(action="drop", names=("denied.test",))
HOLD = Rule(action="postpone", names=("held.test",))


class Apps:
    """Who owns which local port; counts how often it is asked."""

    def __init__(self, ports: Mapping[int, str]) -> None:
        self.ports = ports
        self.asked = 0

    def owner_of(self, flow):  # type: ignore[no-untyped-def]
        self.asked += 1
        return self.ports.get(flow.source.port)


class Filtered(World):
    """A world whose resolver judges by `rules`; upstream answers when told."""

    def __init__(self, *rules: Rule, apps: Apps | None = None, **settings) -> None:  # type: ignore[no-untyped-def]
        super().__init__(make_config({"policy": {"enforcement": "off"}}))
        self.rules = RuleStage(
            self.resolver, RuleSettings(rules=rules, **settings), stats=self.stats, emit=self.events.append, apps=apps
        )
        self.engine = Engine(
            self.config, tunnel=self.tunnel, codec=self.codec, dialer=self.dialer, resolver=self.rules,
            entropy=SeededEntropy(), emit=self.events.append, stats=self.stats,
        )  # fmt: skip

    def ask(  # type: ignore[no-untyped-def]
        self, name: str, ident: int = 1, *, source: Endpoint = SOCKET, server: Endpoint = A, kind: str = "A"
    ):
        """The app's socket sends a query; the packets that come back by themselves."""
        query = dns.message.make_query(name, kind, id=ident).to_wire()
        return self.send(self.udp_packet(query, source=source, destination=server))

    def serve(self) -> list[Datagram]:
        """Upstream answers everything; the datagrams that the app gets."""
        for token, message in list(self.resolver.queries.items()):
            query = dns.message.from_wire(message)
            answer = dns.message.make_response(query)
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "203.0.113.7"))
            self.resolver.answer(token, answer.to_wire(), self.now)
        self.engine.flush(self.now)
        return [packet for packet in self.run() if isinstance(packet, Datagram)]

    def answered(self, name: str, ident: int = 1, **how) -> bool:  # type: ignore[no-untyped-def]
        """Whether a query is answered with the upstream's address."""
        assert self.ask(name, ident, **how) == []
        replies = [dns.message.from_wire(bytes(reply.payload)) for reply in self.serve()]
        return [(reply.id, bool(reply.answer)) for reply in replies] == [(ident, True)]

    def change(self, *rules: Rule) -> None:
        self.rules.reconfigure(RuleSettings(rules=rules), self.now)

    def asked_upstream(self) -> list[tuple[int, str]]:
        queries = [dns.message.from_wire(message) for message in self.resolver.queries.values()]
        return [(query.id, query.question[0].name.to_text()) for query in queries]


def test_one_socket_sends_a_denied_query_and_then_an_allowed_one() -> None:
    w = Filtered(DENY)
    assert w.ask("denied.test") == [] and not w.resolver.queries
    assert w.answered("allowed.test", 2)


@pytest.mark.parametrize("drops", [1, 15, 1000])
def test_after_many_drops_the_socket_still_works(drops: int) -> None:
    w = Filtered(DENY)
    for ident in range(drops):
        assert w.ask("denied.test", ident) == []
    assert w.stats.drops[DropReason.POLICY_RULE] == drops
    assert w.answered("allowed.test", 4000)
    assert w.answered("allowed.test", 4001)


def test_dropping_towards_one_server_does_not_touch_the_other() -> None:
    w = Filtered(Rule(action="drop", servers=(A.host,)))
    for ident in range(20):
        assert w.ask("name.test", ident, server=A) == []
        assert w.answered("name.test", 1000 + ident, server=B)
    assert w.stats.drops[DropReason.POLICY_RULE] == 20


def test_drop_injects_nothing_and_keeps_nothing() -> None:
    w = Filtered(DENY)
    assert w.ask("denied.test") == []
    assert w.run(30.0) == [], "no answer, no ICMP error, no SERVFAIL when the query's time would be over"
    assert w.stats.dns_pending == 0 and w.stats.dns_failures == 0 and w.stats.udp_sessions == 0
    assert not w.datagrams and not w.streams


@pytest.mark.parametrize(
    ("action", "rcode", "answers"),
    [
        ("refused", dns.rcode.REFUSED, []), ("nxdomain", dns.rcode.NXDOMAIN, []), ("nodata", dns.rcode.NOERROR, []),
        ("sinkhole", dns.rcode.NOERROR, ["denied.test. 10 IN A 0.0.0.0"]),
    ],
)  # fmt: skip
def test_what_is_injected_is_an_action_of_its_own(action: str, rcode: int, answers: list[str]) -> None:
    w = Filtered(Rule(action=action, names=("denied.test",)))
    [reply] = w.ask("denied.test", 9)
    message = dns.message.from_wire(bytes(reply.payload))
    assert (message.id, message.rcode()) == (9, rcode)
    assert [rrset.to_text() for rrset in message.answer] == answers
    assert reply.key[18:22] == APP.address and reply.key[2:6] == A.address, "from the server that was asked"
    assert w.answered("allowed.test", 10)


def test_a_postponed_query_leaves_unmodified_after_its_time() -> None:
    w = Filtered(HOLD, postpone=2.0)
    query = dns.message.make_query("held.test", "A", id=77, use_edns=0, payload=1400, want_dnssec=True).to_wire()
    w.send(w.udp_packet(query, source=SOCKET, destination=A))
    w.run(1.99)
    assert not w.resolver.queries
    w.run(0.02)
    assert list(w.resolver.queries.values()) == [query]
    assert len(w.serve()) == 1


def test_postponed_queries_leave_in_their_order() -> None:
    w = Filtered(HOLD)
    for ident in range(5):
        w.ask(f"n{ident}.held.test", ident)
        w.run(0.1)
    w.run(2.5)
    assert w.asked_upstream() == [(ident, f"n{ident}.held.test.") for ident in range(5)]


def test_a_policy_change_releases_at_once_and_in_order() -> None:
    w = Filtered(HOLD)
    for ident in range(3):
        w.ask(f"n{ident}.held.test", ident)
    w.run(0.5)
    w.change()
    assert w.asked_upstream() == [(ident, f"n{ident}.held.test.") for ident in range(3)]
    assert len(w.serve()) == 3 and w.rules.held == 0


def test_a_policy_change_may_also_end_what_was_held() -> None:
    w = Filtered(HOLD)
    w.ask("held.test", 1)
    w.change(Rule(action="nxdomain", names=("held.test",)))
    w.engine.flush(w.now)
    [reply] = w.run()
    assert dns.message.from_wire(bytes(reply.payload)).rcode() == dns.rcode.NXDOMAIN
    w.change(HOLD)
    w.ask("held.test", 2)
    w.change(Rule(action="drop", names=("held.test",)))
    assert w.run(10.0) == [] and w.stats.dns_pending == 0


def test_a_change_that_still_postpones_does_not_make_it_longer() -> None:
    w = Filtered(HOLD, postpone=2.0)
    w.ask("held.test")
    w.run(1.5)
    w.change(HOLD, DENY)
    w.run(0.4)
    assert not w.resolver.queries
    w.run(0.2)
    assert len(w.resolver.queries) == 1


def test_a_postponed_query_delays_nobody_else() -> None:
    w = Filtered(HOLD)
    for ident in range(100):
        w.ask(f"n{ident}.held.test", ident)
    before = w.now
    assert w.answered("allowed.test", 500), "the same socket"
    assert w.answered("allowed.test", 501, source=Endpoint(APP.address, 6000))
    assert w.now == before and w.rules.held == 100


def test_duplicates_of_a_held_query_coalesce() -> None:
    w = Filtered(HOLD)
    for _ in range(5):  # a stub that retransmits
        assert w.ask("held.test", 3) == []
        w.run(0.3)
    w.run(1.0)
    assert w.asked_upstream() == [(3, "held.test.")]
    assert len(w.serve()) == 1


def test_a_query_that_nobody_answers_after_its_hold_still_ends_within_five_seconds() -> None:
    w = Filtered(HOLD)
    w.ask("held.test", 3)
    [reply] = w.run(5.0)
    assert dns.message.from_wire(bytes(reply.payload)).rcode() == dns.rcode.SERVFAIL
    assert w.rules.held == 0 and not w.resolver.queries


@pytest.mark.parametrize(
    ("rule", "denied", "allowed"),
    [
        (Rule(action="drop", names=("denied.test",)), {"name": "x.denied.test"}, {"name": "undenied.test"}),
        (Rule(action="drop", types=("AAAA",)), {"name": "a.test", "kind": "AAAA"}, {"name": "a.test"}),
        (Rule(action="drop", servers=(B.host,)), {"name": "a.test", "server": B}, {"name": "a.test"}),
        (Rule(action="drop", apps=("org.browser",)), {"name": "a.test"},
         {"name": "a.test", "source": Endpoint(APP.address, 7001)}),
    ],
)  # fmt: skip
def test_a_verdict_may_use_name_type_server_and_app(rule: Rule, denied: dict, allowed: dict) -> None:  # type: ignore[type-arg]
    w = Filtered(rule, apps=Apps({SOCKET.port: "org.browser", 7001: "org.mail"}))
    assert w.ask(**denied) == [] and not w.resolver.queries
    assert w.answered(ident=2, **allowed)


def test_allowed_is_a_domain_or_an_app() -> None:
    apps = Apps({7001: "org.updater", 7002: "org.game"})
    rules = (Rule(action="allow", names=("allowed.test",), apps=("org.updater",), match="any"), Rule(action="drop"))
    w = Filtered(*rules, apps=apps)
    updater, game = Endpoint(APP.address, 7001), Endpoint(APP.address, 7002)
    assert w.answered("any.test", 1, source=updater), "by its app"
    assert w.answered("allowed.test", 2, source=game), "by its name"
    assert w.ask("any.test", 3, source=game) == [] and not w.resolver.queries


def test_an_unknown_app_has_its_own_verdict() -> None:
    rules = (Rule(action="refused", apps=("?",)), Rule(action="drop", apps=("org.game",)))
    w = Filtered(*rules, apps=Apps({7001: "org.mail", 7002: "org.game"}))
    [reply] = w.ask("a.test", 1, source=Endpoint(APP.address, 7003))
    assert dns.message.from_wire(bytes(reply.payload)).rcode() == dns.rcode.REFUSED
    assert w.ask("a.test", 2, source=Endpoint(APP.address, 7002)) == [] and not w.resolver.queries
    assert w.answered("a.test", 3, source=Endpoint(APP.address, 7001))


def test_the_app_is_looked_up_once_for_each_flow() -> None:
    apps = Apps({SOCKET.port: "org.game"})
    w = Filtered(Rule(action="drop", names=("never.test",), apps=("org.game",)), apps=apps)
    w.answered("other.test", 1)
    assert apps.asked == 0, "a rule that does not fit by name asks nobody"
    for ident in range(50):
        w.ask("never.test", ident)
    assert apps.asked == 1
    w.ask("never.test", 99, source=Endpoint(APP.address, 7777))
    w.ask("never.test", 99, source=SOCKET, server=B)
    assert apps.asked == 3


def test_a_reload_and_a_mode_switch_cut_no_live_flow() -> None:
    w = Filtered(DENY)
    w.send(w.tcp_packet(SYN, seq=100))
    w.streams[0].connect()
    [syn_ack] = w.run()
    assert isinstance(syn_ack, Segment)
    w.send(w.tcp_packet(ACK, 101, syn_ack.seq + 1))
    w.ask("slow.test", 5)
    w.change(DENY, HOLD)
    w.rules.reload(w.now)
    w.engine.reconfigure(make_config({"mode": "dns-only"}), w.now)
    w.engine.reconfigure(w.config, w.now)
    assert len(w.serve()) == 1, "the query that was under way is answered"
    w.send(w.tcp_packet(ACK | PSH, 101, syn_ack.seq + 1, b"still here"))
    assert bytes(w.streams[0].sent) == b"still here"
    assert not any(isinstance(event, FlowClosed) for event in w.events)


def test_drops_over_tcp_keep_the_connection() -> None:
    w = Filtered(DENY)
    source = Endpoint(APP.address, 7100)
    [syn_ack] = w.send(w.tcp_packet(SYN, 100, source=source, destination=A))
    queries = [dns.message.make_query("denied.test", "A", id=ident).to_wire() for ident in range(200)]
    queries.append(dns.message.make_query("allowed.test", "A", id=999).to_wire())
    at, octets = 101, b"".join(map(frame, queries))
    for start in range(0, len(octets), 1200):
        part = octets[start : start + 1200]
        w.send(w.tcp_packet(ACK | PSH, at, syn_ack.seq + 1, part, source=source, destination=A))
        at += len(part)
    assert w.asked_upstream() == [(999, "allowed.test.")]
    [token] = w.resolver.queries
    made = dns.message.make_response(dns.message.from_wire(w.resolver.queries[token]))
    w.resolver.answer(token, made.to_wire(), w.now)
    reader = MessageReader()
    for packet in w.run(0.1):
        reader.feed(bytes(packet.payload))
    message = reader.next_message()
    assert message is not None and dns.message.from_wire(message).id == 999 and reader.next_message() is None


def test_a_held_query_that_is_to_be_dropped_after_all_gets_nothing_over_tcp_and_the_connection_stays() -> None:
    w = Filtered(HOLD)
    source = Endpoint(APP.address, 7100)
    [syn_ack] = w.send(w.tcp_packet(SYN, 100, source=source, destination=A))
    query = frame(dns.message.make_query("held.test", "A", id=5).to_wire())
    w.send(w.tcp_packet(ACK | PSH, 101, syn_ack.seq + 1, query, source=source, destination=A))
    w.change(Rule(action="drop", names=("held.test",)))
    assert not any(packet.payload for packet in w.run(0.1)) and w.stats.drops[DropReason.POLICY_RULE] == 1
    assert not any(packet.payload or packet.flags & RST for packet in w.run(6.0)), "no time limit answers it either"
    more = frame(dns.message.make_query("allowed.test", "A", id=6).to_wire())
    at = 101 + len(query)
    w.send(w.tcp_packet(ACK | PSH, at, syn_ack.seq + 1, more, source=source, destination=A))
    assert w.asked_upstream() == [(6, "allowed.test.")]
    w.change(Rule(action="postpone", names=("late.test",)))
    late = frame(dns.message.make_query("late.test", "A", id=7).to_wire())
    fin = w.tcp_packet(ACK | PSH | FIN, at + len(more), syn_ack.seq + 1, late, source=source, destination=A)
    [token] = w.resolver.queries
    made = dns.message.make_response(dns.message.from_wire(w.resolver.queries[token]))
    w.resolver.answer(token, made.to_wire(), w.now)
    w.send(fin)
    w.change(Rule(action="drop", names=("late.test",)))
    assert any(packet.flags & FIN for packet in w.run(0.1)), "nothing is waited for: the app's FIN is answered"


def test_every_verdict_is_told() -> None:
    w = Filtered(Rule(action="drop", names=("denied.test",), label="work hours"))
    w.ask("denied.test")
    [event] = [each for each in w.events if isinstance(each, QueryJudged)]
    assert event.line() == "[DNS] DROP denied.test A: work hours" and event.flow.source == SOCKET
