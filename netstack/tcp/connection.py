"""One TCP connection with an app, as its owner sees it: the verbs.

Responsible for: `TcpConnection`: segments in, octets in and out, runs out, events, deadlines.
Refuses to know: sockets, clocks, packets on the wire, policy, other connections.
RFCs: 9293; 7323; 2018; 5681; 6298; 5961. `state` has the theory; `arrival`, `receiver` and `sender` the rest.

::

    connection.receive(segment, now)        a segment from the app
    connection.accept(now)                  the far end is connected: SYN|ACK may leave
    connection.next_event()                 until None: Established, Data, EndOfStream, ...
    connection.write(octets)                towards the app
    connection.consumed(n, now)             the far end took n delivered octets
    connection.runs_to_send(now)            once per batch: everything that leaves now
    connection.next_timeout(), .on_timeout(now)
"""

from __future__ import annotations

from netstack.config import TcpConfig
from netstack.core.drops import DropReason
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Octets, Segment, SegmentRun
from netstack.core.ports import Entropy
from netstack.core.seq import MASK
from netstack.tcp.arrival import HALF, Arrival
from netstack.tcp.events import Data, TcpEvent, TimedOut
from netstack.tcp.state import MAY_SEND, State, Stimulus
from netstack.tcp.timers import KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, NEVER
from netstack.wire.tcp import emit_options, emit_timestamps

_CONTROL = 0x37  # FIN, SYN, RST, ACK, URG: anything but ACK alone takes the long way
_PING_PONG = 3  # answered questions after which the next ACK waits for an answer to ride on
_MAX_DUP_ACKS = 3  # duplicate ACKs in one batch for an app without SACK: what its fast retransmit needs


