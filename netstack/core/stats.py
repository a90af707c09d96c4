"""Counters of the engine: plain integers, read at any time, never reset by reading.

Responsible for: what `stats()` shows and the drop counters.
Refuses to know: who counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from netstack.core.drops import DropReason

COUNTERS: Final = (
    "packets_in", "octets_in", "packets_out", "octets_out", "segments_in", "tcp_opened", "tcp_blocked",
    "tcp_refused", "tcp_open", "tcp_half_open", "udp_sessions", "udp_opened", "udp_blocked", "icmp_sessions",
    "dns_queries", "dns_answers", "dns_failures", "dns_pending", "dns_blocked", "storms", "tracked_addresses",
    "buffered_octets", "shed_flows",
)  # fmt: skip
"""What is counted, in the order in which it is shown."""


class Stats:
    """Packets and octets as they cross the tunnel; flows as they open and end. Written out: see `core.packet`."""

    __slots__ = (*COUNTERS, "drops")

    def __init__(self) -> None:
        self.packets_in = 0  # IP packets from the app, before coalescing
        self.octets_in = 0
        self.packets_out = 0
        self.octets_out = 0
        self.segments_in = 0  # after coalescing
        self.tcp_opened = 0
        self.tcp_blocked = 0
        self.tcp_refused = 0
        self.tcp_open = 0
        self.tcp_half_open = 0
        self.udp_sessions = 0
        self.udp_opened = 0
        self.udp_blocked = 0
        self.icmp_sessions = 0
        self.dns_queries = 0
        self.dns_answers = 0
        self.dns_failures = 0
        self.dns_pending = 0
        self.dns_blocked = 0  # queries that a rule or list answered, or did not let through
        self.storms = 0  # names and destinations that were refused again and again; see `core.storms`
        self.tracked_addresses = 0
        self.buffered_octets = 0
        self.shed_flows = 0
        self.drops: Counter[DropReason] = Counter()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; drop reasons in lower case."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        shown["drops"] = {reason.name.lower(): count for reason, count in sorted(self.drops.items())}
        return shown
