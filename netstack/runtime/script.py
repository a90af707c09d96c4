"""Turns one captured TCP conversation into a script for the upstream side of a replay.

Responsible for: the far end's connect, octets, FIN and RST out of captured segments, and what the app's side of the
capture expects to be carried.
Refuses to know: time (segments come when they were captured), the engine.
RFCs: 9293 3.10.7 (what a reset means before and after the handshake).
"""

from __future__ import annotations

import errno

from netstack.capture.compare import StreamComparison
from netstack.capture.conversations import TcpConversation
from netstack.capture.dissect import TcpFields
from netstack.capture.streams import StreamOrder
from netstack.core.packet import ACK, FIN, RST, SYN, SegmentRun
from netstack.core.seq import seq_add, seq_lt
from netstack.dns.framing import MessageReader
from netstack.runtime.verdicts import FlowRow
from netstack.upstream.scripted import ScriptedStream

_LARGEST_FILL = 1 << 24


class TcpScript:
    """One conversation. `silent` is set once the engine reset the app: a real app would say nothing more."""

    def __init__(self, conversation: TcpConversation, row: FlowRow, *, is_dns: bool) -> None:
        self.conversation = conversation
        self.row = row
        self.silent = False
        self.stream: ScriptedStream | None = None
        self.answers: list[bytes] = []  # whole DNS messages of the far end, for the resolver
        self.up = StreamComparison()
        self.down = StreamComparison()
        if not is_dns:  # DNS is answered message by message, so the octets are not the captured ones
            row.up, row.down = self.up, self.down
        self._reader = MessageReader() if is_dns else None
        self._connect: int | None = None
        self._early: list[bytes] = []
        self._fin_at: int | None = None
        self._ended = False
        self._failed = 0
        self._from_app = StreamOrder(self.up.expect, self._lost_up)
        self._from_peer = StreamOrder(self._deliver, self._lost_down)
        self._to_app = StreamOrder(self.down.got, lambda size: None)

    # --- the capture ---

    def from_app(self, fields: TcpFields, payload: bytes) -> None:
        """A segment of the app, before the engine has it."""
        if fields.flags & ACK:
            self._from_peer.acknowledged(fields.ack)
        self._from_app.segment(fields.seq, payload, fields.flags & SYN != 0)

    def from_peer(self, fields: TcpFields, payload: bytes) -> None:
        """A segment of the far end, at the time it was captured."""
        flags = fields.flags
        if flags & ACK:
            self._from_app.acknowledged(fields.ack)
        if flags & RST:
            self._reset(fields)
            return
        self._connected(0)
        self._from_peer.segment(fields.seq, payload, flags & SYN != 0)
        if flags & FIN:
            self._fin_at = seq_add(fields.seq, len(payload) + (1 if flags & SYN else 0))
        if self._fin_at is not None and self._from_peer.next_seq == self._fin_at and not self._ended:
            self._ended = True
            if self.stream is not None:
                self.stream.end()

    def unreachable(self, error: int) -> None:
        """An ICMP error answered the SYN."""
        self._connected(error)

    def _reset(self, fields: TcpFields) -> None:
        if self._connect is None:
            self._connected(errno.ECONNREFUSED)
        elif self._from_peer.started and seq_lt(fields.seq, self._from_peer.next_seq):
            return  # an old one, or one that was forged: no receiver believes it (RFC 5961 3.2)
        elif self._connect == 0:
            self._failed = errno.ECONNRESET
            if self.stream is not None:
                self.stream.fail(self._failed)

    def _connected(self, error: int) -> None:
        if self._connect is None:
            self._connect = error
            if self.stream is not None:
                self.stream.connect(error)

    def _deliver(self, octets: bytes) -> None:
        self.down.expect(octets)
        if self._reader is not None:
            self._reader.feed(octets)
            while (message := self._reader.next_message()) is not None:
                self.answers.append(message)
        elif self.stream is not None:
            self.stream.deliver(octets)
        elif not self.silent:
            self._early.append(octets)

    def _lost_up(self, size: int) -> None:
        self.up.gap()

    def _lost_down(self, size: int) -> None:
        """The capture lacks octets that the app had: zeros take their place, or no later ACK would fit."""
        self.down.gap()
        if 0 < size <= _LARGEST_FILL:
            self._deliver(bytes(size))

    # --- the engine ---

    def attach(self, stream: ScriptedStream) -> None:
        """The engine dialled: what has happened already happens now."""
        self.stream = stream
        stream.on_sent = self.up.got
        if self._connect is not None:
            stream.connect(self._connect)
        for octets in self._early:
            stream.deliver(octets)
        self._early.clear()
        if self._failed:
            stream.fail(self._failed)
        elif self._ended:
            stream.end()

    def sent_to_app(self, run: SegmentRun) -> None:
        """The engine sent this to the app."""
        if run.flags & RST:
            self.silent = True
            self._early.clear()
            return
        self._to_app.segment(run.seq, bytes(run.payload), run.flags & SYN != 0)
