"""Scripted sockets, their readiness, and a resolver matched by flow, id and question."""

import errno

import pytest

from netstack.core.flow import Endpoint
from netstack.runtime.verdicts import five_tuple
from netstack.upstream.scripted import ScriptedDialer, ScriptedError, ScriptedResolver
from tests.made_captures import SERVER, answer, query

FLOW = five_tuple(6, (b"\x0a\0\0\2", 5), (b"\xcb\0\x71\x50", 443))
OTHER = five_tuple(17, (b"\x0a\0\0\3", 5), (b"\x0a\0\0\1", 53))
FAR = Endpoint.of(SERVER, 443)


class Engine:
    """Does what its owners do and keeps a log."""

    def __init__(self):
        self.log = []
        self.flushes = 0

    def on_readable(self, socket, now):
        socket.owner(socket, "readable")

    def on_writable(self, socket, now):
        socket.owner(socket, "writable")

    def flush(self, now):
        self.flushes += 1


@pytest.fixture
def world():
    engine, made = Engine(), []
    dialer = ScriptedDialer(made.append, made.append)
    return engine, dialer, made


def reader(got):
    def owner(socket, what):
        if what == "writable":
            socket.watch(readable=True, writable=False)
            got.append("connected" if not socket.connect_error() else socket.connect_error())
            return
        try:
            octets = socket.recv(2)
        except OSError as problem:
            octets = problem.errno
            socket.close()
        got.append(octets)
        if octets == b"":
            socket.close()

    return owner


def test_a_stream_connects_delivers_and_ends(world):
    engine, dialer, made = world
    got = []
    stream = dialer.dial_tcp(FAR, reader(got), FLOW)
    assert made == [stream] and stream.flow is FLOW
    stream.watch(readable=False, writable=True)
    dialer.serve(engine, 0.0)
    assert got == []
    stream.deliver(b"abc")
    stream.connect()
    dialer.serve(engine, 1.0)
    stream.end()
    dialer.serve(engine, 2.0)
    assert got == ["connected", b"ab", b"c", b""]
    assert stream.closed and not dialer.due


def test_a_refused_dial(world):
    engine, dialer, _ = world
    got = []
    stream = dialer.dial_tcp(FAR, reader(got), FLOW)
    stream.watch(readable=False, writable=True)
    stream.connect(errno.ECONNREFUSED)
    stream.connect(0)
    dialer.serve(engine, 0.0)
    assert got == [errno.ECONNREFUSED]


def test_a_reset_comes_behind_what_was_sent_before(world):
    engine, dialer, _ = world
    got = []
    stream = dialer.dial_tcp(FAR, reader(got), FLOW)
    stream.connect()
    stream.deliver(b"x")
    stream.fail(errno.ECONNRESET)
    stream.watch(readable=True, writable=False)
    dialer.serve(engine, 0.0)
    assert got == [b"x", errno.ECONNRESET]
    with pytest.raises(OSError):
        stream.send(b"more")


def test_what_is_sent_is_told(world):
    _, dialer, _ = world
    stream = dialer.dial_tcp(FAR, None, FLOW)
    sent = []
    stream.on_sent = sent.append
    assert stream.send(memoryview(b"ab")) == 2
    assert stream.sendmsg([b"c", b"d"]) == 2
    assert sent == [b"ab", b"cd"]


def test_without_interest_nobody_is_told(world):
    engine, dialer, _ = world
    stream = dialer.dial_tcp(FAR, reader([]), FLOW)
    stream.connect()
    stream.deliver(b"x")
    dialer.serve(engine, 0.0)
    assert not dialer.due and engine.flushes == 1
    with pytest.raises(BlockingIOError):
        dialer.dial_tcp(FAR, None, FLOW).recv(1)


def test_a_loop_is_a_failure_and_no_hang(world, monkeypatch):
    engine, dialer, _ = world
    monkeypatch.setattr("netstack.upstream.scripted._MOST_ROUNDS", 50)
    stream = dialer.dial_tcp(FAR, lambda socket, what: None, FLOW)
    stream.connect()
    stream.end()
    stream.watch(readable=True, writable=False)
    with pytest.raises(RuntimeError, match="rest"):
        dialer.serve(engine, 0.0)


def test_datagrams_and_errors(world):
    _, dialer, _ = world
    socket = dialer.open_udp(4, lambda socket, what: None, OTHER)
    socket.sendto(b"out", FAR)
    assert socket.local_port() == 5
    with pytest.raises(BlockingIOError):
        socket.recvfrom()
    socket.deliver(b"in", FAR)
    assert socket.is_readable
    assert socket.recvfrom() == (b"in", FAR)
    error = ScriptedError(errno.ECONNREFUSED, 3, 3, FAR)
    socket.fail(error)
    with pytest.raises(ConnectionRefusedError):
        socket.recvfrom()
    assert socket.recv_error() is error
    assert socket.recv_error() is None
    socket.close()
    socket.deliver(b"late", FAR)
    assert not socket.is_readable


class Asker:
    def __init__(self):
        self.answers = []

    def on_answer(self, token, message, now):
        self.answers.append((token, now))


@pytest.fixture
def resolver():
    resolver = ScriptedResolver()
    resolver.asker = Asker()
    resolver.start(resolver.asker)
    resolver.flow = OTHER
    return resolver


def test_an_answer_needs_flow_id_and_question(resolver):
    asked = []
    resolver.on_query = asked.append
    resolver.query(9, query(5, "A.test"), 0.0)
    assert asked == [OTHER]
    assert not resolver.answer(FLOW, answer(5, "a.test", SERVER), 1.0)
    assert not resolver.answer(OTHER, answer(6, "a.test", SERVER), 1.0)
    assert not resolver.answer(OTHER, answer(5, "b.test", SERVER), 1.0)
    assert not resolver.answer(OTHER, b"junk", 1.0)
    assert resolver.answer(OTHER, answer(5, "a.TEST", SERVER), 2.0)
    assert not resolver.answer(OTHER, answer(5, "a.test", SERVER), 3.0)
    assert resolver.asker.answers == [(9, 2.0)]


def test_cancelled_queries_are_not_answered(resolver):
    resolver.query(9, query(5, "a.test"), 0.0)
    resolver.cancel(9)
    resolver.cancel(10)
    assert not resolver.answer(OTHER, answer(5, "a.test", SERVER), 1.0)
    assert resolver.next_timeout() is None
