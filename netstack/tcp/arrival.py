"""SEGMENT ARRIVES: what a segment from the app does to a connection.

Responsible for: RFC 9293 section 3.10.7, in its order, with RFC 5961's challenges and RFC 7323's PAWS.
Refuses to know: what is sent when (`connection`), how octets are put in order (`receiver`) or sent (`sender`).
RFCs: 9293 section 3.10.7; 5961; 7323 sections 4 and 5; 6191.

This is the long way, which every segment may take. `TcpConnection.receive` has a short one in front
of it for the two segments that bulk transfer consists of.
"""

from __future__ import annotations

from netstack.config import TcpConfig
from netstack.core.drops import DropReason
from netstack.core.flow import reverse_key
from netstack.core.packet import ACK, FIN, RST, SYN, Segment, SegmentRun
from netstack.core.seq import MASK, seq_diff, seq_lt
from netstack.tcp.events import Closed, Data, EndOfStream, Established, Reset, SendSpace, TcpEvent
from netstack.tcp.receiver import Receiver
from netstack.tcp.reset import opens_connection, reset_for
from netstack.tcp.sender import Sender
from netstack.tcp.state import MAY_RECEIVE, MAY_SEND, State, Stimulus, next_state
from netstack.tcp.timers import NEVER, RetransmissionTimer
from netstack.wire.tcp import TcpOptions, parse_options

_JUMBO = 16_384  # octets of a packet
HALF = 0x80000000
MAX_SCALE = 14  # RFC 7323 section 2.3
_PAWS_IDLE = 24 * 86_400.0  # seconds after which TS.Recent says nothing any more (RFC 7323 section 5.5)
_CHALLENGES_PER_SECOND = 10
_LEAST_MSS = 48  # an app that asks for less would cost a segment per octet (Linux: tcp_min_snd_mss)


