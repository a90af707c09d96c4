"""Whatever changes in whatever order, every query is answered once and in time, and nothing passes a blocking state."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.config import make_config
from netstack.core.events import QueryFailed
from netstack.core.network import Network
from tests.unit.test_runtime_changes import Run

NAMES = ("a.example", "held.example", "no.example", "captive.apple.com", "a.corp.example", "wiki")
HOLD = {"rules": [{"action": "postpone", "names": ["held.example"]}]}
REFUSE = {"rules": [{"action": "refused", "names": ["no.example", "held.example"]}]}
SPLIT = {"split": [{"upstreams": ["192.0.2.3"], "suffixes": ["corp.example"], "search": ["corp.example"]}]}
TABLES: list[dict[str, Any]] = [
    {}, HOLD, REFUSE, HOLD | {"cache": {"use": "on"}}, SPLIT | HOLD, {"dns": {"servers": ["192.0.2.2"]}} | HOLD,
    {"dns": {"servers": ["192.0.2.1", "192.0.2.2"]}}, {"answers": {"dns64": "64:ff9b::/96", "rebind": "remove"}} | HOLD,
    {"lockdown": {"network_check": True}} | HOLD, {"lockdown": {"network_check": True, "leak_free": True}},
]  # fmt: skip
tables = st.sampled_from(TABLES)
steps = st.lists(
    st.tuples(st.just("ask"), st.tuples(st.sampled_from(NAMES), st.sampled_from(["A", "AAAA"])))
    | st.tuples(st.just("change"), tables)
    | st.tuples(st.just("wait"), st.floats(0.0, 0.4))
    | st.tuples(st.just("network"), st.sampled_from([None, True, False]))
    | st.tuples(st.sampled_from(["answer", "block", "allow", "portal", "clear", "check on", "check off"]), st.none()),
    max_size=10,  # so that no upstream is silent for as long as a query waits
)


@given(tables, steps)
@settings(max_examples=150, deadline=None)
def test_every_query_is_answered_once_and_in_time(first: dict[str, Any], script: list[tuple[str, Any]]) -> None:
    run = Run(first, Network(servers=("192.0.2.7",)))
    asked: dict[int, float] = {}
    answered: set[int] = set()

    def look() -> None:
        for message in run.told():
            assert message.id in asked and message.id not in answered, "answered twice"
            answered.add(message.id)
            assert run.now - asked[message.id] <= run.config.dns.timeout + 0.001
            if run.changes.is_blocking and message.answer:
                assert str(message.question[0].name) == "captive.apple.com.", "only the check resolves"

    for what, value in script:
        if what == "ask":
            run.ask(*value)
            asked[run.ident] = run.now
        elif what == "change":
            config = make_config({"dns": {"servers": ["192.0.2.1"]}} | value)
            run.changes.reconfigure(run.changes.prepare(config), run.now)
        elif what == "wait":
            for message in run.run(value):
                ident = int.from_bytes(bytes(message.payload)[:2], "big")
                assert ident in asked and ident not in answered
                answered.add(ident)
        elif what == "network":
            run.changes.network_changed(Network(has_ipv6=value, servers=("192.0.2.7",)), run.now)
        elif what == "answer":
            run.answer()
        elif what == "block" and not run.changes.is_blocking:
            run.changes.block_network("", run.now)
            look()
            for socket in run.datagrams:
                socket.sent.clear()
            assert not len(run.engine.bridge), "nothing waits on"
        elif what == "allow":
            run.changes.allow_network("", run.now)
        elif what in ("portal", "clear"):
            run.changes.captive_portal(run.now, captive=what == "portal", url="http://login.example/")
        elif what != "block":
            run.changes.allow_network_check(what == "check on", run.now)
        run._settle()
        look()
        if run.changes.is_blocking:
            assert {name for _, name in run.asked()} <= {"captive.apple.com"}, "nothing else leaves the device"
    run.answer()
    look()
    for _ in range(2):  # what was held is asked now, and its alias after it
        for message in run.run(2.0):
            answered.add(int.from_bytes(bytes(message.payload)[:2], "big"))
        run.answer()
        look()
    assert answered == set(asked), "every query has its answer"
    assert not any(isinstance(event, QueryFailed) and event.why == "timeout" for event in run.events)
    run.run(30.0)
    assert not run.engine.bridge._retired and not len(run.engine.bridge)
    assert all(socket.closed for socket in run.datagrams), "nothing of any chain stays"
