"""Names what is unusual about a TCP segment in a capture: retransmitted, reordered, lost before, duplicate ACK.

Responsible for: judging each segment by what both directions showed before it.
Refuses to know: payload, the conversation's identity.

The rules are those that packet analysers agree on, so that figures can be compared with theirs: a retransmission
is data (or SYN, FIN) that does not advance the sequence; out of order when it came within the first round trip
(3 ms when unknown) of the highest segment; spurious when it had been acknowledged; a segment beyond the highest
seen tells of a loss; a duplicate ACK repeats ACK and window without data.
"""

from __future__ import annotations

from netstack.core.packet import ACK, FIN, RST, SYN
from netstack.core.record import recordclass
from netstack.core.seq import seq_le, seq_lt

_REORDER_NS = 3_000_000
_FAST_RETRANSMIT_NS = 20_000_000


@recordclass()
class Tally:
    """Counts over both directions of one conversation."""

    retransmissions: int = 0
    out_of_order: int = 0
    lost_segments: int = 0
    dup_acks: int = 0
    zero_window: int = 0


class _Side:
    __slots__ = ("dup_acks", "kept_alive", "last_ack", "last_ack_time", "next_seq", "next_time", "probed", "window")

    def __init__(self) -> None:
        self.next_seq = 0  # 0: nothing seen
        self.next_time = 0
        self.last_ack = 0
        self.last_ack_time = 0
        self.window = -1
        self.dup_acks = 0
        self.kept_alive = False
        self.probed = False


class SegmentAnalysis:
    """Both directions of one conversation; sides are 0 and 1."""

    __slots__ = ("_established", "_first_rtt", "_scale", "_sides", "_syn_time", "tally")

    def __init__(self) -> None:
        self.tally = Tally()
        self._sides = (_Side(), _Side())
        self._syn_time = -1
        self._established = 0
        self._first_rtt = 0

    def add(self, side: int, seq: int, ack: int, flags: int, window: int, size: int, time_ns: int) -> None:
        """One segment from `side`; `size` is its payload on the wire."""
        own, other = self._sides[side], self._sides[1 - side]
        tally = self.tally
        control = flags & (SYN | FIN | RST)
        self._measure(flags, time_ns)
        probe = size == 1 and seq == own.next_seq and other.window == 0
        kept_alive = done = False
        if not probe:
            if window == 0 and not control:
                tally.zero_window += 1
            if own.next_seq and seq_lt(own.next_seq, seq) and not flags & RST:
                tally.lost_segments += 1
            kept_alive = size <= 1 and seq == (own.next_seq - 1) & 0xFFFFFFFF and not control and own.next_seq != 0
            if size == 0 and not control and seq == own.next_seq and window == own.window:
                if window and ack == own.last_ack:
                    done = other.kept_alive
                    if not done:
                        own.dup_acks += 1
                        tally.dup_acks += 1
                elif not window and other.probed and ack in (own.last_ack, (own.last_ack + 1) & 0xFFFFFFFF):
                    own.last_ack = ack
        if ack != own.last_ack:
            own.dup_acks = 0
        after = (seq + size + (1 if flags & (SYN | FIN) else 0)) & 0xFFFFFFFF
        if (size or flags & (SYN | FIN)) and not kept_alive:
            self._judge(own, other, seq, size, after, time_ns)
        if not probe and (not own.next_seq or seq_lt(own.next_seq, after)):
            own.next_seq = after
            own.next_time = time_ns
        own.window = window
        own.last_ack = ack if flags & ACK else own.last_ack
        own.last_ack_time = time_ns
        own.kept_alive = kept_alive
        own.probed = probe

    def _measure(self, flags: int, time_ns: int) -> None:
        """The first round trip: from the SYN to the ACK that ends the handshake."""
        if flags & SYN:
            if not flags & ACK:
                self._syn_time = time_ns
            else:
                self._established = 1
        elif flags & ACK and self._established == 1 and self._syn_time >= 0 and not self._first_rtt:
            self._first_rtt = time_ns - self._syn_time

    def _judge(self, own: _Side, other: _Side, seq: int, size: int, after: int, time_ns: int) -> None:
        behind = own.next_seq != 0 and seq_lt(seq, own.next_seq)
        if size > 1 and seq == (own.next_seq - 1) & 0xFFFFFFFF:
            behind = False
        if size and other.last_ack and seq_le((seq + size) & 0xFFFFFFFF, other.last_ack):
            self.tally.retransmissions += 1  # spurious
            return
        if not behind:
            return
        fast = other.dup_acks >= 2 and other.last_ack == seq and time_ns - other.last_ack_time < _FAST_RETRANSMIT_NS
        soon = time_ns - own.next_time < (self._first_rtt or _REORDER_NS)
        if not fast and soon and own.next_seq != after:
            self.tally.out_of_order += 1
        else:
            self.tally.retransmissions += 1
