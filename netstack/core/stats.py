"""Counters of the engine: plain integers, read at any time, never reset by reading.

Responsible for: what `stats()` shows and the drop counters.
Refuses to know: who counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from netstack.core.drops import DropReason


@dataclass(slots=True)
class Stats:
    """Packets and octets as they cross the tunnel; flows as they open and end."""

    packets_in: int = 0  # IP packets from the app, before coalescing
    octets_in: int = 0
    packets_out: int = 0
    octets_out: int = 0
    segments_in: int = 0  # after coalescing
    tcp_opened: int = 0
    tcp_blocked: int = 0
    tcp_refused: int = 0
    tcp_open: int = 0
    tcp_half_open: int = 0
    udp_sessions: int = 0
    udp_opened: int = 0
    udp_blocked: int = 0
    icmp_sessions: int = 0
    dns_queries: int = 0
    dns_answers: int = 0
    dns_failures: int = 0
    dns_pending: int = 0
    tracked_addresses: int = 0
    buffered_octets: int = 0
    shed_flows: int = 0
    drops: Counter[DropReason] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; drop reasons in lower case."""
        shown = asdict(self)
        shown["drops"] = {reason.name.lower(): count for reason, count in sorted(self.drops.items())}
        return shown
