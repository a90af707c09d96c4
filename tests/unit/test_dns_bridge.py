"""Queries in, answers out: matching, leases first, time limits, caps."""

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

from netstack.config import DnsConfig, LimitsConfig
from netstack.core.drops import DropReason
from netstack.core.events import QueryAnswered, QueryFailed
from netstack.core.flow import UDP, Endpoint, FiveTuple
from netstack.core.stats import Stats
from netstack.dns.bridge import DnsBridge
from netstack.dns.stage import DROPPED
from netstack.testing.world import ScriptedResolver, SeededEntropy

GATEWAY = Endpoint.of("10.0.0.1", 53)


def flow(port: int = 40000) -> FiveTuple:
    return FiveTuple(UDP, Endpoint.of("10.0.0.2", port), GATEWAY)


class Desk:
    """A bridge, its resolver, and what came of them, in order."""

    def __init__(self, resolver=None, **limits) -> None:  # type: ignore[no-untyped-def]
        self.resolver = resolver or ScriptedResolver()
        self.stats = Stats()
        self.events: list = []
        self.log: list[tuple] = []  # leases and replies in the order in which they happened
        self.bridge = DnsBridge(
            self.resolver, self, DnsConfig(), LimitsConfig(**limits), self.stats, self.events.append,
            SeededEntropy(),
        )  # fmt: skip
        self.resolver.start(self.bridge)

    def learn(self, name, address, ttl, now, app=None):  # type: ignore[no-untyped-def]
        self.log.append(("lease", name, address))
        return True

    def ask(self, message: bytes, now: float = 0.0, *, port: int = 40000, **how) -> bool:  # type: ignore[no-untyped-def]
        return self.bridge.ask(flow(port), message, now, lambda answer, at: self.log.append((port, answer)), **how)

    def replies(self, port: int = 40000) -> list[dns.message.Message]:
        return [dns.message.from_wire(entry[1]) for entry in self.log if entry[0] == port]

    @property
    def tokens(self) -> list[int]:
        return list(self.resolver.queries)


def query(name: str = "a.test", kind: str = "A", *, ident: int = 7, **how) -> dns.message.Message:  # type: ignore[no-untyped-def]
    return dns.message.make_query(name, kind, id=ident, **how)


def answer(asked: dns.message.Message, *addresses: str, ttl: int = 60) -> dns.message.Message:
    response = dns.message.make_response(asked)
    owner = asked.question[0].name
    for address in addresses:
        response.answer.append(dns.rrset.from_text(owner, ttl, "IN", "AAAA" if ":" in address else "A", address))
    return response


def test_the_answer_leaves_after_its_addresses_are_leased() -> None:
    desk = Desk()
    asked = query()
    assert desk.ask(asked.to_wire())
    assert list(desk.resolver.queries.values()) == [asked.to_wire()]
    assert desk.stats.dns_pending == 1
    desk.resolver.answer(desk.tokens[0], answer(asked, "192.0.2.1", "192.0.2.2").to_wire(), 0.5)
    assert [entry[0] for entry in desk.log] == ["lease", "lease", 40000]
    assert desk.log[-1][1] == answer(asked, "192.0.2.1", "192.0.2.2").to_wire()
    assert (desk.stats.dns_queries, desk.stats.dns_answers, desk.stats.dns_pending) == (1, 1, 0)
    [event] = desk.events
    assert isinstance(event, QueryAnswered)
    assert (event.name, event.type, event.rcode, event.addresses, event.elapsed) == (
        "a.test", "A", "NOERROR", ("192.0.2.1", "192.0.2.2"), 0.5,
    )  # fmt: skip


def test_nxdomain_passes_with_its_authority() -> None:
    desk = Desk()
    asked = query()
    desk.ask(asked.to_wire())
    response = answer(asked)
    response.set_rcode(dns.rcode.NXDOMAIN)
    response.authority.append(
        dns.rrset.from_text(dns.name.from_text("test"), 60, "IN", "SOA", "ns.test. admin.test. 1 2 3 4 5")
    )
    desk.resolver.answer(desk.tokens[0], response.to_wire(), 0.0)
    assert desk.replies()[0].rcode() == dns.rcode.NXDOMAIN and desk.replies()[0].authority


