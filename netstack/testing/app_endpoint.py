"""A small honest TCP on the app's side: the active opener that a `TcpConnection` talks with in tests.

Responsible for: opening, sending and receiving a stream reliably, closing, written independently of `tcp/`
so that one mistake cannot cancel another. Refuses to know: time's source, the link between the two.

It is slow and simple on purpose: a fixed congestion window, go-back-N on a time-out, one segment on three
duplicate ACKs, an ACK for every segment. Offsets count octets from the initial sequence number and never wrap.
"""

from __future__ import annotations

from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Segment, SegmentRun
from netstack.core.seq import MASK, seq_diff
from netstack.testing.builders import make_segment
from netstack.wire.tcp import TcpOptions, emit_options, parse_options


def cut(run: SegmentRun) -> list[SegmentRun]:
    """The segments of a run, as a codec would cut them."""
    payload = bytes(run.payload)
    if len(payload) <= run.mss:
        return [SegmentRun(run.key, run.seq, run.ack, run.flags, run.window, run.mss, run.options, payload)]
    pieces = []
    for at in range(0, len(payload), run.mss):
        last = at + run.mss >= len(payload)
        flags = run.flags if last else run.flags & ~(FIN | PSH)
        seq, piece = (run.seq + at) & MASK, payload[at : at + run.mss]
        pieces.append(SegmentRun(run.key, seq, run.ack, flags, run.window, run.mss, run.options, piece))
    return pieces


