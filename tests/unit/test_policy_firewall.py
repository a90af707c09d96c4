"""Verdicts, their order and their evidence."""

from dataclasses import replace

import pytest

from netstack.config import Config, LockdownConfig, make_config
from netstack.core.flow import ICMP, TCP, UDP, Endpoint, FiveTuple
from netstack.core.verdict import Action, Reason, Refusal
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.lockdown import Lockdown
from netstack.policy.tracker import IpTracker

INITIAL = b"\xc3\0\0\0\1\x08" + bytes(range(8)) + b"\0\0\x44\x9e" + b"\x55" * 1182
STUN = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(range(12))


def flow(host: str, port: int = 443, protocol: int = TCP) -> FiveTuple:
    source = "fd00::2" if ":" in host else "10.0.0.2"
    return FiveTuple(protocol, Endpoint.of(source, 40000), Endpoint.of(host, port))


def firewall(mode: str = "firewall", **policy) -> FirewallPolicy:  # type: ignore[no-untyped-def]
    config = make_config({"mode": mode, "policy": policy})
    return FirewallPolicy(config, IpTracker(config.tracker))


def learn(policy: FirewallPolicy, host: str, now: float = 0.0, name: str = "example.com") -> None:
    policy.tracker.learn(name, Endpoint.of(host, 0).address, 60, now)


def test_the_four_moments() -> None:
    policy = firewall()
    target = flow("93.184.216.34")
    verdict = policy.decide(target, 0.0)
    assert (verdict.action, verdict.reason, verdict.refusal) == (Action.BLOCK, Reason.UNRESOLVED, Refusal.RESET)
    assert verdict.evidence == "never resolved"
    learn(policy, "93.184.216.34", 1.0)
    verdict = policy.decide(target, 2.0)
    assert verdict.allowed and verdict.reason is Reason.LEASE
    assert verdict.evidence == "example.com, lease ends in 299 s"
    verdict = policy.decide(target, 302.0)
    assert not verdict.allowed and verdict.reason is Reason.EXPIRED
    assert verdict.evidence == "example.com, expired 1 s ago"


def test_ipv6_and_icmp_are_judged_alike() -> None:
    policy = firewall()
    for protocol in (TCP, UDP, ICMP):
        assert not policy.decide(flow("2001:db8::1", 9, protocol), 0.0).allowed
    learn(policy, "2001:db8::1")
    for protocol in (TCP, UDP, ICMP):
        assert policy.decide(flow("2001:db8::1", 9, protocol), 0.0).allowed


@pytest.mark.parametrize("host", ["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1"])
def test_documentation_ranges_are_not_special(host: str) -> None:
    assert not firewall().decide(flow(host), 0.0).allowed


def test_only_the_exact_gateway_is_the_engines_own() -> None:
    policy = firewall(lan="block")
    for host in ("10.0.0.1", "fd00:6e65:7473::1"):
        assert policy.decide(flow(host), 0.0).reason is Reason.GATEWAY
    for host in ("10.0.0.3", "10.0.0.2"):
        assert policy.decide(flow(host), 0.0).reason is Reason.LAN


def test_enforcement_off_and_audit() -> None:
    off = firewall(enforcement="off")
    assert off.decide(flow("192.0.2.1"), 0.0).reason is Reason.OFF
    learn(off, "192.0.2.1")
    assert off.decide(flow("192.0.2.1"), 1.0).reason is Reason.LEASE, "evidence is shown where there is some"
    audit = firewall(enforcement="audit")
    verdict = audit.decide(flow("192.0.2.1"), 0.0)
    assert verdict.allowed and verdict.would_block and verdict.reason is Reason.UNRESOLVED
    learn(audit, "192.0.2.1")
    assert not audit.decide(flow("192.0.2.1"), 1.0).would_block
    verdict = audit.decide(flow("192.0.2.1"), 310.0)
    assert verdict.allowed and verdict.would_block and verdict.reason is Reason.EXPIRED


def test_quic_is_refused_even_when_resolved_and_whatever_the_enforcement() -> None:
    for enforcement in ("off", "audit", "strict"):
        policy = firewall(enforcement=enforcement)
        for host in ("192.0.2.1", "2001:db8::1", "10.9.9.9"):
            learn(policy, host)
            for port in (443, 80, 8443):
                verdict = policy.decide(flow(host, port, UDP), 0.0, INITIAL)
                assert (verdict.action, verdict.reason) == (Action.BLOCK, Reason.QUIC)
                assert verdict.refusal is Refusal.UNREACHABLE
            assert policy.decide(flow(host, 443, TCP), 0.0).allowed


def test_neighbours_of_quic_are_judged_by_evidence() -> None:
    policy = firewall()
    assert policy.decide(flow("192.0.2.1", 443, UDP), 0.0, STUN).reason is Reason.UNRESOLVED
    learn(policy, "192.0.2.1")
    assert policy.decide(flow("192.0.2.1", 443, UDP), 0.0, STUN).reason is Reason.LEASE
    assert not policy.blocks_quic(443, STUN)
    assert policy.blocks_quic(443, INITIAL), "a session that turns into QUIC later"


