"""What the forwarders share."""

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.events import FlowBlocked, StormNoticed
from netstack.core.flow import TCP, pack_key
from netstack.core.verdict import Action, Reason, Refusal, Verdict
from netstack.forward.context import block_reason
from netstack.testing.world import APP, SERVER, World


def test_gateway_of_each_family() -> None:
    w = World(make_config({"tunnel": {"address": "198.18.0.1", "address6": ""}}))
    assert w.engine.context.gateway(4) == b"\xc6\x12\x00\x01"
    assert len(w.engine.context.gateway(6)) == 16, "IPv6 errors still have a source"


def test_flow_ids_count_up() -> None:
    context = World().engine.context
    assert [context.next_flow_id() for _ in range(3)] == [1, 2, 3]


def test_memory_of_blocked_flows_is_bounded() -> None:
    w = World()
    verdict = Verdict(Action.BLOCK, Reason.UNRESOLVED)
    for port in range(5000):
        w.engine.context.report_blocked(pack_key(TCP, type(APP)(APP.address, port), SERVER), verdict, 0.0)
    assert len([event for event in w.events if isinstance(event, FlowBlocked)]) == 5000
    assert len(w.engine.context._blocked) <= 512


def test_a_storm_is_told_and_may_be_refused_in_silence() -> None:
    verdict = Verdict(Action.BLOCK, Reason.UNRESOLVED, refusal=Refusal.RESET)
    other = pack_key(TCP, APP, type(SERVER)(SERVER.address, 8080))
    for style, then in [("same", Refusal.RESET), ("drop", Refusal.DROP)]:
        w = World(make_config({"policy": {"storm": 5, "storm_refusal": style}}))
        context = w.engine.context
        for number in range(20):
            key = pack_key(TCP, type(APP)(APP.address, 1000 + number), SERVER)
            assert context.report_blocked(key, verdict, 0.1 * number) is (Refusal.RESET if number < 4 else then)
        assert context.report_blocked(other, verdict, 2.0) is Refusal.RESET
        [storm] = [event for event in w.events if isinstance(event, StormNoticed)]
        assert storm.line() == "[STORM] tcp 192.0.2.80:80: flow refused 5 times in 10 s"
        assert w.stats.storms == 1
        w.engine.reconfigure(w.config, 3.0)
        assert context.report_blocked(other, verdict, 3.0) is Refusal.RESET, "policy has changed: all is calm"


def test_every_blocking_reason_has_its_counter() -> None:
    counters = {reason: block_reason(Verdict(Action.BLOCK, reason)) for reason in Reason}
    assert counters[Reason.QUIC] is DropReason.POLICY_QUIC
    assert counters[Reason.EXPIRED] is counters[Reason.UNRESOLVED] is DropReason.POLICY_UNTRACKED
