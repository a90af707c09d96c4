"""The flow table's shed order."""

from netstack.config import Config
from netstack.core.flow import TCP, Endpoint, pack_key, unpack_key
from netstack.core.verdict import Action, Reason, Verdict
from netstack.forward.flow_table import FlowTable
from netstack.forward.relay import TcpFlow
from netstack.tcp.connection import TcpConnection
from netstack.testing.world import World

WORLD = World()
FAR = Endpoint(bytes([192, 0, 2, 7]), 80)


def carried(number: int, last_seen: float = 0.0) -> TcpFlow:
    key = pack_key(TCP, Endpoint(bytes([10, 0, 0, 2]), number), FAR)
    connection = TcpConnection(Config().tcp, key, iss=1, mtu=1500)
    flow = TcpFlow(WORLD.engine.tcp, unpack_key(key), connection, Verdict(Action.ALLOW, Reason.DNS, ""), b"")
    flow.last_seen = last_seen
    return flow


def filled(count: int, capacity: int, half_open: int = 1000) -> tuple[FlowTable, list[TcpFlow]]:
    table = FlowTable(capacity, half_open)
    flows = [carried(at, float(at)) for at in range(count)]
    for flow in flows:
        table.add(flow)
    return table, flows


def test_nothing_goes_while_there_is_room() -> None:
    table, _ = filled(9, 10)
    assert table.to_shed() == []


def test_finished_go_before_half_open_before_idle() -> None:
    table, flows = filled(10, 10)
    for flow in flows[2:]:
        table.established(flow)
    table.finish(flows[5])
    order = []
    while table.flows:
        victims = table.to_shed()
        if not victims:
            break
        order += victims
        for victim in victims:
            table.remove(victim)
            replacement = carried(1000 + len(order), 100.0)
            table.add(replacement)
            table.established(replacement)
        if len(order) >= 4:
            break
    assert order == [flows[5], flows[0], flows[1], flows[2]]


def test_half_open_cap_sheds_the_oldest_half_open() -> None:
    table, flows = filled(4, 100, half_open=4)
    assert table.to_shed() == [flows[0]]
    table.established(flows[1])
    assert table.to_shed() == []


def test_a_full_table_sheds_a_share_of_the_longest_idle() -> None:
    table, flows = filled(128, 128)
    for flow in flows:
        table.established(flow)
    assert table.to_shed() == flows[:4]


def test_a_replaced_flow_does_not_take_its_successor_away() -> None:
    table, [old] = filled(1, 10)
    new = carried(0)
    table.add(new)
    table.remove(old)
    table.finish(old)
    assert table.flows[old.key] is new and not table.finished
