"""A play for one TCP connection: what happens, and what must follow, line by line.

Responsible for: `Playbook`, which runs steps against a `TcpConnection` on virtual time.
Refuses to know: the engine, packets on the wire, real time.

It reads like packetdrill; the left side is what happens, the right side what must follow from it::

    play = Playbook()
    play(
        syn(mss=1460)                  >> nothing,                      # withheld
        accept(after=0.02)             >> syn_ack(ack=1),
        ack()                          >> tells(Established),
        data(b"ping")                  >> hears(b"ping") >> acks(5),
        write(b"pong")                 >> sends(4, seq=1, payload=b"pong"),
        ack(5)                         >> nothing,
        after(7300)                    >> anything,
    )

A step that expects no run demands that there is none; a drop that is not expected fails the step.
"""

from __future__ import annotations

from typing import Any

from netstack.config import TcpConfig
from netstack.core.packet import ACK, FIN, RST, SYN, SegmentRun
from netstack.core.seq import MASK, seq_diff, seq_lt
from netstack.tcp.connection import TcpConnection
from netstack.tcp.events import Data, TcpEvent
from netstack.testing.builders import Arriving, Passing, Step, Stimulus, Verb, accept, ack, flow_key, make_segment, syn
from netstack.testing.checkers import Outcome
from netstack.wire.tcp import emit_options, parse_options


class Playbook:
    """One connection, its app and its owner. The owner consumes what it gets at once unless `stalled`."""

    def __init__(
        self,
        config: TcpConfig | None = None,
        *,
        version: int = 4,
        iss: int = 0xFFFFF000,
        irs: int = 0x7FFFFF00,
        mtu: int = 1500,
        win: int = 65535,
        stalled: bool = False,
    ) -> None:
        """`iss` and `irs` are close to a wrap by default, so that every play crosses one."""
        self.connection = TcpConnection(config or TcpConfig(), flow_key(version), iss=iss, mtu=mtu)
        self.now = 100.0
        self.start = self.now
        self.iss, self.irs = iss & MASK, irs & MASK
        self.win = win
        self.stalled = stalled
        self.seq = self.irs  # the app's next number
        self.heard = 0  # what the app acknowledges by default (absolute)
        self.ts_base: int | None = None
        self.ts_recent = 0

    def __call__(self, *steps: Step | Stimulus) -> Playbook:
        """Run the steps. Raises AssertionError naming the step."""
        for number, item in enumerate(steps, 1):
            step = item if isinstance(item, Step) else Step(item, [])
            try:
                self._play(step)
            except AssertionError as problem:
                raise AssertionError(f"step {number}, {step.stimulus}: {problem}") from None
        return self

    def _play(self, step: Step) -> None:
        outcome = self.perform(step.stimulus)
        runs, drops = list(outcome.runs), list(outcome.drops)
        for expectation in step.expectations:
            expectation.check(outcome, runs, drops)
        assert not runs, f"more than expected: {outcome.describe()}"
        assert not drops, f"a drop that was not expected: {outcome.describe()}"

    def perform(self, stimulus: Stimulus) -> Outcome:
        """Let a stimulus happen; everything that follows from it."""
        runs: list[SegmentRun] = []
        events: list[TcpEvent] = []
        octets = bytearray()
        until = self.start + stimulus.at if stimulus.at is not None else self.now + stimulus.after
        while (due := self.connection.next_timeout()) is not None and due <= until:
            self.now = max(self.now, due)
            self.connection.on_timeout(self.now)
            self._settle(runs, events, octets)
        self.now = max(self.now, until)
        if isinstance(stimulus, Arriving):
            self.connection.receive(self._segment(stimulus), self.now)
        elif isinstance(stimulus, Verb):
            self._call(stimulus)
        else:
            assert isinstance(stimulus, Passing)
        self._settle(runs, events, octets)
        connection = self.connection
        return Outcome(runs, events, connection.take_drops(), connection.state, self.iss, self.irs, bytes(octets))

    def _call(self, verb: Verb) -> None:
        method = getattr(self.connection, verb.name)
        if verb.name in ("write", "set_receive_limit"):
            method(*verb.arguments)
        else:
            method(*verb.arguments, self.now)

    def _settle(self, runs: list[SegmentRun], events: list[TcpEvent], octets: bytearray) -> None:
        connection = self.connection
        while (event := connection.next_event()) is not None:
            events.append(event)
            if type(event) is Data:
                octets += event.payload
                if not self.stalled:
                    connection.consumed(len(event.payload), self.now)
        for run in connection.runs_to_send(self.now):
            runs.append(run)
            self._hear(run)

    def _hear(self, run: SegmentRun) -> None:
        """The app notes what it got, so that its next ACK is the natural one."""
        if run.flags & RST:
            return
        stop = (run.seq + len(run.payload) + bool(run.flags & SYN) + bool(run.flags & FIN)) & MASK
        if run.flags & SYN or seq_lt(self.heard, stop):
            self.heard = stop
        options = parse_options(run.options)
        if options is not None and options.timestamps is not None:
            self.ts_recent = options.timestamps[0]

    def _segment(self, told: Arriving) -> Any:
        offered = told.new_connection
        if offered is not None:
            self.ts_base = None if offered["ts"] is None else offered["ts"] - int(self.now * 1000)
        seq = self.seq if told.seq is None else (self.irs + told.seq) & MASK
        has_ack = told.flags & ACK
        number = self.heard if told.ack is None else (self.iss + told.ack) & MASK
        if told.ts is None or told.ts is True:
            ts = None
            if self.ts_base is not None:
                ts = ((self.ts_base + int(self.now * 1000)) & MASK, self.ts_recent)
        else:
            ts = told.ts or None
        options = told.options
        if told.sack:
            blocks = tuple(((self.iss + left) & MASK, (self.iss + right) & MASK) for left, right in told.sack)
            options += emit_options(sack=blocks)
        stop = (seq + len(told.payload) + bool(told.flags & SYN) + bool(told.flags & FIN)) & MASK
        if not told.flags & RST and seq_diff(stop, self.seq) > 0:
            self.seq = stop
        win = self.win if told.win is None else told.win
        return make_segment(
            self.connection.key,
            seq,
            number if has_ack else 0,
            told.flags,
            win,
            told.payload,
            options=options,
            ts=ts,
            nsegs=told.nsegs,
            ack_advance=told.ack_advance,
        )


def established(
    config: TcpConfig | None = None,
    *,
    mss: int | None = 1460,
    wscale: int | None = None,
    sack: bool = False,
    ts: int | None = None,
    **settings: Any,
) -> Playbook:
    """A play whose handshake is over, with what the app offered in its SYN."""
    play = Playbook(config, **settings)
    for stimulus in (syn(mss=mss, wscale=wscale, sack=sack, ts=ts), accept(after=0.01), ack(after=0.001)):
        play.perform(stimulus)
    assert play.connection.state.name == "ESTABLISHED"
    return play
