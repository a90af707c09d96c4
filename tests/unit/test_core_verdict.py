"""Verdicts."""

from netstack.core.verdict import Action, Reason, Refusal, Verdict


def test_defaults() -> None:
    verdict = Verdict(Action.BLOCK, Reason.UNRESOLVED)
    assert not verdict.allowed
    assert verdict.refusal is Refusal.RESET
    assert Verdict(Action.ALLOW, Reason.LEASE).allowed