def test_a_retransmission_is_not_asked_again() -> None:
    desk = Desk()
    asked = query().to_wire()
    assert desk.ask(asked)
    assert not desk.ask(asked, 1.0)
    assert not desk.ask(asked.replace(b"a", b"A"), 1.5), "0x20 makes no other question"
    assert len(desk.tokens) == 1 and desk.stats.dns_queries == 1
    desk.resolver.answer(desk.tokens[0], answer(query()).to_wire(), 2.0)
    assert len(desk.replies()) == 1
    assert desk.ask(asked, 3.0), "answered: a repetition is a new query"


def test_same_id_of_two_apps_and_two_questions_of_one_id() -> None:
    desk = Desk()
    desk.ask(query("one.test").to_wire(), port=1)
    desk.ask(query("two.test").to_wire(), port=2)
    desk.ask(query("three.test").to_wire(), port=1)
    first, second, third = desk.tokens
    desk.resolver.answer(third, answer(query("three.test"), "192.0.2.3").to_wire(), 0.0)
    desk.resolver.answer(second, answer(query("two.test"), "192.0.2.2").to_wire(), 0.0)
    desk.resolver.answer(first, answer(query("one.test"), "192.0.2.1").to_wire(), 0.0)
    assert [reply.answer[0][0].address for reply in desk.replies(1)] == ["192.0.2.3", "192.0.2.1"]
    assert [reply.answer[0][0].address for reply in desk.replies(2)] == ["192.0.2.2"]


def test_forged_answers_are_neither_leased_nor_forwarded() -> None:
    asked = query()
    good = answer(asked, "192.0.2.66").to_wire()
    for forged in (
        b"\xff\xff" + good[2:],
        answer(query("b.test"), "192.0.2.66").to_wire(),
        good[:2] + bytes([good[2] & 0x7F]) + good[3:],
        good[:20],
        b"",
    ):
        desk = Desk()
        desk.ask(asked.to_wire())
        desk.resolver.answer(desk.tokens[0], forged, 0.0)
        assert [entry[0] for entry in desk.log] == [40000]
        assert desk.replies()[0].rcode() == dns.rcode.SERVFAIL
        assert desk.stats.drops[DropReason.DNS_UNEXPECTED_ANSWER] == 1


def test_a_malformed_answer_becomes_servfail() -> None:
    desk = Desk()
    asked = query()
    desk.ask(asked.to_wire())
    desk.resolver.answer(desk.tokens[0], answer(asked, "192.0.2.1").to_wire()[:-1], 0.0)
    assert [entry[0] for entry in desk.log] == [40000], "nothing leased"
    assert desk.replies()[0].rcode() == dns.rcode.SERVFAIL
    assert desk.stats.drops[DropReason.DNS_MALFORMED] == 1


def test_no_answer_is_servfail_after_five_seconds() -> None:
    desk = Desk()
    desk.ask(query(ident=1).to_wire(), 10.0)
    desk.ask(query(ident=2).to_wire(), 12.0)
    assert desk.bridge.next_timeout() == 15.0
    desk.bridge.on_timeout(15.0)
    assert [(reply.id, reply.rcode()) for reply in desk.replies()] == [(1, dns.rcode.SERVFAIL)]
    assert desk.tokens == [2], "the first one is cancelled upstream"
    assert desk.bridge.next_timeout() == 17.0
    [event] = desk.events
    assert isinstance(event, QueryFailed) and event.why == "timeout"
    assert desk.stats.dns_failures == 1


def test_an_answer_after_the_limit_is_counted_and_leases_nothing() -> None:
    desk = Desk()
    desk.ask(query().to_wire())
    token = desk.tokens[0]
    desk.bridge.on_timeout(5.0)
    desk.bridge.on_answer(token, answer(query(), "192.0.2.1").to_wire(), 5.1)
    assert [entry[0] for entry in desk.log] == [40000]
    assert desk.stats.drops[DropReason.DNS_LATE_ANSWER] == 1


