"""Our half of the stream: what is queued, in flight and lost, and what may leave now.

Responsible for: SND variables, the send queue, congestion control, loss recovery, RTT measurement, the
retransmission and persist deadlines. Refuses to know: states, segments, options, the app's stream.
RFCs: 9293 section 3.8; 5681, 6582 (NewReno), 6675 (SACK recovery), 3042 (limited transmit),
3465 (counting octets), 6298, 6928.

Positions are sequence numbers that do not wrap: the 32-bit number is ``position & MASK``. The octets
that `write` brought are ``una .. end``; the FIN, once wanted, is the position `end` itself.

Recovery has one mechanism for three cases. `lost_edge` is the position below which what was not
selectively acknowledged counts as lost, `high_rxt` the one up to which it was sent again:

=========  ==========================================  ==============================
recovery   entered by                                  lost_edge
=========  ==========================================  ==============================
FAST       third duplicate ACK, app speaks SACK        from the scoreboard (RFC 6675)
RENO       third duplicate ACK, app does not           none; a segment for each partial ACK
TIMEOUT    the retransmission timer                    all that was in flight
=========  ==========================================  ==============================
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from enum import IntEnum

from netstack.core.packet import Octets
from netstack.core.seq import MASK
from netstack.tcp.scoreboard import DUP_THRESH, Scoreboard
from netstack.tcp.timers import NEVER, RetransmissionTimer

MAX_RUN = 65_435
"""Payload octets of a run: 65,535 less the largest headers (IPv6 40, TCP 20, options 40)."""
_SMALL_CHUNK = 1024  # writes below this are joined, so that a dribbling far end cannot cost an object per octet
_OVERRIDE = 0.2  # seconds after which a part of a segment goes into a window too small for all of it (RFC 9293: 0.1-1)


class Recovery(IntEnum):
    """How losses are being repaired."""

    NONE = 0
    FAST = 1
    RENO = 2
    TIMEOUT = 3


class Sender:
    """RFC 9293's SND variables, by name, as positions."""

    __slots__ = (
        "board", "bytes_acked", "capacity", "chunks", "cwnd", "dupacks", "end", "ends", "fin_wanted", "high_rxt",
        "initial_window", "max_run", "max_wnd", "mss", "nxt", "override", "persist_at", "recover", "recovery",
        "retries", "rto_at", "rtx_now", "sack", "scale", "ssthresh", "starved", "timed", "timed_at", "timer", "una",
        "wnd",
    )  # fmt: skip

    def __init__(self, iss: int, capacity: int, timer: RetransmissionTimer) -> None:
        self.una = iss
        self.nxt = iss  # the highest position sent, plus one: never goes back
        self.end = iss + 1
        self.fin_wanted = False
        self.capacity = capacity
        self.chunks: list[Octets] = []
        self.ends: list[int] = []  # position after each chunk
        self.starved = False  # a write found no room
        self.wnd = 0
        self.max_wnd = 0
        self.scale = 0
        self.mss = 536
        self.max_run = 536
        self.cwnd = 0
        self.ssthresh = 1 << 30
        self.bytes_acked = 0
        self.initial_window = 0
        self.sack = False
        self.board: Scoreboard | None = None
        self.dupacks = 0
        self.recovery = Recovery.NONE
        self.recover = iss  # RFC 6582
        self.high_rxt = iss
        self.rtx_now = False  # the first segment in flight is to be sent again, whatever the windows say
        self.override = False  # the window stays too small for a whole segment: send what fits
        self.timer = timer
        self.timed = -1  # position whose acknowledgement ends the measurement, -1 for none
        self.timed_at = 0.0
        self.retries = 0
        self.rto_at = NEVER
        self.persist_at = NEVER

    def begin(self, mss: int, initial_segments: int) -> None:
        """The options are agreed: `mss` octets of payload at most in a segment."""
        mss = self.mss = min(mss, MAX_RUN)  # at an MTU near 65,535 a segment is a whole run
        self.max_run = MAX_RUN // mss * mss
        # RFC 6928 bounds ten segments by 14,600 octets; the hop to the app is a local one.
        self.cwnd = self.initial_window = initial_segments * mss

    # --- the queue ---

    @property
    def space(self) -> int:
        """Octets that `write` would take."""
        room = self.capacity - (self.end - self.una)
        return room if room > 0 and not self.fin_wanted else 0

    @property
    def has_room(self) -> bool:
        """There is so much room that it is worth to say so: a quarter of the buffer."""
        return 4 * (self.end - self.una) <= 3 * self.capacity

    def write(self, data: Octets) -> int:
        """Queue octets; how many were taken."""
        room = self.capacity - (self.end - self.una)
        if self.fin_wanted:
            return 0
        if len(data) > room:
            data = data[: max(room, 0)]
        if not data:
            self.starved = self.starved or room <= 0
            return 0
        ends = self.ends
        self.end = end = self.end + len(data)
        if ends and len(data) < _SMALL_CHUNK and len(self.chunks[-1]) < _SMALL_CHUNK:
            self.chunks[-1] = b"".join((self.chunks[-1], data))
            ends[-1] = end
        else:
            self.chunks.append(data)
            ends.append(end)
        if not self.has_room:
            self.starved = True
        return len(data)

    def octets(self, start: int, stop: int) -> Octets:
        """The octets of ``start .. stop`` (within the queue): a view when one chunk holds them all."""
        ends = self.ends
        at = bisect_right(ends, start)
        chunk, end = self.chunks[at], ends[at]
        offset = start - end + len(chunk)
        if stop <= end:
            if offset == 0 and stop == end:
                return chunk
            return memoryview(chunk)[offset : offset + stop - start]
        parts: list[Octets] = [memoryview(chunk)[offset:]]
        while end < stop:
            at += 1
            chunk = self.chunks[at]
            over = ends[at] - stop
            parts.append(chunk if over <= 0 else memoryview(chunk)[: len(chunk) - over])
            end = ends[at]
        return b"".join(parts)

    @property
    def stream_end(self) -> int:
        """Position after the last octet, the FIN included once it is wanted."""
        return self.end + 1 if self.fin_wanted else self.end

    @property
    def is_fin_acked(self) -> bool:
        """The app acknowledged everything and our FIN."""
        return self.fin_wanted and self.una > self.end

    def release(self) -> None:
        """The connection is over: hold nothing."""
        self.chunks.clear()
        self.ends.clear()
        self.end = self.una
        self.board = None
        self.recovery = Recovery.NONE
        self.rtx_now = False
        self.rto_at = self.persist_at = NEVER

    # --- acknowledgements ---

    def acknowledge(self, una: int, now: float, nsegs: int) -> None:
        """SND.UNA advances to `una` (una < it <= nxt)."""
        acked = una - self.una
        flight = self.nxt - self.una
        self.una = una
        self.retries = 0
        ends = self.ends
        if ends and ends[0] <= una:
            gone = bisect_right(ends, una)
            del ends[:gone], self.chunks[:gone]
        timer = self.timer
        if self.timed >= 0 and una >= self.timed:
            timer.measured(now - self.timed_at)
            self.timed = -1
        if self.board is not None:
            self.board.advance(una)
        if self.recovery:
            self._acknowledge_in_recovery(acked, nsegs)
        else:
            self.dupacks = 0
            cwnd = self.cwnd
            if cwnd < self.ssthresh:
                if cwnd < 2 * flight:  # grow only a window that is used
                    self.cwnd = cwnd + acked
            elif flight > cwnd - 2 * self.mss:
                self.bytes_acked += acked
                if self.bytes_acked >= cwnd:
                    self.bytes_acked -= cwnd
                    self.cwnd = cwnd + self.mss
        if una == self.nxt:
            self.rto_at = NEVER
        else:
            self.rto_at = now + (timer.rto if timer.backoff == 0 else timer.timeout)

    def _acknowledge_in_recovery(self, acked: int, nsegs: int) -> None:
        una, mss = self.una, self.mss
        self.high_rxt = max(self.high_rxt, una)
        if una >= self.recover:
            if self.recovery == Recovery.RENO:
                self.cwnd = min(self.ssthresh, max(self.nxt - una, mss) + mss)  # RFC 6582 section 3.2 step 3
            elif self.recovery == Recovery.FAST:
                self.cwnd = self.ssthresh
            self.recovery = Recovery.NONE
            self.dupacks = 0
            self.rtx_now = False
        elif self.recovery == Recovery.RENO:  # a partial acknowledgement shows the next hole
            self.rtx_now = True
            self.cwnd = max(self.cwnd - acked, 0) + mss
        elif self.recovery == Recovery.FAST:
            self.rtx_now = una >= self.high_rxt and una < self.nxt
        elif self.cwnd < self.ssthresh:
            self.cwnd += min(acked, nsegs * mss)  # RFC 3465: L = 1 after a time-out
        else:
            self.bytes_acked += acked
            if self.bytes_acked >= self.cwnd:
                self.bytes_acked -= self.cwnd
                self.cwnd += mss

    def sacked(self, blocks: Iterable[tuple[int, int]]) -> bool:
        """SACK blocks as 32-bit numbers; True when they were news."""
        board = self.board
        if board is None:
            board = self.board = Scoreboard()
        una, nxt = self.una, self.nxt
        placed = [(una + ((left - una) & MASK), una + ((right - una) & MASK)) for left, right in blocks]
        return board.add(placed, una, nxt) > 0

    def duplicate_ack(self) -> None:
        """A duplicate acknowledgement, or one that brought SACK news."""
        if self.recovery == Recovery.RENO:
            self.cwnd += self.mss
            return
        if self.recovery or self.una >= self.nxt:
            return
        self.dupacks += 1
        board = self.board
        if self.dupacks >= DUP_THRESH or (board is not None and board.lost_below(self.mss) > self.una):
            self._enter_fast_recovery()

    def _enter_fast_recovery(self) -> None:
        if self.una < self.recover and not self.sack:
            return  # RFC 6582 section 4.1: duplicates of what a time-out already sent again
        flight = self.nxt - self.una
        self.ssthresh = max(flight // 2, 2 * self.mss)
        self.recover = self.nxt
        self.high_rxt = self.una
        self.rtx_now = True
        self.bytes_acked = 0
        if self.sack:
            self.recovery = Recovery.FAST
            self.cwnd = self.ssthresh
        else:
            self.recovery = Recovery.RENO
            self.cwnd = self.ssthresh + DUP_THRESH * self.mss

    # --- what may leave ---

    def _lost_edge(self) -> int:
        if self.recovery == Recovery.TIMEOUT:
            return self.recover
        if self.recovery == Recovery.FAST and self.board is not None:
            return max(self.board.lost_below(self.mss), self.una)
        return self.una

    def pipe(self) -> int:
        """Octets that are thought to be in the network (RFC 6675 section 4)."""
        una, nxt = self.una, self.nxt
        if not self.recovery or self.recovery == Recovery.RENO:
            return nxt - una
        lost, again = self._lost_edge(), self.high_rxt
        if self.board is None or not self.board.ranges:
            return (again - una) + max(nxt - max(lost, again), 0)
        missing = self.board.missing
        return missing(una, again) + missing(max(lost, again), nxt)

    def next_span(self, now: float) -> tuple[int, int] | None:
        """The next positions ``start, stop`` to send, new or again; None when nothing may leave.

        `stop` may be one past `end`: the FIN. The span counts as sent.
        """
        if self.rtx_now:
            self.rtx_now = False
            start, stop = self.una, min(self.una + self.mss, self.nxt)
            self._sent_again(start, stop, now)
            return start, stop
        if self.recovery and self.recovery != Recovery.RENO:
            span = self._next_lost(now)
            if span is not None:
                return span
        nxt = self.nxt
        if nxt >= self.end and not (self.fin_wanted and nxt == self.end):
            return None
        return self._next_new(now)

    def _next_lost(self, now: float) -> tuple[int, int] | None:
        start, lost = max(self.high_rxt, self.una), self._lost_edge()
        if start >= lost:
            return None
        hole = (start, lost) if self.board is None else self.board.hole(start, lost)
        if hole is None:
            return None
        start, stop = hole
        mss = self.mss
        room = (self.cwnd - self.pipe()) // mss * mss
        if room <= 0:
            return None
        stop = min(stop, start + room, start + self.max_run, self.una + self.wnd)
        if stop <= start:
            return None  # the app took its window back; the timer goes on with the first segment
        self._sent_again(start, stop, now)
        return start, stop

    def _sent_again(self, start: int, stop: int, now: float) -> None:
        self.high_rxt = max(self.high_rxt, stop)
        self.timed = -1  # Karn: no measurement across a retransmission
        self.rto_at = now + self.timer.timeout

    def _next_new(self, now: float) -> tuple[int, int] | None:
        nxt, una, mss = self.nxt, self.una, self.mss
        waiting = self.end - nxt
        size = waiting
        if waiting:
            window = una + self.wnd - nxt
            room = self.cwnd - (nxt - una if not self.recovery else self.pipe())
            if self.dupacks and not self.recovery:
                room += min(self.dupacks, 2) * mss  # limited transmit (RFC 3042)
            if size > window:
                size = window
            if size > room:
                size = room
            if size > self.max_run:
                size = self.max_run
            if size < waiting:  # a part: whole segments only (RFC 9293 section 3.8.6.2.1)
                if size >= mss:
                    size -= size % mss
                elif size <= 0 or size < window or not (2 * size >= self.max_wnd or self.override):
                    if window < mss and nxt == una and self.persist_at == NEVER:
                        self.persist_at = now + (self.timer.timeout if window <= 0 else _OVERRIDE)
                    return None
            self.override = False
        stop = nxt + size
        if self.fin_wanted and stop == self.end:
            stop += 1
        self.nxt = stop
        self.persist_at = NEVER
        if self.timed < 0:
            self.timed = stop
            self.timed_at = now
        if self.rto_at == NEVER:
            self.rto_at = now + self.timer.timeout
        return nxt, stop

    def timed_out(self) -> None:
        """The retransmission timer expired: everything in flight counts as lost (RFC 5681 section 3.1)."""
        self.timer.back_off()
        self.timed = -1
        if self.board is not None and (self.retries or self.recovery == Recovery.TIMEOUT):
            self.board.clear()  # the app may have reneged
        if self.retries == 0:
            self.ssthresh = max(self.pipe() // 2, 2 * self.mss)
        self.retries += 1
        self.cwnd = self.mss
        self.bytes_acked = 0
        self.dupacks = 0
        self.recovery = Recovery.TIMEOUT
        self.recover = self.nxt
        self.high_rxt = self.una
        self.rtx_now = True  # one segment goes whatever the window says (RFC 9293 section 3.8.6.1)
        self.rto_at = NEVER
