"""What a replay found out about each flow: verdict, evidence, how it went.

Responsible for: one row for each conversation and ping, filled from verdicts, events and drops.
Refuses to know: how the engine is driven, how rows are shown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from netstack.capture.compare import StreamComparison
from netstack.core.drops import DropReason
from netstack.core.flow import PROTOCOL_NAMES, Endpoint, FiveTuple
from netstack.core.record import field, recordclass
from netstack.core.verdict import Action, Reason, Verdict

DNS = Verdict(Action.ALLOW, Reason.DNS, "answered by the engine")


@recordclass(eq=False)
class FlowRow:
    """One conversation as the engine dealt with it. `flow` has the app as its source."""

    flow: FiveTuple
    first_frame: int
    time: str
    verdict: Verdict | None = None
    flow_id: int | None = None
    how: str = ""
    names: list[str] = field(default_factory=list)
    octets_up: int = 0
    octets_down: int = 0
    packets: int = 0
    drops: Counter[DropReason] = field(default_factory=Counter)
    blocked: int = 0
    note: str = ""
    up: StreamComparison | None = None
    down: StreamComparison | None = None

    def judged(self, verdict: Verdict) -> None:
        """A verdict of the policy. A flow that was allowed once counts as allowed, whatever came before."""
        if not verdict.allowed:
            self.blocked += 1
        if self.verdict is None or verdict.allowed or not self.verdict.allowed:
            self.verdict = verdict

    def named(self, name: str) -> None:
        """A name that this flow's destination goes by."""
        if name and name not in self.names:
            self.names.append(name)

    @property
    def action(self) -> str:
        """allow, block, or none when no packet of it ever asked for a verdict."""
        return self.verdict.action.value if self.verdict is not None else "none"

    @property
    def reason(self) -> str:
        """The verdict's reason; without a verdict what its packets were dropped for."""
        if self.verdict is not None:
            return self.verdict.reason.value
        if self.drops:
            return self.drops.most_common(1)[0][0].name.lower()
        return "unseen"

    @property
    def evidence(self) -> str:
        """The verdict's evidence, or why there is none."""
        if self.verdict is not None:
            return self.verdict.evidence
        if self.note:
            return self.note
        if self.drops:
            dropped = ", ".join(f"{count} {reason.name.lower()}" for reason, count in self.drops.most_common())
            return f"packets dropped: {dropped}"
        return "" if self.packets else "nothing from the app's side"

    def comment(self) -> str:
        """For a packet of this flow in an annotated capture."""
        words = [] if self.flow_id is None else [f"flow {self.flow_id}"]
        words.append(f"verdict {self.action} ({self.reason})")
        if self.verdict is not None and self.verdict.rule:
            words.append(f"rule {self.verdict.rule}")
        if self.evidence:
            words.append(self.evidence)
        return "; ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        source, destination = self.flow.source, self.flow.destination
        shown: dict[str, Any] = {
            "protocol": PROTOCOL_NAMES.get(self.flow.protocol, str(self.flow.protocol)),
            "client": source.host,
            "cport": source.port,
            "server": destination.host,
            "sport": destination.port,
            "first_frame": self.first_frame,
            "time": self.time,
            "verdict": self.action,
            "reason": self.reason,
            "evidence": self.evidence,
            "names": self.names,
            "how": self.how,
            "octets_up": self.octets_up,
            "octets_down": self.octets_down,
            "packets": self.packets,
        }
        if self.flow_id is not None:
            shown["flow_id"] = self.flow_id
        if self.verdict is not None and self.verdict.rule:
            shown["rule"] = self.verdict.rule
        if self.verdict is not None and self.verdict.would_block:
            shown["would_block"] = True
        if self.blocked:
            shown["blocked"] = self.blocked
        if self.drops:
            shown["drops"] = {reason.name.lower(): count for reason, count in sorted(self.drops.items())}
        if self.up is not None and self.down is not None:
            shown["streams"] = {"up": self.up.as_dict(), "down": self.down.as_dict()}
        return shown


def five_tuple(protocol: int, client: tuple[bytes, int], server: tuple[bytes, int]) -> FiveTuple:
    """From packed addresses and ports, the app first."""
    return FiveTuple(protocol, Endpoint(*client), Endpoint(*server))
