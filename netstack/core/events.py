"""Typed events: what a host app, the command line and the traces are told.

Responsible for: one class for each thing that happens, and its dictionary form for NDJSON.
Refuses to know: who listens.

Nobody changes an event; they are not frozen only because two are made for every flow and frozen ones cost
several times as much. `at` is the engine's clock in seconds. `line()` gives the log line; the blocked-flow lines are
those that the original netstack wrote, so existing log filters keep working.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar

from netstack.core.flow import FiveTuple
from netstack.core.record import fields, recordclass
from netstack.core.verdict import Verdict


def _plain(value: Any) -> Any:
    if isinstance(value, FiveTuple):
        return {
            "protocol": value.protocol,
            "source": str(value.source),
            "destination": str(value.destination),
        }
    if isinstance(value, Verdict):
        shown: dict[str, Any] = {
            "action": value.action.value,
            "reason": value.reason.value,
            "evidence": value.evidence,
        }
        if value.rule is not None:
            shown["rule"] = value.rule
        if value.would_block:
            shown["would_block"] = True
        return shown
    if isinstance(value, Enum):
        return value.name.lower() if isinstance(value.value, int) else value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


@recordclass()
class Event:
    """Root of all events."""

    kind: ClassVar[str] = "event"
    at: float

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, `event` first."""
        shown: dict[str, Any] = {"event": self.kind}
        for name in fields(self):
            shown[name] = _plain(getattr(self, name))
        return shown

    def line(self) -> str:
        """One line for a log."""
        return f"[{self.kind}]"


@recordclass()
class FlowOpened(Event):
    """A flow is carried: TCP after the real socket connected, UDP/ICMP at the first packet."""

    kind: ClassVar[str] = "flow_opened"
    flow_id: int
    flow: FiveTuple
    verdict: Verdict

    def line(self) -> str:
        return f"[{_tag(self.flow)}] OPEN {_arrow(self.flow)} ({self.verdict.evidence or self.verdict.reason.value})"


@recordclass()
class FlowBlocked(Event):
    """Policy refused a flow or datagram. Repeats of one flow within a second are counted, not repeated."""

    kind: ClassVar[str] = "flow_blocked"
    flow: FiveTuple
    verdict: Verdict

    def line(self) -> str:
        what = {"unresolved": "hardcoded IP", "expired": "hardcoded IP", "quic": "QUIC"}.get(
            self.verdict.reason.value, self.verdict.reason.value
        )
        return f"[{_tag(self.flow)}] BLOCKED {what}: {_arrow(self.flow)}"


@recordclass()
class FlowClosed(Event):
    """A flow ended. `how`: finished, reset-by-app, reset-by-peer, refused, unreachable, timeout, shed, cut, stopped."""

    kind: ClassVar[str] = "flow_closed"
    flow_id: int
    flow: FiveTuple
    how: str
    octets_up: int = 0
    octets_down: int = 0

    def line(self) -> str:
        return f"[{_tag(self.flow)}] CLOSE {_arrow(self.flow)} {self.how}, {self.octets_up} up, {self.octets_down} down"


@recordclass()
class QueryAnswered(Event):
    """A DNS query was answered; `addresses` were in the tracker before the answer left."""

    kind: ClassVar[str] = "query_answered"
    flow: FiveTuple
    name: str
    type: str
    rcode: str
    addresses: tuple[str, ...] = ()
    elapsed: float = 0.0

    def line(self) -> str:
        return f"[DNS] {self.name} {self.type} {self.rcode} {' '.join(self.addresses)}".rstrip()


@recordclass()
class QueryFailed(Event):
    """A DNS query got SERVFAIL from the engine itself. `why`: timeout, table-full, unreachable, protect."""

    kind: ClassVar[str] = "query_failed"
    flow: FiveTuple
    name: str
    type: str
    why: str

    def line(self) -> str:
        return f"[DNS] FAILED {self.name} {self.type}: {self.why}"


@recordclass()
class QueryJudged(Event):
    """A rule or a list did something else with a DNS query than letting it pass. `action`: nxdomain, refused, nodata,
    sinkhole, drop, postpone, rewrite; `rule` says which one."""

    kind: ClassVar[str] = "query_judged"
    flow: FiveTuple | None
    name: str
    type: str
    action: str
    rule: str

    def line(self) -> str:
        return f"[DNS] {self.action.upper()} {self.name} {self.type}: {self.rule}"


@recordclass()
class StormNoticed(Event):
    """Something is asked for again and again although it is refused, which empties batteries. `about`: query or flow;
    `what`: the name, or protocol and destination; `count` refusals in `seconds`. Sent when it begins, and again each
    time that a storm has gone on for as long."""

    kind: ClassVar[str] = "storm_noticed"
    about: str
    what: str
    count: int
    seconds: float

    def line(self) -> str:
        return f"[STORM] {self.what}: {self.about} refused {self.count} times in {self.seconds:.0f} s"


@recordclass()
class PacketDropped(Event):
    """A packet did not go on. Emitted only when a tracer asks; the counter always moves."""

    kind: ClassVar[str] = "packet_dropped"
    reason: Enum
    length: int

    def line(self) -> str:
        return f"[DROP] {self.reason.name.lower()} ({self.length} octets)"


@recordclass()
class EngineError(Event):
    """Something outside failed. `where`: tunnel, dialer, protect, resolver, list, portal, host, config. `fatal` ends
    the run."""

    kind: ClassVar[str] = "engine_error"
    where: str
    message: str
    fatal: bool = False

    def line(self) -> str:
        return f"[ERROR] {self.where}: {self.message}"


@recordclass()
class StateChanged(Event):
    """The controller moved to another state, or the mode changed."""

    kind: ClassVar[str] = "state_changed"
    state: str
    mode: str

    def line(self) -> str:
        return f"[STATE] {self.state} ({self.mode})"


@recordclass()
class LockdownChanged(Event):
    """The blocking state began, ended or failed. `network_check`: the system's network check may pass meanwhile."""

    kind: ClassVar[str] = "lockdown_changed"
    state: str
    network_check: bool
    why: str = ""

    def line(self) -> str:
        check = "network check passes" if self.network_check else "nothing passes"
        return f"[LOCKDOWN] {self.state}{f', {check}' if self.state != 'open' else ''} {self.why}".rstrip()


@recordclass()
class CaptivePortalChanged(Event):
    """What is known of a captive portal. `state`: clear, captive (allowance running) or ended; `url` for the user."""

    kind: ClassVar[str] = "captive_portal_changed"
    state: str
    url: str = ""
    why: str = ""

    def line(self) -> str:
        return f"[PORTAL] {self.state} {self.url} {self.why}".rstrip()


EventSink = Callable[[Event], None]


def _tag(flow: FiveTuple) -> str:
    return {6: "TCP", 17: "UDP", 1: "ICMP", 58: "ICMP"}.get(flow.protocol, str(flow.protocol))


def _arrow(flow: FiveTuple) -> str:
    return f"{flow.source} -> {flow.destination}"
