"""The blocking state: only the network check passes, and only while it lasts."""

import dns.message
import dns.rrset
import pytest

from netstack.config import ANDROID_NAMES, APPLE_NAMES, Config, DnsConfig, LimitsConfig, LockdownConfig
from netstack.core.events import LockdownChanged
from netstack.core.flow import ICMP, TCP, UDP, Endpoint, FiveTuple
from netstack.core.stats import Stats
from netstack.core.verdict import Reason, Refusal
from netstack.dns.bridge import DnsBridge
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.lockdown import Lockdown, LockdownStage
from netstack.policy.tracker import IpTracker
from netstack.testing.world import ScriptedResolver, SeededEntropy

CHECK = "captive.apple.com"


def flow(host: str, port: int = 80, protocol: int = TCP) -> FiveTuple:
    return FiveTuple(protocol, Endpoint.of("10.0.0.2", 40000), Endpoint.of(host, port))


class World:
    """Bridge, lockdown stage, scripted upstream, tracker and firewall."""

    def __init__(self, **settings) -> None:  # type: ignore[no-untyped-def]
        self.events: list[LockdownChanged] = []
        self.lockdown = Lockdown(LockdownConfig(**settings), self.events.append)  # type: ignore[arg-type]
        self.upstream = ScriptedResolver()
        config = Config()
        self.tracker = IpTracker(config.tracker)
        self.policy = FirewallPolicy(config, self.tracker)
        self.policy.use_lockdown(self.lockdown)
        stage = LockdownStage(self.upstream, self.lockdown)
        self.bridge = DnsBridge(
            stage, self.tracker, DnsConfig(), LimitsConfig(), Stats(), lambda event: None, SeededEntropy()
        )
        stage.start(self.bridge)
        self.told: list[dns.message.Message] = []
        self.passed_when_told: list[bool] = []
        self.ident = 0

    def ask(self, name: str = CHECK, kind: str = "A", now: float = 1.0) -> dns.message.Message | None:
        self.ident += 1
        before = len(self.told)
        message = dns.message.make_query(name, kind, id=self.ident, use_edns=0).to_wire()

        def reply(answer: bytes, at: float) -> None:
            self.passed_when_told.append(self.passes("17.0.0.1"))
            self.told.append(dns.message.from_wire(answer))

        self.bridge.ask(flow("10.0.0.1", 53, UDP), message, now, reply)
        return self.told[-1] if len(self.told) > before else None

    def answer(self, *addresses: str, now: float = 1.5) -> None:
        token, wire = next(iter(self.upstream.queries.items()))
        response = dns.message.make_response(dns.message.from_wire(wire))
        for address in addresses:
            kind = "AAAA" if ":" in address else "A"
            response.answer.append(dns.rrset.from_text(response.question[0].name, 60, "IN", kind, address))
        self.upstream.answer(token, response.to_wire(), now)

    def passes(self, host: str, port: int = 80, protocol: int = TCP, now: float = 2.0) -> bool:
        return self.policy.decide(flow(host, port, protocol), now).allowed

    def states(self) -> list[tuple[str, bool]]:
        return [(event.state, event.network_check) for event in self.events]


def test_open_changes_nothing() -> None:
    world = World(network_check=True)
    assert world.ask("www.test") is None
    world.answer("192.0.2.1")
    assert world.passes("192.0.2.1", 9999) and not world.passes("192.0.2.2")


def test_blocking_refuses_every_name_but_the_checks() -> None:
    world = World(network_check=True)
    world.lockdown.enter(0.0)
    for name in ("www.test", "apple.com", f"x.{CHECK}", "connectivitycheck.gstatic.com"):
        told = world.ask(name)
        assert told is not None and told.rcode() == 5 and str(told.question[0].name) == f"{name}."
    assert not world.upstream.queries
    assert world.ask(CHECK.upper()) is None and len(world.upstream.queries) == 1
    assert world.ask(CHECK, "HTTPS").rcode() == 0  # type: ignore[union-attr]
    assert len(world.upstream.queries) == 1, "no hints: only A and AAAA are resolved"


def test_its_addresses_pass_before_the_answer_leaves_on_its_ports_until_the_state_ends() -> None:
    world = World(network_check=True)
    world.lockdown.enter(0.0)
    world.ask()
    assert not world.passes("17.0.0.1")
    world.answer("17.0.0.1", "17.0.0.2")
    assert world.passed_when_told == [True]
    assert world.passes("17.0.0.1", 80) and world.passes("17.0.0.2", 443)
    assert not world.passes("17.0.0.1", 22) and not world.passes("17.0.0.1", 80, UDP)
    assert not world.passes("17.0.0.1", 80, ICMP) and not world.passes("17.0.0.3")
    assert world.passes("17.0.0.1", 80, now=100_000.0), "for as long as the state lasts"
    verdict = world.policy.decide(flow("17.0.0.1"), 2.0)
    assert verdict.reason is Reason.LOCKDOWN and CHECK in verdict.evidence
    world.lockdown.leave(3.0)
    assert not world.passes("17.0.0.1", 80, now=3.0), "the lease was the check's alone"
    world.lockdown.enter(4.0)
    assert not world.passes("17.0.0.1", 80, now=4.0)


