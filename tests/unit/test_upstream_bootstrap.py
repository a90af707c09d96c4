"""Names of upstreams, resolved through bootstrap addresses only."""

import dns.message
import dns.rdatatype
import dns.rrset

from netstack.core.flow import Endpoint
from netstack.testing.world import ScriptedDialer, SeededEntropy
from netstack.upstream.bootstrap import TTL_LEAST, Bootstrap, Location
from netstack.upstream.url import parse_upstream

SERVER = Endpoint.of("192.0.2.1", 53)


class Desk:
    """A bootstrap whose server answers from a table."""

    def __init__(self) -> None:
        self.dialer = ScriptedDialer()
        self.bootstrap = Bootstrap(self.dialer, ["192.0.2.1"], SeededEntropy())
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 300
        self.got: list[tuple[str, ...]] = []
        self.now = 0.0
        self.seen = 0

    def resolve(self, name: str = "dns.test") -> None:
        self.bootstrap.resolve(
            name, self.now, lambda found, now: self.got.append(tuple(Endpoint(each, 1).host for each in found))
        )

    def sent(self) -> list[tuple[object, bytes]]:
        everything = [(socket, message) for socket in self.dialer.datagrams for message, _ in socket.sent]
        assert all(to == SERVER for socket in self.dialer.datagrams for _, to in socket.sent)
        fresh, self.seen = everything[self.seen :], len(everything)
        return fresh

    def answer(self, rcode: int = 0) -> int:
        """Answer what was asked since last time; how many queries that were."""
        fresh = self.sent()
        for socket, message in fresh:
            query = dns.message.from_wire(message)
            made = dns.message.make_response(query)
            made.set_rcode(rcode)
            question = query.question[0]
            kind = dns.rdatatype.to_text(question.rdtype)
            for each in self.records.get((str(question.name)[:-1], kind), []):
                made.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, each))
            socket.incoming.append((made.to_wire(), SERVER))
            socket.owner.on_readable(socket, self.now)
        return len(fresh)

    def run(self, until: float) -> None:
        while (at := self.bootstrap.next_timeout()) is not None and at <= until:
            self.now = at
            self.bootstrap.on_timeout(at)
        self.now = until


def test_both_families_and_the_cache() -> None:
    desk = Desk()
    desk.records = {("dns.test", "A"): ["192.0.2.7", "192.0.2.8"], ("dns.test", "AAAA"): ["2001:db8::7"]}
    desk.resolve()
    desk.resolve()
    assert desk.answer() == 2, "one query for each family, however many wait"
    assert desk.got == [("192.0.2.7", "192.0.2.8")] * 2, "IPv4 is enough to begin with"
    desk.now = 299.0
    desk.resolve()
    assert desk.answer() == 0 and desk.got[2] == ("192.0.2.7", "192.0.2.8", "2001:db8::7")
    desk.now = 301.0
    desk.resolve()
    assert desk.answer() == 2


def test_short_times_are_lengthened() -> None:
    desk = Desk()
    desk.records, desk.ttl = {("dns.test", "A"): ["192.0.2.7"]}, 0
    desk.resolve()
    desk.answer()
    desk.now = TTL_LEAST - 1
    desk.resolve()
    assert desk.answer() == 0 and len(desk.got) == 2


def test_ipv6_alone_and_nothing_at_all() -> None:
    desk = Desk()
    desk.records = {("dns.test", "AAAA"): ["2001:db8::7"]}
    desk.resolve()
    desk.answer()
    assert desk.got == [("2001:db8::7",)]
    desk.resolve("nowhere.test")
    desk.answer(rcode=3)
    assert desk.got[1] == ()


def test_silence_ends_and_old_addresses_serve_meanwhile() -> None:
    desk = Desk()
    desk.resolve()
    desk.run(6.0)
    assert desk.got == [()]
    desk.records = {("dns.test", "A"): ["192.0.2.7"]}
    desk.sent()
    desk.resolve()
    desk.answer()
    assert desk.got[-1] == ("192.0.2.7",)
    desk.now = 1000.0
    desk.resolve()
    desk.run(1010.0)
    assert desk.got[-1] == ("192.0.2.7",), "stale, but better than nothing"


def test_a_new_network_asks_again() -> None:
    desk = Desk()
    desk.records = {("dns.test", "A"): ["192.0.2.7"]}
    desk.resolve()
    desk.sent()
    desk.bootstrap.network_changed(1.0)
    assert desk.answer() == 2 and desk.got == [("192.0.2.7",)]
    desk.bootstrap.close()
    assert all(socket.closed for socket in desk.dialer.datagrams)


def test_closing_in_the_middle_leaves_it_usable() -> None:
    desk = Desk()
    desk.records = {("dns.test", "A"): ["192.0.2.7"]}
    desk.resolve()
    desk.sent()
    desk.bootstrap.close()
    desk.resolve()
    assert desk.answer() == 2 and desk.got == [("192.0.2.7",)]


def located(location: Location, now: float = 0.0) -> list[str]:
    got: list[str] = []
    location.locate(now, lambda endpoint, at: got.append(str(endpoint)))
    return got


def test_a_location_that_is_an_address() -> None:
    location = Location(parse_upstream("tls://192.0.2.9"))
    assert located(location) == ["192.0.2.9:853"] and location.count == 1
    location.failed(0.0)
    location.network_changed(0.0)
    assert located(location) == ["192.0.2.9:853"] and location.next_timeout() is None


def test_a_location_that_is_a_name_turns_to_the_next_address() -> None:
    desk = Desk()
    desk.records = {("dns.test", "A"): ["192.0.2.7", "192.0.2.8"]}
    location = Location(parse_upstream("tls://dns.test"), desk.bootstrap)
    got = []
    location.locate(0.0, lambda endpoint, now: got.append(str(endpoint)))
    assert not got
    desk.answer()
    assert got == ["192.0.2.7:853"] and location.count == 2
    location.failed(0.0)
    assert located(location) == ["192.0.2.8:853"]
    location.failed(10.0)
    desk.records = {("dns.test", "A"): ["192.0.2.99"]}
    location.locate(10.0, lambda endpoint, now: got.append(str(endpoint)))
    assert desk.answer() == 2, "both failed: the name is asked anew"
    assert got[-1] == "192.0.2.99:853"
