"""The flow table's shed order."""

from dataclasses import dataclass

from netstack.forward.flow_table import FlowTable


@dataclass(eq=False)
class Flow:
    key: bytes
    last_seen: float = 0.0


def filled(count: int, capacity: int, half_open: int = 1000) -> tuple[FlowTable, list[Flow]]:
    table = FlowTable(capacity, half_open)
    flows = [Flow(bytes([at]), float(at)) for at in range(count)]
    for flow in flows:
        table.add(flow)  # type: ignore[arg-type]
    return table, flows


def test_nothing_goes_while_there_is_room() -> None:
    table, _ = filled(9, 10)
    assert table.to_shed() == []


def test_finished_go_before_half_open_before_idle() -> None:
    table, flows = filled(10, 10)
    for flow in flows[2:]:
        table.established(flow)  # type: ignore[arg-type]
    table.finish(flows[5])  # type: ignore[arg-type]
    order = []
    while table.flows:
        victims = table.to_shed()
        if not victims:
            break
        order += victims
        for victim in victims:
            table.remove(victim)
            replacement = Flow(victim.key + b"new", 100.0)
            table.add(replacement)  # type: ignore[arg-type]
            table.established(replacement)  # type: ignore[arg-type]
        if len(order) >= 4:
            break
    assert order == [flows[5], flows[0], flows[1], flows[2]]


def test_half_open_cap_sheds_the_oldest_half_open() -> None:
    table, flows = filled(4, 100, half_open=4)
    assert table.to_shed() == [flows[0]]
    table.established(flows[1])  # type: ignore[arg-type]
    assert table.to_shed() == []


def test_a_full_table_sheds_a_share_of_the_longest_idle() -> None:
    table, flows = filled(128, 128)
    for flow in flows:
        table.established(flow)  # type: ignore[arg-type]
    assert table.to_shed() == flows[:4]


def test_a_replaced_flow_does_not_take_its_successor_away() -> None:
    table, [old] = filled(1, 10)
    new = Flow(old.key)
    table.add(new)  # type: ignore[arg-type]
    table.remove(old)  # type: ignore[arg-type]
    table.finish(old)  # type: ignore[arg-type]
    assert table.flows[old.key] is new and not table.finished