def test_what_was_leased_before_is_leased_afterwards() -> None:
    world = World(network_check=True)
    world.ask("www.test", now=0.0)
    world.answer("192.0.2.1", "17.0.0.1", now=0.0)
    world.lockdown.enter(0.5)
    assert not world.passes("192.0.2.1")
    world.ask()
    world.answer("17.0.0.1")
    world.lockdown.leave(3.0)
    assert world.passes("192.0.2.1", now=3.0) and world.passes("17.0.0.1", now=3.0)


@pytest.mark.parametrize("settings", [{}, {"network_check": False}])
def test_without_the_check_nothing_resolves(settings: dict) -> None:  # type: ignore[type-arg]
    world = World(**settings)
    world.lockdown.enter(0.0)
    assert world.ask().rcode() == 5 and not world.upstream.queries  # type: ignore[union-attr]


def test_the_leak_free_mode_answers_a_documentation_address_and_lets_nothing_out() -> None:
    world = World(network_check=True, leak_free=True)
    world.lockdown.enter(0.0)
    told = world.ask()
    assert told is not None and not world.upstream.queries
    assert [rrset.to_text() for rrset in told.answer] == [f"{CHECK}. 3 IN A 198.51.100.1"] and told.edns == 0
    assert world.ask(kind="AAAA").answer == []  # type: ignore[union-attr]
    verdict = world.policy.decide(flow("198.51.100.1"), 2.0)
    assert not verdict.allowed and verdict.refusal is Refusal.RESET
    world.lockdown.leave(3.0)
    assert not world.passes("198.51.100.1", now=3.0)


def test_what_was_asked_before_the_blocking_is_refused_after_it_began() -> None:
    world = World(network_check=True)
    world.ask("www.test", now=0.0)
    world.lockdown.enter(0.5)
    world.answer("192.0.2.1")
    assert world.told[0].rcode() == 5 and world.tracker.lookup(Endpoint.of("192.0.2.1", 0).address, 1.0) is None


def test_the_check_switched_off_while_its_answer_is_on_the_way() -> None:
    world = World(network_check=True)
    world.lockdown.enter(0.0)
    world.ask()
    world.lockdown.reconfigure(LockdownConfig(), 1.2)
    world.answer("17.0.0.1")
    assert world.told[0].rcode() == 5 and not world.passes("17.0.0.1")
    assert world.states() == [("blocking", True), ("blocking", False)]


def test_addresses_that_may_never_be_leased_do_not_pass() -> None:
    world = World(network_check=True)
    world.lockdown.enter(0.0)
    world.ask()
    world.answer("127.0.0.1", "0.0.0.0", "169.254.0.1")
    assert not any(world.passes(host) for host in ("127.0.0.1", "0.0.0.0", "169.254.0.1"))


def test_a_failure_is_reported_once_and_not_tried_again() -> None:
    world = World(network_check=True)
    world.lockdown.fail("bind", "port 53 is in use", 0.0)
    world.lockdown.fail("bind", "port 53 is in use", 0.1)
    assert world.states() == [("failed", False)] and world.events[0].why == "bind: port 53 is in use"
    for at in (1.0, 3.0):
        world.lockdown.enter(at)
        assert world.ask(now=at).rcode() == 5 and not world.upstream.queries  # type: ignore[union-attr]
        world.lockdown.leave(at + 1)
    world.lockdown.reconfigure(LockdownConfig(network_check=False), 5.0)
    world.lockdown.reconfigure(LockdownConfig(network_check=True), 6.0)
    world.lockdown.enter(7.0)
    assert world.ask(now=7.0) is None and world.events[-1].network_check


def test_a_failure_while_blocking_shuts_the_check() -> None:
    world = World(network_check=True)
    world.lockdown.enter(0.0)
    world.ask()
    world.answer("17.0.0.1")
    world.lockdown.fail("install", "refused", 2.0)
    assert not world.passes("17.0.0.1") and world.states()[-1] == ("failed", False)


def test_enter_and_leave_are_idempotent_and_watched() -> None:
    world = World()
    changes: list[float] = []
    world.lockdown.watch(changes.append)
    world.lockdown.leave(0.0)
    world.lockdown.enter(1.0)
    world.lockdown.enter(2.0)
    world.lockdown.leave(3.0)
    assert changes == [1.0, 3.0] and world.states() == [("blocking", False), ("open", False)]


def test_other_systems_by_configuration_and_a_bound() -> None:
    world = World(network_check=True, names=(*APPLE_NAMES, *ANDROID_NAMES), ports=(80,))
    world.lockdown.enter(0.0)
    assert world.ask(ANDROID_NAMES[0]) is None
    for number in range(300):
        world.lockdown.learn("x", bytes((17, 1, number >> 8, number & 255)), 1.0)
    assert not world.passes("17.1.0.0") and world.passes("17.1.1.43") and not world.passes("17.1.1.43", 443)