def enough(octets: int, mtu: int) -> int:
    """A window of `octets`, several times as large where it would hold only a few packets."""
    return octets * max(1, mtu // _JUMBO)


class Arrival:
    """The state of a connection and the processing of segments; `TcpConnection` adds the verbs."""

    __slots__ = (
        "_accepted",
        "_challenges",
        "_challenges_since",
        "_close_wanted",
        "_config",
        "_dup_window",
        "_events",
        "_header",
        "_keepalive_at",
        "_last_received",
        "_offered_mss",
        "_output",
        "_probe",
        "_probes",
        "_recv",
        "_replies",
        "_scale_agreed",
        "_send",
        "_syn_ack_due",
        "_syn_data",
        "_time_wait_at",
        "_ts_offset",
        "_ts_on",
        "_ts_recent",
        "_wl1",
        "_wl2",
        "drops",
        "irs",
        "iss",
        "key",
        "reply_key",
        "state",
    )

    def __init__(self, config: TcpConfig, key: bytes, *, iss: int, mtu: int) -> None:
        self._config = config
        self.key = key
        self.reply_key = reverse_key(key)
        self.state = State.LISTEN
        self.iss = iss & MASK
        self.irs = 0
        self._header = 40 if key[0] == 4 else 60
        self._offered_mss = max(mtu - self._header, _LEAST_MSS)
        timer = RetransmissionTimer(config.rto_initial, config.rto_min, config.rto_max)
        self._send = Sender(self.iss, enough(config.send_buffer, mtu), timer)
        self._recv = Receiver(config.window, self._offered_mss)
        self._events: list[TcpEvent] = []
        self.drops: list[DropReason] | None = None  # fetched with `take_drops`; None when there are none
        self._replies: list[SegmentRun] | None = None
        self._accepted = False
        self._close_wanted = False
        self._output = False  # runs_to_send has something to look at
        self._scale_agreed = False  # both sides scale, or neither
        self._syn_ack_due = False
        self._probe = False
        self._probes = 0  # keep-alive or zero-window probes since the app was last heard
        self._syn_data = b""
        self._ts_on = False
        self._ts_recent = 0
        # The clock's offset hides our uptime; taken from the ISS it needs no further entropy and replays.
        self._ts_offset = (self.iss * 2_654_435_761) & MASK
        self._wl1 = self._wl2 = 0
        self._dup_window = -1  # raw window of the last segment: a duplicate ACK repeats it
        self._challenges = 0
        self._challenges_since = -1.0
        self._keepalive_at = NEVER
        self._time_wait_at = NEVER
        self._last_received = 0.0

    # --- small things ---

    def _drop(self, reason: DropReason) -> None:
        if self.drops is None:
            self.drops = []
        self.drops.append(reason)

    def _reply(self, run: SegmentRun | None) -> None:
        if run is not None:
            if self._replies is None:
                self._replies = []
            self._replies.append(run)
            self._output = True

    def _ack_now(self) -> None:
        self._recv.ack_now = True
        self._output = True

    def _challenge(self, now: float) -> None:
        """RFC 5961: answer a suspect segment with an ACK, so many per second (section 7)."""
        if not 0.0 <= now - self._challenges_since < 1.0:
            self._challenges_since = now
            self._challenges = 0
        self._challenges += 1
        if self._challenges > _CHALLENGES_PER_SECOND:
            self._drop(DropReason.TCP_CHALLENGE_LIMITED)
        else:
            self._ack_now()

    def _move(self, stimulus: Stimulus) -> State:
        self.state = state = next_state(self.state, stimulus)
        return state

    def _finish(self) -> None:
        """The state has become CLOSED: let go of everything and say so, once."""
        self._send.release()
        self._recv.release()
        self._syn_data = b""
        self._keepalive_at = self._time_wait_at = NEVER
        self._syn_ack_due = self._probe = False
        self._events.append(Closed())

    # --- RFC 9293 section 3.10.7 ---

    def _segment_arrives(self, segment: Segment, now: float) -> None:
        state = self.state
        if state is State.CLOSED:
            self._drop(DropReason.TCP_AFTER_CLOSE)
        elif state is State.LISTEN:
            self._arrives_in_listen(segment, now)
        elif not self._accepted:
            self._arrives_before_accept(segment, now)
        else:
            self._arrives_in_other_states(segment, now)

    def _arrives_in_listen(self, segment: Segment, now: float) -> None:
        """3.10.7.2: the SYN."""
        if not opens_connection(segment):
            self._drop(DropReason.TCP_BAD_FLAGS)
            return
        options = parse_options(segment.options) or TcpOptions()
        config, send, recv = self._config, self._send, self._recv
        default = 536 if self._header == 40 else 1220
        mss = min(max(options.mss or default, _LEAST_MSS), self._offered_mss)
        if options.timestamps is not None or segment.has_ts:
            self._ts_on = True
            self._ts_recent = segment.ts_val if segment.has_ts else (options.timestamps or (0, 0))[0]
            mss -= 12
        if options.window_scale is not None:
            self._scale_agreed = True
            send.scale = min(options.window_scale, MAX_SCALE)
            largest = enough(config.window_max, self._offered_mss)
            while largest >> recv.scale > 65535 and recv.scale < MAX_SCALE:
                recv.scale += 1
        send.sack = options.sack_permitted
        send.begin(mss, config.initial_cwnd)
        self.irs = segment.seq
        recv.limit = min(recv.limit, 65535 << recv.scale)
        recv.begin(segment.seq)
        self._learn_window(segment, 0, 0)
        if segment.payload:  # kept, and delivered once the handshake is complete (MAY of 3.10.7.2)
            self._syn_data = bytes(segment.payload[: recv.limit])
            recv.nxt += len(self._syn_data)
            recv.held += len(self._syn_data)
        self._last_received = now
        self._move(Stimulus.SYN)

    def _arrives_before_accept(self, segment: Segment, now: float) -> None:
        """SYN_RECEIVED while the far end is not reached yet: nothing but a RST counts."""
        self._last_received = now
        flags = segment.flags
        if flags & RST:
            if segment.seq == self._recv.nxt & MASK or segment.seq == (self.irs + 1) & MASK:
                self._reset_by_app()
            else:
                self._drop(DropReason.TCP_BAD_RST)
        elif flags & ACK:
            self._drop(DropReason.TCP_BAD_ACK)
            self._reply(reset_for(segment))
        elif not opens_connection(segment):
            self._drop(DropReason.TCP_BAD_FLAGS)

    def _arrives_in_other_states(self, segment: Segment, now: float) -> None:
        """3.10.7.4."""
        recv = self._recv
        flags = segment.flags
        if flags & (SYN | FIN) == SYN | FIN or flags & (SYN | RST) == SYN | RST:
            self._drop(DropReason.TCP_BAD_FLAGS)
            return
        position = recv.position(segment.seq)
        length = len(segment.payload) + (flags & FIN)
        if flags & RST:
            self._reset_arrives(position, now)
            return
        if flags & SYN:
            self._syn_arrives(segment, now)
            return
        if self._ts_on and segment.has_ts and not self._passes_paws(segment, now):
            return
        # first: the sequence number
        if not recv.is_acceptable(position, length) and not self._may_still_acknowledge(position, length):
            self._unacceptable(segment, position, now)
            return
        # fourth (third is security): SYN was handled above; fifth: the ACK
        if not flags & ACK:
            self._drop(DropReason.TCP_NO_ACK)
            return
        self._last_received = now
        self._probes = 0
        if not self._ack_arrives(segment, position, length, now):
            return
        if self._ts_on and segment.has_ts and position <= recv.last_ack_sent:
            self._ts_recent = segment.ts_val  # RFC 7323 section 4.3: what the next ACK echoes
        # seventh: the octets; eighth: FIN
        if length and self.state is not State.CLOSED:
            self._octets_arrive(segment, position, now)

    def _may_still_acknowledge(self, position: int, length: int) -> bool:
        """With the window shut, the ACK of a segment that would be the next one still counts (3.10.7.4)."""
        recv = self._recv
        return length > 0 and position == recv.nxt and recv.edge <= recv.nxt

    def _unacceptable(self, segment: Segment, position: int, now: float) -> None:
        """Old octets, octets beyond the window, keep-alives: an ACK says what is expected."""
        recv = self._recv
        self._last_received = now
        self._probes = 0
        if position >= recv.edge:
            self._drop(DropReason.TCP_OUT_OF_WINDOW)
        elif segment.payload and position + len(segment.payload) <= recv.nxt and position >= recv.nxt - (1 << 30):
            recv.duplicate = (position, position + len(segment.payload))
        if self.state is State.TIME_WAIT and segment.flags & FIN:
            self._time_wait_at = now + self._config.time_wait
        self._ack_now()

    def _passes_paws(self, segment: Segment, now: float) -> bool:
        """RFC 7323 section 5.3 R1: an older timestamp is an older segment, unless ours is older than 24 days."""
        if (segment.ts_val - self._ts_recent) & MASK < HALF:
            return True
        if now - self._last_received > _PAWS_IDLE:
            self._ts_recent = segment.ts_val
            return True
        self._drop(DropReason.TCP_PAWS)
        self._ack_now()
        return False

    def _reset_arrives(self, position: int, now: float) -> None:
        """RFC 5961 section 3.2: exact resets, in the window is challenged, elsewhere is ignored."""
        recv = self._recv
        if position == recv.nxt:
            self._reset_by_app()
        elif recv.nxt < position < recv.edge:
            self._drop(DropReason.TCP_BAD_RST)
            self._challenge(now)
        else:
            self._drop(DropReason.TCP_BAD_RST)

    def _reset_by_app(self) -> None:
        self._move(Stimulus.RESET)
        self._events.append(Reset())
        self._finish()

    def _syn_arrives(self, segment: Segment, now: float) -> None:
        """The app's SYN once more, or one that has no business here (RFC 5961 section 4.2)."""
        if self.state is State.SYN_RECEIVED and segment.seq == self.irs and not segment.flags & ACK:
            self._syn_ack_due = True  # our SYN|ACK was lost: the same one again
            self._output = True
            return
        self._drop(DropReason.TCP_BAD_FLAGS)
        self._challenge(now)

    # --- the ACK field ---

    def _learn_window(self, segment: Segment, scale: int, position: int) -> None:
        send = self._send
        send.wnd = segment.window << scale
        if send.wnd > send.max_wnd:
            send.max_wnd = send.wnd
        self._dup_window = segment.window
        self._wl1, self._wl2 = position, segment.ack

    def _ack_arrives(self, segment: Segment, position: int, length: int, now: float) -> bool:
        """3.10.7.4 fifth check; False when the segment goes no further."""
        send = self._send
        ack = send.una + seq_diff(segment.ack, send.una & MASK)
        if ack > send.nxt and segment.ack_advance:
            # of segments that were coalesced the last acknowledges too much; what the first said still counts
            first = Segment(segment.key, segment.seq, (segment.ack - segment.ack_advance) & MASK, ACK, segment.window)
            if not self._ack_arrives(first, position, 0, now):
                return False
        if self.state is State.SYN_RECEIVED:
            if ack != send.nxt or ack == send.una:
                self._drop(DropReason.TCP_BAD_ACK)
                self._reply(reset_for(segment))
                return False
            self._establish(segment, position, now)
            return True
        if ack > send.nxt:
            self._drop(DropReason.TCP_BAD_ACK)
            self._challenge(now)
            return False
        if ack < send.una - max(send.max_wnd, 1):  # RFC 5961 section 5.2
            self._drop(DropReason.TCP_BAD_ACK)
            self._challenge(now)
            return False
        news = send.sack and segment.options != b"" and self._sack_arrives(segment.options)
        if ack > send.una:
            self._advance(ack, segment, now)
        elif ack == send.una and send.nxt > ack:
            plain = length == 0 and segment.window == self._dup_window and segment.nsegs == 1
            if news or plain:
                send.duplicate_ack()
        if position > self._wl1 or (position == self._wl1 and not seq_lt(segment.ack, self._wl2)):
            self._window_arrives(segment, position)
        self._output = True
        return self.state is not State.CLOSED

    def _sack_arrives(self, options: bytes) -> bool:
        parsed = parse_options(options)
        return parsed is not None and self._send.sacked(parsed.sack)

    def _establish(self, segment: Segment, position: int, now: float) -> None:
        send = self._send
        send.una = send.nxt
        send.rto_at = NEVER
        if send.timed >= 0:
            send.timer.measured(now - send.timed_at)
        send.timed = -1
        send.retries = 0
        send.timer.backoff = 0
        self._learn_window(segment, send.scale, position)
        self._move(Stimulus.ACK_OF_SYN)
        self._events.append(Established())
        if self._config.keepalive:
            self._keepalive_at = now + self._config.keepalive
        if self._syn_data:
            self._events.append(Data(self._syn_data))
            self._syn_data = b""
        if self._close_wanted:
            self._close_wanted = False
            self._move(Stimulus.CLOSE)
        self._output = True

    def _advance(self, ack: int, segment: Segment, now: float) -> None:
        """New octets were acknowledged."""
        send = self._send
        if send.timer.backoff and self._ts_on and segment.has_ts:
            # Karn does not apply: the echo tells which transmission is acknowledged (RFC 7323 section 4.1)
            elapsed = (self._timestamp(now) - segment.ts_ecr) & MASK
            if elapsed < 60_000:
                send.timer.measured(elapsed / 1000)
        send.acknowledge(ack, now, segment.nsegs)
        if send.starved and send.has_room and self.state in MAY_SEND:
            send.starved = False
            self._events.append(SendSpace())
        if send.fin_wanted and ack > send.end:
            self._fin_acked(now)

    def _fin_acked(self, now: float) -> None:
        if self.state in (State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK):
            state = self._move(Stimulus.ACK_OF_FIN)
            if state is State.TIME_WAIT:
                self._enter_time_wait(now)
            elif state is State.CLOSED:
                self._finish()

    def _window_arrives(self, segment: Segment, position: int) -> None:
        send = self._send
        before = send.wnd
        self._learn_window(segment, send.scale, position)
        if send.wnd > before:
            send.persist_at = NEVER
            send.timer.backoff = 0 if send.una == send.nxt else send.timer.backoff
        if send.wnd == 0:
            send.retries = 0  # it is alive, it has no room (MUST-37)

    def _timestamp(self, now: float) -> int:
        """TSval: milliseconds and an offset (RFC 7323 section 5.4)."""
        return (int(now * 1000) + self._ts_offset) & MASK

    # --- octets and FIN ---

    def _octets_arrive(self, segment: Segment, position: int, now: float) -> None:
        """3.10.7.4 seventh and eighth check."""
        recv = self._recv
        if self.state not in MAY_RECEIVE:  # after its FIN an app has nothing to say
            self._drop(DropReason.TCP_OUT_OF_WINDOW)
            self._ack_now()
            return
        payload = segment.payload
        stop = position + len(payload)
        if segment.flags & FIN and recv.fin_at is None and stop < recv.edge + 1:
            recv.fin_at = max(stop, recv.nxt)
        if payload:
            gap = position > recv.nxt
            ready, kept_all = recv.take(position, payload)
            if not kept_all:
                full = gap and stop <= recv.edge and (recv.fin_at is None or stop <= recv.fin_at)
                self._drop(DropReason.TCP_REASSEMBLY_FULL if full else DropReason.TCP_OUT_OF_WINDOW)
                recv.ack_now = True
            for octets in ready:
                self._events.append(Data(octets))
            recv.unacked_segments += segment.nsegs
            if not ready:
                recv.ack_now = True
                if gap:
                    recv.dup_acks += segment.nsegs
            elif segment.flags & 8:  # PSH
                recv.ack_now = True
        elif position > recv.nxt:
            recv.ack_now = True  # a FIN beyond a gap
        self._output = True
        if recv.fin_at is not None and recv.nxt >= recv.fin_at:
            self._fin_arrives(now)

    def _fin_arrives(self, now: float) -> None:
        self._recv.nxt += 1
        self._recv.edge = max(self._recv.edge, self._recv.nxt)
        self._ack_now()
        self._events.append(EndOfStream())
        self._move(Stimulus.FIN)
        if self.state is State.TIME_WAIT:
            self._enter_time_wait(now)

    def _enter_time_wait(self, now: float) -> None:
        self._keepalive_at = NEVER
        self._send.rto_at = self._send.persist_at = NEVER
        self._time_wait_at = now + self._config.time_wait
