"""What the forwarders share."""

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.flow import TCP, pack_key
from netstack.core.verdict import Action, Reason, Verdict
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
    assert len(w.events) == 5000
    assert len(w.engine.context._blocked) <= 512


def test_every_blocking_reason_has_its_counter() -> None:
    counters = {reason: block_reason(Verdict(Action.BLOCK, reason)) for reason in Reason}
    assert counters[Reason.QUIC] is DropReason.POLICY_QUIC
    assert counters[Reason.EXPIRED] is counters[Reason.UNRESOLVED] is DropReason.POLICY_UNTRACKED