class AppEndpoint:
    """One connection. `outbox` collects the segments it sends; `received` the octets it got in order."""

    RTO = 0.3
    BURST = 8  # segments in flight

    def __init__(
        self,
        key: bytes,
        *,
        iss: int,
        mss: int = 1000,
        scale: int | None = 3,
        sack: bool = True,
        timestamps: bool = True,
        window: int = 40_000,
    ) -> None:
        """What it offers in its SYN; `window` is what it takes ahead of its reader (which reads at once)."""
        self.key = key
        self.iss = iss & MASK
        self.irs = 0
        self.mss = mss
        self.offer = (scale, sack, timestamps)
        self.window = window
        self.shift = 0  # our own window's scale once agreed
        self.peer_shift = 0
        self.sack = self.timestamps = False
        self.outbox: list[Segment] = []
        self.received = bytearray()
        self.is_open = self.is_reset = self.has_ended = False
        self._text = bytearray()  # everything ever written; offset 1 is its first octet
        self._fin = False
        self._una = 0
        self._nxt = 0
        self._peer_window = 0
        self._expected = 0  # offset in the peer's numbers
        self._later: dict[int, bytes] = {}
        self._fin_at: int | None = None
        self._duplicates = 0
        self._tries = 0
        self._ts_recent = 0
        self._due: float | None = None

    # --- what its user does ---

    def start(self, now: float) -> None:
        """Send the SYN."""
        self._nxt = 1
        self._syn(now)

    def write(self, octets: bytes, now: float) -> None:
        """Queue octets; they leave as the windows allow."""
        self._text += octets
        self._push(now)

    def close(self, now: float) -> None:
        """FIN after everything written."""
        self._fin = True
        self._push(now)

    @property
    def is_finished(self) -> bool:
        """Both directions ended and everything was acknowledged."""
        return self.has_ended and self._fin and self._una == self._end

    @property
    def _end(self) -> int:
        return 1 + len(self._text) + self._fin

    # --- time ---

    def next_timeout(self) -> float | None:
        """When it wants to retransmit."""
        return self._due

    def on_timeout(self, now: float) -> None:
        """Go back to the first segment that was not acknowledged."""
        self._due = None
        self._tries += 1
        if self._nxt == 1 and not self.is_open:
            self._syn(now)
        elif self._una < self._nxt or self._una < self._end:
            self._nxt = self._una
            self._push(now, forced=True)

    def _arm(self, now: float) -> None:
        self._due = now + min(self.RTO * 2 ** min(self._tries, 4), 4.0)

    # --- out ---

    def _options(self, now: float, *, syn: bool = False) -> tuple[bytes, tuple[int, int] | None]:
        scale, sack, timestamps = self.offer
        stamps = (int(now * 1000) & MASK, self._ts_recent)
        if syn:
            wanted = stamps if timestamps else None
            options = emit_options(mss=self.mss, window_scale=scale, sack_permitted=sack, timestamps=wanted)
            return options, wanted
        blocks: tuple[tuple[int, int], ...] = ()
        if self.sack and self._later:
            blocks = tuple(((self.irs + a) & MASK, (self.irs + b) & MASK) for a, b in self._ranges())[:3]
        return emit_options(sack=blocks), stamps if self.timestamps else None

    def _ranges(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for at in sorted(self._later):
            stop = at + len(self._later[at])
            if found and at <= found[-1][1]:
                found[-1] = (found[-1][0], max(stop, found[-1][1]))
            else:
                found.append((at, stop))
        return found

    def _syn(self, now: float) -> None:
        options, ts = self._options(now, syn=True)
        segment = make_segment(self.key, self.iss, 0, SYN, min(self.window, 65535), options=options, ts=ts)
        self.outbox.append(segment)
        self._arm(now)

    def _emit(self, offset: int, flags: int, payload: bytes, now: float) -> None:
        options, ts = self._options(now)
        self.outbox.append(
            make_segment(
                self.key,
                self.iss + offset,
                self.irs + self._expected,
                flags | ACK,
                self.window >> self.shift,
                payload,
                options=options,
                ts=ts,
            )
        )

    def _push(self, now: float, *, forced: bool = False) -> None:
        if not self.is_open or self.is_reset:
            return
        room = min(self._peer_window, self.BURST * self.mss)
        if forced and room == 0:
            room = 1  # a probe of one octet
        limit = self._una + room
        while self._nxt < self._end:
            stop = min(self._nxt + self.mss, limit, 1 + len(self._text))
            payload = bytes(self._text[self._nxt - 1 : max(stop - 1, 0)]) if stop > self._nxt else b""
            is_last = self._nxt + len(payload) == 1 + len(self._text)
            flags = (FIN if self._fin and is_last else 0) | PSH
            if not payload and not flags & FIN:
                break
            self._emit(self._nxt, flags, payload, now)
            self._nxt += len(payload) + (1 if flags & FIN else 0)
        if self._una < self._end and self._due is None:
            self._arm(now)

    # --- in ---

    def receive(self, run: SegmentRun, now: float) -> None:
        """A segment from the engine (already cut)."""
        if self.is_reset:
            return
        if run.flags & RST:
            self.is_reset = True
            self._due = None
        elif run.flags & SYN:
            self._syn_ack(run, now)
        elif self.is_open and run.flags & ACK:
            self._ack(run, now)
            self._data(run, now)
            self._push(now)

    def _syn_ack(self, run: SegmentRun, now: float) -> None:
        if run.ack != (self.iss + 1) & MASK:
            return
        if not self.is_open:
            options = parse_options(run.options) or TcpOptions()
            self.is_open = True
            self.irs = run.seq
            self._expected = self._una = self._nxt = 1
            self.sack = options.sack_permitted
            if options.window_scale is not None:
                self.peer_shift = options.window_scale
                self.shift = self.offer[0] or 0
            if options.timestamps is not None:
                self.timestamps = True
                self._ts_recent = options.timestamps[0]
            self.mss = min(self.mss, options.mss or 536) - (12 if self.timestamps else 0)
            self._peer_window = run.window
            self._due, self._tries = None, 0
        self._emit(self._nxt, 0, b"", now)
        self._push(now)

    def _ack(self, run: SegmentRun, now: float) -> None:
        offset = self._una + seq_diff(run.ack, self.iss + self._una)
        options = parse_options(run.options)
        if options is not None and options.timestamps is not None:
            self._ts_recent = options.timestamps[0]
        if self._una < offset <= self._end:
            self._una = offset
            self._nxt = max(self._nxt, offset)
            self._duplicates = self._tries = 0
            self._due = None
            if self._una < self._end:
                self._arm(now)
        elif offset == self._una < self._nxt and not run.payload and not run.flags & FIN:
            self._duplicates += 1
            if self._duplicates == 3:
                stop = min(self._una + self.mss, 1 + len(self._text))
                again = bytes(self._text[self._una - 1 : stop - 1])
                is_last = self._fin and self._una + len(again) == 1 + len(self._text) and self._nxt == self._end
                self._emit(self._una, FIN if is_last else 0, again, now)
        if offset >= self._una:
            self._peer_window = run.window << self.peer_shift

    def _data(self, run: SegmentRun, now: float) -> None:
        offset = self._expected + seq_diff(run.seq, self.irs + self._expected)
        if run.payload:
            if offset + len(run.payload) > self._expected + self.window:
                raise AssertionError("the engine sent beyond the app's window")
            kept = self._later.get(offset, b"")
            if len(kept) < len(run.payload):
                self._later[offset] = bytes(run.payload)
        if run.flags & FIN:
            self._fin_at = offset + len(run.payload)
        while ready := [at for at in self._later if at <= self._expected]:
            for at in sorted(ready):
                payload = self._later.pop(at)
                fresh = payload[self._expected - at :]
                self.received += fresh
                self._expected += len(fresh)
        if self._fin_at is not None and self._fin_at == self._expected:
            self._expected += 1
            self._fin_at = None
            self.has_ended = True
        if run.payload or run.flags & FIN or offset != self._expected:
            self._emit(self._nxt, 0, b"", now)