def test_quic_can_be_allowed_and_then_needs_evidence() -> None:
    policy = firewall(quic="allow")
    assert policy.decide(flow("192.0.2.1", 443, UDP), 0.0, INITIAL).reason is Reason.UNRESOLVED
    learn(policy, "192.0.2.1")
    assert policy.decide(flow("192.0.2.1", 443, UDP), 0.0, INITIAL).allowed


@pytest.mark.parametrize(("lan", "allowed"), [("allow", True), ("block", False), ("resolve-only", False)])
def test_lan(lan: str, allowed: bool) -> None:
    policy = firewall(lan=lan)
    for host in ("192.168.1.5", "169.254.1.1", "fd99::1", "fe80::1", "100.64.0.1"):
        assert policy.decide(flow(host), 0.0).allowed is allowed, host
    learn(policy, "192.168.1.5")
    assert policy.decide(flow("192.168.1.5"), 1.0).allowed is (lan != "block")


def test_multicast_and_broadcast() -> None:
    for host in ("224.0.0.251", "255.255.255.255", "ff02::fb"):
        assert firewall().decide(flow(host, 5353, UDP), 0.0).reason is Reason.MULTICAST
        verdict = firewall(multicast="block").decide(flow(host, 5353, UDP), 0.0)
        assert not verdict.allowed and verdict.refusal is Refusal.DROP, "nothing answers for a group"


def test_this_host_is_never_reached_through_the_engine() -> None:
    for enforcement in ("off", "audit", "strict"):
        for host in ("127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"):
            assert not firewall(enforcement=enforcement).decide(flow(host, 5354), 0.0).allowed


def test_dns_only_mode_carries_nothing_but_the_gateway() -> None:
    policy = firewall(mode="dns-only")
    learn(policy, "192.0.2.1")
    for host in ("192.0.2.1", "192.168.1.1", "224.0.0.1"):
        assert policy.decide(flow(host), 1.0).reason is Reason.MODE
    assert policy.decide(flow("10.0.0.1"), 1.0).allowed


def test_refusal_styles_come_from_the_configuration() -> None:
    policy = firewall(refusal="drop", udp_refusal="drop", quic_refusal="drop")
    learn(policy, "192.0.2.9", -1000.0)
    for host in ("192.0.2.1", "192.0.2.9"):
        assert policy.decide(flow(host), 0.0).refusal is Refusal.DROP
        assert policy.decide(flow(host, 9, UDP), 0.0).refusal is Refusal.DROP
        assert policy.decide(flow(host, 443, UDP), 0.0, INITIAL).refusal is Refusal.DROP
    assert firewall(refusal="unreachable").decide(flow("192.0.2.1"), 0.0).refusal is Refusal.UNREACHABLE
    assert firewall().decide(flow("192.0.2.1", 0, ICMP), 0.0).refusal is Refusal.UNREACHABLE


def test_evidence_of_held_and_lingering_leases() -> None:
    policy = firewall()
    learn(policy, "192.0.2.1")
    target = flow("192.0.2.1")
    policy.decide(target, 299.0)
    policy.tracker.pin(target.destination.address)
    assert policy.decide(target, 400.0).evidence == "example.com, lease held by a flow"
    policy.tracker.unpin(target.destination.address, 400.0)
    assert policy.decide(target, 401.0).evidence == "example.com, lingers"


def test_reconfigure_counts_versions_and_takes_effect() -> None:
    policy = firewall()
    first = policy.version
    assert not policy.decide(flow("192.0.2.1"), 0.0).allowed
    config = Config()
    policy.reconfigure(replace(config, policy=replace(config.policy, enforcement="off")))
    assert policy.version == first + 1
    assert policy.decide(flow("192.0.2.1"), 0.0).allowed


def test_a_blocking_state_speaks_before_everything_but_the_gateway() -> None:
    policy = firewall(enforcement="off", lan="allow")
    lockdown = Lockdown(LockdownConfig(), lambda event: None)
    version = policy.version
    policy.use_lockdown(lockdown)
    assert policy.decide(flow("203.0.113.1"), 0.0).allowed
    lockdown.enter(1.0)
    assert policy.version >= version + 2, "cached verdicts are void"
    for host in ("203.0.113.1", "192.168.1.1", "224.0.0.251", "127.0.0.1"):
        verdict = policy.decide(flow(host), 1.0)
        assert not verdict.allowed and verdict.reason is Reason.LOCKDOWN
    assert policy.decide(flow("203.0.113.1", protocol=UDP), 1.0).refusal is Refusal.UNREACHABLE
    assert policy.decide(flow("10.0.0.1", 53), 1.0).allowed
    lockdown.leave(2.0)
    assert policy.decide(flow("203.0.113.1"), 2.0).allowed
