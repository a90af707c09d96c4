"""The reset that answers a segment which belongs to no connection.

Responsible for: RFC 9293 section 3.10.7.1. Refuses to know: whether it should be sent (rate limits, policy).
"""

from __future__ import annotations

from netstack.core.flow import reverse_key
from netstack.core.packet import ACK, FIN, RST, SYN, Segment, SegmentRun
from netstack.core.seq import MASK


def reset_for(segment: Segment) -> SegmentRun | None:
    """The RST for `segment`; None when it is itself a RST."""
    flags = segment.flags
    if flags & RST:
        return None
    key = reverse_key(segment.key)
    if flags & ACK:
        return SegmentRun(key, segment.ack, 0, RST, 0)
    length = len(segment.payload) + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
    return SegmentRun(key, 0, (segment.seq + length) & MASK, RST | ACK, 0)


def opens_connection(segment: Segment) -> bool:
    """True for a SYN that may open a connection: no ACK, RST or FIN beside it."""
    return segment.flags & (SYN | ACK | RST | FIN) == SYN
