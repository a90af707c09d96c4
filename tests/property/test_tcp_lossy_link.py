"""Both streams arrive whole over a link that loses, doubles, reorders and delays; nothing a segment holds breaks it."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netstack.config import TcpConfig
from netstack.core.packet import ACK, Segment, SegmentRun
from netstack.core.seq import MASK, seq_diff, seq_le
from netstack.tcp import Closed, Data, EndOfStream, State, TcpConnection
from netstack.testing.app_endpoint import AppEndpoint, cut
from netstack.testing.builders import data, flow_key, make_segment
from netstack.testing.playbook import Playbook, established


@dataclass
class Link:
    """What happens to a packet on its way, in either direction."""

    loss: float
    duplication: float
    jitter: float
    delay: float = 0.01


class Simulation:
    """An app, a connection, a link between them and an owner who reads as it pleases."""

    def __init__(self, seed: int, link: Link, app: AppEndpoint, connection: TcpConnection, down: bytes) -> None:
        self.random = random.Random(seed)
        self.link = link
        self.app, self.connection = app, connection
        self.down = down
        self.up = bytearray()
        self.unread = 0
        self.now = 0.0
        self.ended = self.closed = self.accepted = False
        self._serial = 0
        self._heap: list[tuple[float, int, Segment | SegmentRun]] = []

    def _carry(self, packet: Segment | SegmentRun) -> None:
        chance = self.random.random
        copies = 0 if chance() < self.link.loss else 2 if chance() < self.link.duplication else 1
        for _ in range(copies):
            self._serial += 1
            at = self.now + self.link.delay + chance() * self.link.jitter
            heapq.heappush(self._heap, (at, self._serial, packet))

    def _settle(self) -> None:
        connection, app, now = self.connection, self.app, self.now
        while (event := connection.next_event()) is not None:
            assert not self.closed
            if type(event) is Data:
                self.up += event.payload
                self.unread += len(event.payload)
            elif type(event) is EndOfStream:
                self.ended = True
            elif type(event) is Closed:
                self.closed = True
        if self.unread and self.random.random() < 0.7:
            took = self.random.randint(1, self.unread)
            self.unread -= took
            connection.consumed(took, now)
        while (
            self.accepted
            and self.down
            and connection.state in (State.SYN_RECEIVED, State.ESTABLISHED, State.CLOSE_WAIT)
        ):
            taken = connection.write(self.down[: self.random.randint(1, 8000)])
            if not taken:
                break
            self.down = self.down[taken:]
            if not self.down:
                connection.close(now)
        for run in connection.runs_to_send(now):
            for piece in cut(run):
                self._carry(piece)
        for segment in app.outbox:
            self._carry(segment)
        app.outbox.clear()
        check_invariants(connection)

    def run(self, limit: float) -> None:
        """Until both are done, or `limit` virtual seconds."""
        self.app.start(self.now)
        self._settle()
        accept_at: float | None = None
        while self.now < limit and not (self.app.is_finished and self.closed):
            if not self.accepted and accept_at is None and self.connection.state is State.SYN_RECEIVED:
                accept_at = self.now + 0.04
            deadlines = [self.connection.next_timeout(), self.app.next_timeout(), accept_at]
            if self.unread:
                deadlines.append(self.now + 0.05)
            due = min((at for at in deadlines if at is not None), default=limit)
            if self._heap and self._heap[0][0] <= due:
                self.now, _, packet = heapq.heappop(self._heap)
                if isinstance(packet, Segment):
                    self.connection.receive(packet, self.now)
                else:
                    self.app.receive(packet, self.now)
            else:
                self.now = max(due, self.now)
                if accept_at is not None and self.now >= accept_at:
                    accept_at = None
                    self.connection.accept(self.now)
                    self.accepted = True
                at = self.connection.next_timeout()
                if at is not None and at <= self.now:
                    self.connection.on_timeout(self.now)
                at = self.app.next_timeout()
                if at is not None and at <= self.now:
                    self.app.on_timeout(self.now)
            self._settle()


def check_invariants(connection: TcpConnection) -> None:
    """What holds at every moment."""
    assert seq_le(connection.snd_una, connection.snd_nxt)
    assert 0 <= connection.rcv_wnd <= 2 << 20
    assert connection.buffered_octets <= 2 << 20
    assert connection.cwnd == 0 or connection.cwnd >= 36
    if connection.state is State.CLOSED:
        assert connection.buffered_octets == 0
        assert connection.next_timeout() is None


links = st.builds(
    Link,
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.25]),
    duplication=st.sampled_from([0.0, 0.05, 0.3]),
    jitter=st.sampled_from([0.0, 0.005, 0.05]),
)
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(
    seed=st.integers(0, 2**32),
    link=links,
    up=st.integers(0, 60_000),
    down=st.integers(1, 60_000),
    sack=st.booleans(),
    timestamps=st.booleans(),
    scale=st.sampled_from([None, 0, 3, 14]),
    mss=st.sampled_from([200, 536, 1460]),
    window=st.sampled_from([4_000, 20_000, 60_000]),
    numbers=st.tuples(st.integers(0, MASK), st.integers(0, MASK)),
)
def test_both_streams_arrive_whole(
    seed: int,
    link: Link,
    up: int,
    down: int,
    sack: bool,
    timestamps: bool,
    scale: int | None,
    mss: int,
    window: int,
    numbers: tuple[int, int],
) -> None:
    key = flow_key()
    source = random.Random(seed)
    sent_up, sent_down = source.randbytes(up), source.randbytes(down)
    app = AppEndpoint(
        key, iss=numbers[0], mss=mss, sack=sack, timestamps=timestamps, scale=scale,
        window=60_000 if scale == 14 else window,
    )  # fmt: skip
    config = TcpConfig(window=window, retries=30, synack_retries=30, send_buffer=30_000)
    connection = TcpConnection(config, key, iss=numbers[1], mtu=1500)
    simulation = Simulation(seed, link, app, connection, sent_down)
    app.write(sent_up, 0.0)
    app.close(0.0)
    simulation.run(3000.0)
    assert bytes(simulation.up) == sent_up
    assert bytes(app.received) == sent_down
    assert simulation.ended
    assert simulation.closed
    assert app.is_finished


segments = st.builds(
    lambda flags, seq, ack, win, size, ts, options, nsegs: (flags, seq, ack, win, size, ts, options, nsegs),
    flags=st.one_of(st.just(ACK), st.integers(0, 255)),
    seq=st.one_of(st.integers(-3, 3000), st.integers(60_000, 70_000), st.integers(0, MASK)),
    ack=st.one_of(st.integers(-3, 20_000), st.integers(0, MASK)),
    win=st.integers(0, 65535),
    size=st.sampled_from([0, 0, 1, 2, 7, 1000, 60_000]),
    ts=st.one_of(st.none(), st.tuples(st.integers(0, MASK), st.integers(0, MASK))),
    options=st.one_of(
        st.just(b""),
        st.binary(max_size=40),
        st.builds(
            lambda a, b: b"\x01\x01\x05\x0a" + (a & MASK).to_bytes(4, "big") + (b & MASK).to_bytes(4, "big"),
            st.integers(0xFFFFF000, 0xFFFFF000 + 20_000),
            st.integers(0xFFFFF000, 0xFFFFF000 + 20_000),
        ),
    ),
    nsegs=st.integers(1, 5),
)
verbs = st.sampled_from(["accept", "write", "consume", "close", "abort", "limit", "wait", "none", "none"])


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    begun=st.booleans(),
    sack=st.booleans(),
    ts=st.sampled_from([None, 1000]),
    wscale=st.sampled_from([None, 2, 14]),
    steps=st.lists(st.tuples(segments, verbs, st.integers(0, 30_000)), max_size=40),
)
def test_no_sequence_of_segments_breaks_it(
    begun: bool, sack: bool, ts: int | None, wscale: int | None, steps: list[tuple[tuple, str, int]]
) -> None:
    config = TcpConfig(window=30_000, send_buffer=40_000)
    if begun:
        play = established(config, sack=sack, ts=ts, wscale=wscale, stalled=True)
    else:
        play = Playbook(config, stalled=True)
    connection, now = play.connection, play.now
    held = 0
    edge = None
    closed = False
    for (flags, seq, ack, win, size, stamps, options, nsegs), verb, amount in steps:
        connection.receive(
            make_segment(
                connection.key, play.irs + seq, play.iss + ack, flags, win, bytes(size),
                options=options, ts=stamps, nsegs=nsegs,
            ),
            now,
        )  # fmt: skip
        if verb == "accept":
            connection.accept(now)
        elif verb == "write":
            assert connection.write(bytes(amount)) <= amount
        elif verb == "consume":
            took = min(amount, held)
            held -= took
            connection.consumed(took, now)
        elif verb == "limit":
            connection.set_receive_limit(amount + 1)
        elif verb in ("close", "abort"):
            getattr(connection, verb)(now)
        elif verb == "wait":
            now += amount / 1000
            due = connection.next_timeout()
            if due is not None and due <= now:
                connection.on_timeout(now)
        while (event := connection.next_event()) is not None:
            assert not closed, "an event after Closed"
            closed = type(event) is Closed
            if type(event) is Data:
                held += len(event.payload)
        told = connection.runs_to_send(now)
        for run in told:
            assert len(run.payload) + 100 <= 65_535
            assert len(run.options) % 4 == 0
            assert 0 <= run.window <= 65_535
        connection.take_drops()
        check_invariants(connection)
        if connection.state is not State.CLOSED and connection.state > State.SYN_RECEIVED:
            right = (connection.rcv_nxt + connection.rcv_wnd) & MASK
            assert edge is None or seq_diff(right, edge) >= 0, "the window shrank"
            edge = right
            assert held <= 2 << 20
    assert not connection.runs_to_send(now), "runs_to_send is not idempotent"


def test_the_right_edge_that_the_app_sees_never_moves_left() -> None:
    """Scaled windows are rounded: what is read off the wire must not go back either (RFC 7323 section 2.4)."""
    play = established(TcpConfig(window=50_000), wscale=7, stalled=True)
    edges = []
    source = random.Random(7)
    for _ in range(60):
        size = source.randint(1, 700)
        outcome = play.perform(data(bytes(size)))
        for run in outcome.runs:
            edges.append(seq_diff(run.ack, play.irs) + (run.window << 4))
        if source.random() < 0.3:
            play.connection.consumed(min(size, 100), play.now)
    assert edges == sorted(edges)
    assert edges[-1] <= 50_000 + 4096 + 60 * 100 + 1