def test_a_failure_of_the_resolver_is_servfail_at_once() -> None:
    desk = Desk()
    desk.ask(query().to_wire())
    desk.resolver.fail(desk.tokens[0], "refused", 0.1)
    assert desk.replies()[0].rcode() == dns.rcode.SERVFAIL
    assert isinstance(desk.events[0], QueryFailed) and desk.events[0].why == "refused"


def test_a_resolver_that_fails_inside_query() -> None:
    desk = Desk()
    desk.resolver.query = lambda token, message, now, over_tcp=False: desk.bridge.on_failure(token, "protect", now)  # type: ignore[method-assign]
    assert desk.ask(query().to_wire())
    assert desk.replies()[0].rcode() == dns.rcode.SERVFAIL and len(desk.bridge) == 0


def test_the_table_is_capped() -> None:
    desk = Desk(dns_pending=3)
    for ident in range(5):
        desk.ask(query(ident=ident).to_wire())
    assert len(desk.tokens) == 3
    assert [(reply.id, reply.rcode()) for reply in desk.replies()] == [(3, 2), (4, 2)]
    assert desk.stats.drops[DropReason.DNS_TABLE_FULL] == 2


def test_500_at_once_in_any_order() -> None:
    desk = Desk()
    for port in range(500):
        desk.ask(query(f"n{port}.test").to_wire(), port=port)
    for token in reversed(desk.tokens):
        asked = dns.message.from_wire(desk.resolver.queries[token])
        desk.resolver.answer(token, answer(asked, "192.0.2.1").to_wire(), 1.0)
    assert all(str(desk.replies(port)[0].question[0].name) == f"n{port}.test." for port in range(500))
    assert len(desk.bridge) == 0 and desk.bridge.next_timeout() is None


def big(asked: dns.message.Message, count: int = 60) -> bytes:
    response = answer(asked, *[f"198.51.100.{last}" for last in range(count)])
    return response.to_wire(max_size=65_535)


def test_truncation_by_what_the_client_takes() -> None:
    cases = [
        ({}, {}, 512),  # no EDNS
        ({"use_edns": 0, "payload": 900}, {}, 900),
        ({"use_edns": 0, "payload": 4096}, {}, 1232),  # the configuration's limit
        ({"use_edns": 0, "payload": 4096}, {"udp_limit": 552}, 552),  # a small MTU
    ]
    for edns, how, limit in cases:
        asked = query(**edns)
        for count in (limit - 40) // 16 - 1, (limit - 40) // 16 + 3:
            desk = Desk()
            desk.ask(asked.to_wire(), **how)
            wire = big(asked, count)
            desk.resolver.answer(desk.tokens[0], wire, 0.0)
            reply = desk.replies()[0]
            assert bool(reply.flags & dns.flags.TC) == (len(wire) > limit)
            assert bool(reply.answer) == (len(wire) <= limit)
            assert reply.question == asked.question
            assert sum(entry[0] == "lease" for entry in desk.log) == count, "leased, for it will be asked over TCP"


def test_nothing_is_cut_over_tcp() -> None:
    desk = Desk()
    asked = query()
    desk.ask(asked.to_wire(), over_tcp=True)
    desk.resolver.answer(desk.tokens[0], big(asked, 200), 0.0)
    assert len(desk.replies()[0].answer[0]) == 200


def test_upstreams_tc_reaches_the_client_without_records() -> None:
    desk = Desk()
    asked = query()
    desk.ask(asked.to_wire())
    response = answer(asked, "192.0.2.1")
    response.flags |= dns.flags.TC
    desk.resolver.answer(desk.tokens[0], response.to_wire(), 0.0)
    assert desk.replies()[0].flags & dns.flags.TC and not desk.replies()[0].answer


def test_queries_that_cannot_be_asked() -> None:
    desk = Desk()
    assert desk.ask(b"\x12\x34\1\0" + bytes(8))
    assert desk.log[-1][1] == b"\x12\x34\x81\x81" + bytes(8), "FORMERR"
    assert desk.ask(b"\x12\x34\x28\0\0\1" + bytes(6) + b"\1a\0\0\1\0\1")
    assert desk.log[-1][1][3] & 0xF == dns.rcode.NOTIMP
    assert not desk.ask(b"abc")
    assert not desk.ask(answer(query()).to_wire()), "a response is never answered"
    assert desk.stats.drops == {DropReason.DNS_MALFORMED: 3, DropReason.DNS_UNEXPECTED_ANSWER: 1}
    assert not desk.tokens


