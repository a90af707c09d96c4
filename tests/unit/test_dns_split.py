"""Which resolver is asked for a name, and what happens when it does not know."""

import dns.message
import dns.rcode
import dns.rrset
import pytest

from netstack.core.errors import ConfigError
from netstack.dns.split import SplitGroup, SplitStage
from netstack.testing.world import ScriptedResolver


class Owner:
    def __init__(self) -> None:
        self.answers: dict[int, bytes] = {}
        self.failures: dict[int, str] = {}

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.answers[token] = message

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.failures[token] = why


class Office:
    """A default resolver and two internal ones."""

    def __init__(self, *, leak: bool = False, search: tuple[str, ...] = ()) -> None:
        self.public, self.corp, self.lab = ScriptedResolver(), ScriptedResolver(), ScriptedResolver()
        self.stage = SplitStage(self.public, [
            SplitGroup(resolver=self.corp, suffixes=("corp.test",), search=search, leak=leak),
            SplitGroup(resolver=self.lab, suffixes=("lab.corp.test", "10.in-addr.arpa.")),
        ])  # fmt: skip
        self.owner = Owner()
        self.stage.start(self.owner)

    def ask(self, name: str, kind: str = "A", token: int = 1) -> None:
        self.stage.query(token, dns.message.make_query(name, kind, id=token).to_wire(), 0.0)

    def asked(self) -> list[str]:
        """Who was asked."""
        each = {"public": self.public, "corp": self.corp, "lab": self.lab}
        return [name for name, resolver in each.items() if resolver.queries]

    def answer(self, resolver: ScriptedResolver, rcode: int = 0, address: str = "") -> None:
        [(token, message)] = resolver.queries.items()
        query = dns.message.from_wire(message)
        made = dns.message.make_response(query)
        made.set_rcode(rcode)
        if address:
            made.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
        resolver.answer(token, made.to_wire(), 0.0)

    def reply(self, token: int = 1) -> dns.message.Message:
        return dns.message.from_wire(self.owner.answers[token])


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("www.example.com", "public"), ("corp.test", "corp"), ("a.b.CORP.test", "corp"), ("lab.corp.test", "lab"),
        ("x.Lab.corp.test", "lab"), ("xlab.corp.test", "corp"), ("notcorp.test", "public"), ("test", "public"),
        (".", "public"), ("1.2.3.10.in-addr.arpa", "lab"),
    ],
)  # fmt: skip
def test_the_longest_suffix_wins(name: str, who: str) -> None:
    office = Office()
    office.ask(name)
    assert office.asked() == [who]


def test_an_internal_name_never_reaches_the_public_resolver() -> None:
    for rcode in (dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED):
        office = Office()
        office.ask("db.corp.test")
        office.answer(office.corp, rcode)
        assert office.reply().rcode() == rcode and office.asked() == []
    office = Office()
    office.ask("db.corp.test")
    office.corp.fail(1, "timeout", 0.0)
    assert office.owner.failures == {1: "timeout"} and office.asked() == []


def test_when_it_is_allowed_the_public_resolver_is_asked_once() -> None:
    for rcode in (dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED, None):
        office = Office(leak=True)
        office.ask("db.corp.test")
        if rcode is None:
            office.corp.fail(1, "timeout", 0.0)
        else:
            office.answer(office.corp, rcode)
        assert office.asked() == ["public"] and not office.owner.answers and not office.owner.failures
        office.answer(office.public, dns.rcode.NXDOMAIN)
        assert office.reply().rcode() == dns.rcode.NXDOMAIN and office.asked() == []
    office = Office(leak=True)
    office.ask("db.corp.test")
    office.answer(office.corp, address="10.1.2.3")
    assert office.reply().answer[0][0].address == "10.1.2.3" and office.asked() == []


def test_a_name_of_one_label_is_searched_and_answered_under_its_own_name() -> None:
    office = Office(search=("corp.test", "other.test"))
    office.ask("wiki")
    assert office.asked() == ["corp"]
    office.answer(office.corp, dns.rcode.NXDOMAIN)
    assert b"\x04wiki\x05other\x04test\0" in next(iter(office.corp.queries.values()))
    office.answer(office.corp, address="10.1.2.3")
    reply = office.reply()
    assert reply.question[0].name.to_text() == "wiki." and reply.id == 1
    assert reply.answer[0].to_text() == "wiki. 30 IN CNAME wiki.other.test."
    assert reply.answer[1].to_text() == "wiki.other.test. 60 IN A 10.1.2.3"


def test_a_name_of_one_label_stays_inside() -> None:
    office = Office(search=("corp.test",))
    office.ask("wiki")
    office.answer(office.corp, dns.rcode.NXDOMAIN)
    assert office.reply().rcode() == dns.rcode.NXDOMAIN and office.asked() == []
    assert not office.reply().answer, "no alias to a name that is not there"
    office.ask("wiki", token=2)
    office.corp.fail(next(iter(office.corp.queries)), "timeout", 0.0)
    assert office.owner.failures == {2: "timeout"} and office.asked() == []
    open_office = Office(search=("corp.test",), leak=True)
    open_office.ask("wiki")
    open_office.answer(open_office.corp, dns.rcode.NXDOMAIN)
    assert open_office.asked() == ["public"]


def test_what_is_not_searched() -> None:
    for name, kind in (("wiki", "NS"), ("localhost", "A"), ("a.b", "A"), (".", "A")):
        office = Office(search=("corp.test",))
        office.ask(name, kind)
        assert office.asked() == ["public"], name


def test_cancel_reaches_whoever_was_asked() -> None:
    office = Office(search=("corp.test",), leak=True)
    office.ask("wiki")
    office.ask("db.corp.test", token=2)
    office.ask("example.com", token=3)
    for token in (1, 2, 3):
        office.stage.cancel(token)
    assert office.asked() == [] and not office.stage._searches and not office.stage._leaky


def test_all_resolvers_are_told_of_a_change_and_closed() -> None:
    office = Office()
    office.stage.network_changed(1.0)
    office.stage.close()
    assert all(each.resets == 1 and each.closed for each in (office.public, office.corp, office.lab))


def test_a_suffix_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"split: 'a\.\.b' is not a name"):
        SplitStage(ScriptedResolver(), [SplitGroup(resolver=ScriptedResolver(), suffixes=("a..b",))])


def test_the_root_takes_all_other_names() -> None:
    default, all_names = ScriptedResolver(), ScriptedResolver()
    stage = SplitStage(default, [SplitGroup(resolver=all_names, suffixes=(".",))])
    stage.start(Owner())
    stage.query(1, dns.message.make_query("example.com", "A").to_wire(), 0.0)
    assert all_names.queries and not default.queries
