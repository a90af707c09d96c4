"""Rows that report on flows."""

from netstack.core.drops import DropReason
from netstack.core.verdict import Action, Reason, Verdict
from netstack.runtime.verdicts import FlowRow, five_tuple

ALLOW = Verdict(Action.ALLOW, Reason.LEASE, "a.test, lease ends in 300 s")
BLOCK = Verdict(Action.BLOCK, Reason.UNRESOLVED, "never resolved", "rule-7")
FLOW = five_tuple(6, (b"\x0a\0\0\2", 5), (b"\xcb\0\x71\x50", 443))


def row():
    return FlowRow(FLOW, 3, "1.000000000")


def test_nothing_known():
    shown = row().as_dict()
    assert (shown["verdict"], shown["reason"], shown["protocol"]) == ("none", "unseen", "tcp")
    assert shown["evidence"] == "nothing from the app's side"
    assert "drops" not in shown and "rule" not in shown


def test_a_block_becomes_an_allow_and_stays_one():
    made = row()
    made.judged(BLOCK)
    assert (made.action, made.as_dict()["rule"]) == ("block", "rule-7")
    made.judged(ALLOW)
    made.judged(BLOCK)
    assert (made.action, made.reason, made.blocked) == ("allow", "lease", 2)


def test_drops_stand_in_for_a_verdict():
    made = row()
    made.packets = 3
    made.drops[DropReason.BAD_TCP_CHECKSUM] += 3
    assert (made.reason, made.evidence) == ("bad_tcp_checksum", "packets dropped: 3 bad_tcp_checksum")


def test_comment():
    made = row()
    made.flow_id = 4
    made.judged(BLOCK)
    assert made.comment() == "flow 4; verdict block (unresolved); rule rule-7; never resolved"


def test_names_are_kept_once():
    made = row()
    for name in ("a.test", "", "a.test", "b.test"):
        made.named(name)
    assert made.names == ["a.test", "b.test"]


def test_what_audit_would_have_refused():
    made = row()
    made.judged(Verdict(Action.ALLOW, Reason.UNRESOLVED, "never resolved", would_block=True))
    assert made.as_dict()["would_block"] is True