def test_a_query_that_is_larger_than_any_has_to_be_is_not_kept() -> None:
    import dns.edns

    desk = Desk()
    for size, taken in ((1900, 1), (60_000, 0)):
        asked = query(options=[dns.edns.GenericOption(12, bytes(size))])
        assert desk.ask(asked.to_wire(max_size=65_535), over_tcp=True)
        assert len(desk.tokens) == taken
        desk.resolver.queries.clear()
    assert desk.replies()[-1].rcode() == dns.rcode.FORMERR and desk.stats.drops == {DropReason.DNS_MALFORMED: 1}


class Judging(ScriptedResolver):
    """A resolver that is told of flows, and drops what comes from port 666."""

    def query_of(self, token, query, flow, now, over_tcp):  # type: ignore[no-untyped-def]
        if flow.source.port == 666:
            self._owner.on_failure(token, DROPPED, now)
        else:
            self.query(token, query.message, now, over_tcp)


def test_a_resolver_that_judges_is_told_the_flow_and_may_drop() -> None:
    desk = Desk(Judging())
    assert not desk.ask(query().to_wire(), port=666)
    assert not desk.log and not desk.events and not len(desk.bridge) and desk.stats.dns_failures == 0
    assert desk.ask(query().to_wire()) and len(desk.tokens) == 1
    desk.resolver.fail(desk.tokens[0], DROPPED, 1.0)
    assert not desk.log and not len(desk.bridge)


def test_reconfigure_and_network_change_leave_pending_queries_alone() -> None:
    desk = Desk()
    desk.ask(query(ident=1).to_wire())
    desk.bridge.network_changed(1.0)
    desk.bridge.reconfigure(DnsConfig(timeout=2.0), LimitsConfig(dns_pending=1))
    desk.ask(query(ident=2).to_wire(), 1.0)
    assert [reply.id for reply in desk.replies()] == [2], "the new cap"
    assert desk.bridge.next_timeout() == 5.0


def test_a_shorter_time_limit_is_kept_behind_queries_with_a_longer_one() -> None:
    desk = Desk()
    desk.ask(query(ident=1).to_wire(), 0.0)
    desk.bridge.reconfigure(DnsConfig(timeout=2.0), LimitsConfig())
    desk.ask(query(ident=2).to_wire(), 1.0)
    assert desk.bridge.next_timeout() == 3.0
    desk.bridge.on_timeout(3.0)
    assert [reply.id for reply in desk.replies()] == [2] and desk.bridge.next_timeout() == 5.0
    desk.bridge.on_timeout(5.0)
    assert [reply.id for reply in desk.replies()] == [2, 1] and desk.bridge.next_timeout() is None


def test_another_resolver_gets_what_comes_and_the_old_one_answers_what_it_was_asked() -> None:
    desk, successor = Desk(), ScriptedResolver()
    asked = query(ident=1)
    desk.ask(asked.to_wire(), 0.0)
    desk.bridge.use_resolver(successor, 1.0)
    desk.ask(query(ident=2).to_wire(), 1.0)
    assert len(desk.resolver.queries) == len(successor.queries) == 1
    desk.resolver.answer(desk.tokens[0], answer(asked, "192.0.2.1").to_wire(), 2.0)
    assert [reply.id for reply in desk.replies()] == [1]
    desk.bridge.network_changed(2.0)
    assert desk.resolver.resets == 1 and not desk.resolver.closed
    desk.bridge.on_timeout(6.0)
    assert desk.resolver.closed and not successor.closed
    assert [reply.rcode() for reply in desk.replies()] == [0, dns.rcode.SERVFAIL]
    desk.bridge.use_resolver(ScriptedResolver(), 7.0)
    desk.bridge.close()
    assert successor.closed


