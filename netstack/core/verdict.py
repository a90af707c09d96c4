"""What policy says of a flow or a datagram: the value that travels from `policy/` to `forward/`.

Responsible for: action, reason, evidence and how a refusal is shown to the app.
Refuses to know: how a verdict is reached.
"""

from __future__ import annotations

from enum import StrEnum

from netstack.core.record import recordclass


class Action(StrEnum):
    """What happens to the flow."""

    ALLOW = "allow"
    BLOCK = "block"


class Refusal(StrEnum):
    """How a blocked flow learns of it."""

    RESET = "reset"  # TCP RST|ACK; for UDP the same as UNREACHABLE
    UNREACHABLE = "unreachable"  # ICMP port/administratively unreachable
    DROP = "drop"  # silence


class Reason(StrEnum):
    """Why: stable words for traces, JSON and counters."""

    LEASE = "lease"  # a live lease of the tracker
    EXPIRED = "expired"  # had a lease once
    UNRESOLVED = "unresolved"  # no DNS answer ever named this address: a hard-coded IP
    GATEWAY = "gateway"  # the engine's own address
    LAN = "lan"  # a private or link-local destination
    MULTICAST = "multicast"  # a multicast or broadcast destination
    QUIC = "quic"  # UDP that is QUIC
    RULE = "rule"  # an explicit rule; its name is in `rule`
    OFF = "off"  # enforcement is off
    DNS = "dns"  # port 53 is answered by the engine
    MODE = "mode"  # DNS-only mode carries nothing else
    LOCKDOWN = "lockdown"  # a blocking state: only the system's network check may pass


@recordclass(frozen=True)
class Verdict:
    """One decision with its evidence.

    `would_block` is set in audit mode when strict enforcement would have refused.
    `evidence` is a sentence for people, for example ``"example.com, lease ends in 287 s"``.
    """

    action: Action
    reason: Reason
    evidence: str = ""
    rule: str | None = None
    refusal: Refusal = Refusal.RESET
    would_block: bool = False

    @property
    def allowed(self) -> bool:
        """True for ALLOW."""
        return self.action is Action.ALLOW