class TcpConnection(Arrival):
    """A terminating, passively opened connection. Sans-IO; not thread-safe; every `now` in seconds, monotonic."""

    __slots__ = ()

    def __init__(self, config: TcpConfig, key: bytes, *, iss: int, mtu: int, entropy: Entropy | None = None) -> None:
        """`key` is that of the app's SYN (source = app), `iss` as RFC 6528 makes it, `mtu` the tunnel's.

        `entropy` is taken so that callers need not change should something here have to be unpredictable; all that
        is random today comes from `iss`, which makes a replay exact.
        """
        super().__init__(config, key, iss=iss, mtu=mtu)

    # --- segments in ---

    def receive(self, segment: Segment, now: float) -> None:
        """Take in a segment, the SYN first. Never raises, whatever it holds (section 3.10.7)."""
        if self.state is State.ESTABLISHED and segment.flags & _CONTROL == ACK and not segment.options:
            send, recv = self._send, self._recv
            nxt = recv.nxt
            acked = (segment.ack - send.una) & MASK
            if segment.seq == nxt & MASK and acked <= send.nxt - send.una and recv.ranges is None:
                size = len(segment.payload)
                if (size or acked) and nxt + size <= recv.edge and recv.fin_at is None:
                    if self._ts_on:
                        if not segment.has_ts or (segment.ts_val - self._ts_recent) & MASK >= HALF:
                            self._segment_arrives(segment, now)
                            return
                        if nxt == recv.last_ack_sent:
                            self._ts_recent = segment.ts_val
                    self._receive_expected(segment, size, acked, now)
                    return
        self._segment_arrives(segment, now)

    def _receive_expected(self, segment: Segment, size: int, acked: int, now: float) -> None:
        """Header prediction: the next octets in order, or an ACK that advances, and nothing unusual."""
        send, recv = self._send, self._recv
        self._last_received = now
        self._probes = 0
        if acked:
            self._advance(send.una + acked, segment, now)
        if segment.window != self._dup_window:
            self._window_arrives(segment, recv.nxt)
        else:
            self._wl1, self._wl2 = recv.nxt, segment.ack
        if size:
            recv.nxt += size
            recv.held += size
            recv.unacked_segments += segment.nsegs
            if recv.asked:
                recv.exchanges = 0
            recv.asked = True
            if segment.flags & PSH and recv.exchanges < _PING_PONG:
                recv.ack_now = True
            self._events.append(Data(segment.payload))
        self._output = True

    def can_be_replaced_by(self, syn: Segment, now: float) -> bool:
        """May this SYN begin a new connection on the pair? (RFC 9293 MAY-2, RFC 6191, RFC 1122 4.2.2.13.)

        Liberal where the app has plainly forgotten this one: app and engine are on one device, so that
        there are no old duplicates from elsewhere, and no sequence number to be compared.
        """
        if syn.flags & (SYN | ACK | RST | FIN) != SYN or syn.seq == self.irs:
            return self.state is State.CLOSED
        return self.state in (State.CLOSED, State.SYN_RECEIVED, State.TIME_WAIT, State.LAST_ACK, State.CLOSING)

    # --- the owner's verbs ---

    def accept(self, now: float) -> None:
        """The far end is connected: SYN|ACK may leave. Nothing happens twice or after the end."""
        if self.state is State.SYN_RECEIVED and not self._accepted:
            self._accepted = True
            self._syn_ack_due = True
            self._output = True

    def refuse(self, now: float) -> None:
        """The far end or a policy refused: RST|ACK answers the SYN, as a closed port would."""
        self.abort(now)

    def write(self, data: Octets) -> int:
        """Queue octets for the app without copying; how many were taken (at most `send_space`)."""
        if self._close_wanted or self.state not in MAY_SEND:
            return 0
        self._output = True
        return self._send.write(data)

    @property
    def send_space(self) -> int:
        """Octets that `write` would take now."""
        if self._close_wanted or self.state not in MAY_SEND:
            return 0
        send = self._send
        if not send.has_room:
            send.starved = True  # who saw this little wants to be told when there is more
        return send.space

    def consumed(self, n: int, now: float) -> None:
        """`n` octets of delivered `Data` left our hands. Raises ValueError when that is more than there were."""
        recv = self._recv
        if recv.consumed(n):
            self._window_opened()

    def set_receive_limit(self, octets: int) -> None:
        """Octets that may be received and not yet consumed. The advertised right edge never moves back."""
        recv = self._recv
        most = 65535 << recv.scale if self.state is not State.LISTEN else 65535 << 14
        recv.limit = min(octets, most)
        if recv.wants_update():
            self._window_opened()

    def _window_opened(self) -> None:
        if self.state in (State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2):
            self._ack_now()

    def close(self, now: float) -> None:
        """FIN after everything written. In SYN_RECEIVED it waits for the handshake; before `accept` it refuses."""
        state = self.state
        if state is State.SYN_RECEIVED and self._accepted:
            self._close_wanted = True
            self._send.fin_wanted = True
        elif state in (State.LISTEN, State.SYN_RECEIVED):
            self.abort(now)
        elif state in MAY_SEND:
            self._send.fin_wanted = True
            self._output = True
            self._move(Stimulus.CLOSE)

    def abort(self, now: float) -> None:
        """RST, and CLOSED at once. After the end nothing happens."""
        state = self.state
        if state is State.CLOSED:
            return
        recv, send = self._recv, self._send
        if state is State.SYN_RECEIVED and not self._accepted:
            self._reply(SegmentRun(self.reply_key, 0, recv.nxt & MASK, RST | ACK, 0))
        elif state not in (State.LISTEN, State.TIME_WAIT):
            self._reply(SegmentRun(self.reply_key, send.nxt & MASK, recv.nxt & MASK, RST | ACK, 0))
        self._move(Stimulus.ABORT)
        self._finish()

    # --- events ---

    def next_event(self) -> TcpEvent | None:
        """The oldest event that was not fetched yet."""
        events = self._events
        return events.pop(0) if events else None

    def take_drops(self) -> list[DropReason]:
        """Why segments went no further since the last call."""
        drops = self.drops
        if drops is None:
            return []
        self.drops = None
        return drops

    # --- runs out ---

    def runs_to_send(self, now: float) -> list[SegmentRun]:
        """Everything that leaves now: data, retransmissions, FIN, probes, and at most one pure ACK.

        (An app without SACK gets up to three duplicate ACKs: its fast retransmit counts them.)
        """
        if not self._output:
            return []
        self._output = False
        runs: list[SegmentRun] = []
        if self._replies is not None:
            runs += self._replies
            self._replies = None
        if self.state is State.CLOSED:
            return runs
        recv = self._recv
        if self.state is State.SYN_RECEIVED:
            if self._syn_ack_due:
                runs.append(self._syn_ack(now))
            elif recv.ack_now:
                runs.append(self._pure_ack(now))
            return runs
        send = self._send
        if send.nxt != send.end or send.recovery or send.rtx_now or send.fin_wanted:
            self._send_spans(runs, now)
        if recv.ack_now or recv.unacked_segments >= 2 or self._probe:
            self._send_acks(runs, now)
        elif recv.unacked_segments:
            if self._config.delayed_ack == 0.0:
                self._send_acks(runs, now)
            elif recv.delack_at == NEVER:
                recv.delack_at = now + self._config.delayed_ack
        return runs

    def _send_spans(self, runs: list[SegmentRun], now: float) -> None:
        send, recv = self._send, self._recv
        span = send.next_span(now)
        if span is None:
            return
        ack = recv.nxt & MASK
        window = recv.window_field()
        options = emit_timestamps(self._timestamp(now), self._ts_recent) if self._ts_on else b""
        if recv.ranges is None and recv.duplicate is None and recv.dup_acks == 0:
            self._acknowledged()
        if recv.asked:
            recv.asked = False
            recv.exchanges += 1
        while span is not None:
            start, stop = span
            flags = ACK
            payload: Octets = b""
            if stop > send.end:
                flags |= FIN
                stop = send.end
            if stop > start:
                payload = send.octets(start, stop)
                if stop == send.end:
                    flags |= PSH
            runs.append(SegmentRun(self.reply_key, start & MASK, ack, flags, window, send.mss, options, payload))
            span = send.next_span(now)

    def _acknowledged(self) -> None:
        """An ACK of everything received is on its way."""
        recv = self._recv
        recv.ack_now = False
        recv.unacked_segments = 0
        recv.dup_acks = 0
        recv.delack_at = NEVER
        recv.last_ack_sent = recv.nxt

    def _send_acks(self, runs: list[SegmentRun], now: float) -> None:
        recv = self._recv
        count = 1 if self._send.sack else min(max(recv.dup_acks, 1), _MAX_DUP_ACKS)
        ack = self._pure_ack(now)
        runs += [ack] * count

    def _pure_ack(self, now: float) -> SegmentRun:
        send, recv = self._send, self._recv
        if send.sack and (recv.ranges is not None or recv.duplicate is not None):
            stamps = (self._timestamp(now), self._ts_recent) if self._ts_on else None
            options = emit_options(timestamps=stamps, sack=recv.sack_blocks(3 if self._ts_on else 4))
        else:
            options = emit_timestamps(self._timestamp(now), self._ts_recent) if self._ts_on else b""
        recv.duplicate = None
        seq = send.nxt
        if self._probe:
            self._probe = False
            seq = send.una - 1  # an old sequence number: the app has to answer (section 3.8.4)
        window = recv.window_field()
        self._acknowledged()
        return SegmentRun(self.reply_key, seq & MASK, recv.nxt & MASK, ACK, window, send.mss, options)

    def _syn_ack(self, now: float) -> SegmentRun:
        send, recv = self._send, self._recv
        self._syn_ack_due = False
        recv.ack_now = False
        first = send.nxt == send.una
        send.nxt = send.una + 1
        if first:
            send.timed, send.timed_at = send.nxt, now
        else:
            send.timed = -1
        if send.rto_at == NEVER:
            send.rto_at = now + send.timer.timeout
        scale = recv.scale if self._scale_agreed else None
        stamps = (self._timestamp(now), self._ts_recent) if self._ts_on else None
        options = emit_options(mss=self._offered_mss, window_scale=scale, sack_permitted=send.sack, timestamps=stamps)
        window = min(recv.edge - recv.nxt, 65535)  # never scaled in a SYN (RFC 7323 section 2.2)
        recv.last_ack_sent = recv.nxt
        return SegmentRun(self.reply_key, self.iss, recv.nxt & MASK, SYN | ACK, window, self._offered_mss, options)

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `on_timeout` wants to be called, or None."""
        send = self._send
        at = min(send.rto_at, send.persist_at, self._recv.delack_at, self._keepalive_at, self._time_wait_at)
        return None if at == NEVER else at

    def on_timeout(self, now: float) -> None:
        """Every deadline at or before `now` takes effect; `runs_to_send` and `next_event` show how."""
        send, recv = self._send, self._recv
        if now >= recv.delack_at:
            recv.delack_at = NEVER
            recv.exchanges = 0  # the answer did not come in time: no more waiting for it
            self._ack_now()
        if now >= send.rto_at:
            self._retransmission_timeout(now)
        if now >= send.persist_at:
            self._persist_timeout(now)
        if now >= self._keepalive_at:
            self._keepalive_timeout(now)
        if now >= self._time_wait_at:
            self._move(Stimulus.EXPIRE)
            self._finish()

    def _retransmission_timeout(self, now: float) -> None:
        send = self._send
        self._output = True
        if self.state is State.SYN_RECEIVED:
            send.retries += 1
            if send.retries > self._config.synack_retries:
                self._give_up(now)
                return
            send.timer.back_off()
            send.rto_at = NEVER
            self._syn_ack_due = True
        elif send.retries >= self._config.retries:
            self._give_up(now)
        else:
            send.timed_out()

    def _persist_timeout(self, now: float) -> None:
        """Section 3.8.6.1: ask a window that is shut, for as long as the app answers."""
        send = self._send
        send.persist_at = NEVER
        self._output = True
        if send.wnd > 0:
            send.override = True
            return
        self._probes += 1
        if self._probes > self._config.retries:
            self._give_up(now)
            return
        self._probe = True
        send.timer.back_off()
        send.persist_at = now + send.timer.timeout

    def _keepalive_timeout(self, now: float) -> None:
        """Section 3.8.4: ask an app that has been silent. The deadline moves here, not with every segment."""
        silent_until = self._last_received + self._config.keepalive
        if now < silent_until:
            self._keepalive_at = silent_until
        elif self._send.una != self._send.nxt or self._send.persist_at != NEVER:
            self._keepalive_at = now + KEEPALIVE_INTERVAL  # another timer asks already
        elif self._probes >= KEEPALIVE_PROBES:
            self._give_up(now)
        else:
            self._probes += 1
            self._probe = True
            self._output = True
            self._keepalive_at = now + KEEPALIVE_INTERVAL

    def _give_up(self, now: float) -> None:
        self._events.append(TimedOut())
        self.abort(now)

    # --- looking in ---

    @property
    def buffered_octets(self) -> int:
        """Octets held: written and not acknowledged, and arrived out of order."""
        send = self._send
        queued = send.end - send.una if send.chunks else 0
        return queued + self._recv.reassembly_octets + len(self._syn_data)

    @property
    def snd_una(self) -> int:
        """Oldest sequence number that the app has not acknowledged."""
        return self._send.una & MASK

    @property
    def snd_nxt(self) -> int:
        """Next sequence number to send."""
        return self._send.nxt & MASK

    @property
    def snd_wnd(self) -> int:
        """The app's window in octets, scaled."""
        return self._send.wnd

    @property
    def rcv_nxt(self) -> int:
        """Next sequence number expected."""
        return self._recv.nxt & MASK

    @property
    def rcv_wnd(self) -> int:
        """Octets that the app may send: what it was told last."""
        return max(self._recv.edge - self._recv.nxt, 0)

    @property
    def snd_run(self) -> int:
        """Payload octets of a full run: the largest multiple of a full segment that one `SegmentRun` carries."""
        return self._send.max_run

    @property
    def snd_mss(self) -> int:
        """Payload octets of a full segment to the app."""
        return self._send.mss

    @property
    def srtt(self) -> float:
        """Smoothed round trip in seconds; 0 before the first measurement."""
        return self._send.timer.srtt

    @property
    def rttvar(self) -> float:
        """Its variation in seconds."""
        return self._send.timer.rttvar

    @property
    def rto(self) -> float:
        """The retransmission time-out in seconds, back-off applied."""
        return self._send.timer.timeout

    @property
    def ssthresh(self) -> int:
        """Slow start threshold in octets."""
        return self._send.ssthresh

    @property
    def cwnd(self) -> int:
        """Congestion window in octets."""
        return self._send.cwnd