def test_what_is_pending_can_be_refused_at_once() -> None:
    desk, successor = Desk(), ScriptedResolver()
    desk.ask(query(ident=1).to_wire(), 0.0)
    desk.bridge.use_resolver(successor, 1.0)
    desk.ask(query(ident=2).to_wire(), 1.0)
    desk.bridge.refuse_pending(2.0)
    assert [(reply.id, reply.rcode()) for reply in desk.replies()] == [(1, dns.rcode.REFUSED), (2, dns.rcode.REFUSED)]
    assert not len(desk.bridge) and not desk.resolver.queries and not successor.queries, "and nobody asks any more"


class Cached(ScriptedResolver):
    """Answers at once, with what a test says, under the query's id."""

    def __init__(self) -> None:
        super().__init__()
        self.says = b""

    def start(self, owner):  # type: ignore[no-untyped-def]
        self.owner = owner

    def query(self, token, message, now, over_tcp=False):  # type: ignore[no-untyped-def]
        self.owner.on_answer(token, message[:2] + self.says[2:], now)


def test_an_answer_that_is_repeated_is_leased_again_and_has_each_askers_id() -> None:
    desk = Desk(Cached())
    desk.resolver.says = answer(query(), "192.0.2.1").to_wire()
    for ident in (1, 2, 3):
        desk.log.clear()
        assert desk.ask(query(ident=ident).to_wire())
        assert [entry[0] for entry in desk.log] == ["lease", 40000] and desk.replies()[0].id == ident
    desk.log.clear()
    desk.resolver.says = answer(query(), "192.0.2.2").to_wire()
    assert desk.ask(query(ident=4).to_wire())
    assert desk.log[0] == ("lease", "a.test", b"\xc0\0\2\2") and str(desk.replies()[0].answer[0][0]) == "192.0.2.2"


def test_what_is_wrong_is_seen_behind_an_answer_that_was_right() -> None:
    desk = Desk(Cached())
    good = answer(query(), "192.0.2.1").to_wire()
    desk.resolver.says = good
    assert desk.ask(query(ident=1).to_wire()) and desk.ask(query(ident=2).to_wire())
    for bad, reason in (
        (good[:-1], DropReason.DNS_MALFORMED),
        (good[:13] + b"b" + good[14:], DropReason.DNS_UNEXPECTED_ANSWER),
        (good[:2] + b"\0" + good[3:], DropReason.DNS_UNEXPECTED_ANSWER),
    ):
        desk.log.clear()
        desk.stats.drops.clear()
        desk.resolver.says = bad
        assert desk.ask(query(ident=3).to_wire())
        assert desk.stats.drops == {reason: 1}
        assert [entry[0] for entry in desk.log] == [40000], "nothing is leased"
        assert desk.replies()[0].rcode() == dns.rcode.SERVFAIL


def test_an_answer_under_another_id_is_none_although_its_octets_are_known() -> None:
    class Wrong(Cached):
        def query(self, token, message, now, over_tcp=False):  # type: ignore[no-untyped-def]
            self.owner.on_answer(token, self.says, now)

    desk = Desk(Wrong())
    desk.resolver.says = answer(query(ident=1), "192.0.2.1").to_wire()
    assert desk.ask(query(ident=1).to_wire()) and desk.ask(query(ident=2).to_wire())
    assert [message.rcode() for message in desk.replies()] == [dns.rcode.NOERROR, dns.rcode.SERVFAIL]


def test_what_is_remembered_of_repeated_answers_is_bounded() -> None:
    desk = Desk(Cached())
    for number in range(1500):
        asked = query(f"n{number}.test")
        desk.resolver.says = answer(asked, "192.0.2.1").to_wire()
        desk.ask(asked.to_wire())
    assert len(desk.bridge._repeated) == 1024
    assert desk.ask(query("n1499.test", ident=8).to_wire()) and len(desk.bridge._repeated) == 1024


def test_the_limit_of_a_client_is_its_own_although_the_answer_is_known() -> None:
    desk = Desk(Cached())
    small, large = query(use_edns=False), query(use_edns=0, payload=1232)
    for asked, cut in ((large, False), (small, True), (large, False), (small, True)):
        desk.resolver.says = answer(asked, *(f"192.0.2.{number}" for number in range(60))).to_wire()
        desk.log.clear()
        desk.ask(asked.to_wire())
        assert bool(desk.replies()[0].flags & dns.flags.TC) is cut
