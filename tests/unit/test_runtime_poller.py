"""The poller under the live runtime: who is told of what, and when."""

import selectors
import socket
import time

import pytest

from netstack.runtime import poller as module
from netstack.runtime.poller import EnginePoller


class Log:
    """A `Served` that writes down what it is told."""

    def __init__(self):
        self.told = []
        self.deadline = None
        self.on_readable_do = lambda socket: None

    def next_deadline(self):
        return self.deadline

    def on_deadline(self, now):
        self.told.append("deadline")

    def on_tunnel_readable(self, now):
        self.told.append("tunnel")

    def on_readable(self, socket, now):
        self.told.append(("readable", socket))
        self.on_readable_do(socket)

    def on_writable(self, socket, now):
        self.told.append(("writable", socket))

    def finish(self, now):
        self.told.append("finish")
        self.now = now


@pytest.fixture(params=["epoll", "portable"])
def poller(request, monkeypatch):
    if request.param == "portable":
        monkeypatch.delattr(module.select, "epoll", raising=False)
        monkeypatch.setattr(module.selectors, "DefaultSelector", selectors.PollSelector)
    made = EnginePoller()
    made.served = Log()
    yield made
    made.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_ready_socket_is_served_with_one_finish(poller, pair):
    ours, theirs = pair
    poller.watch(ours.fileno(), "a", True, True)
    theirs.send(b"x")
    poller.select(0)
    assert poller.served.told == [("readable", "a"), ("writable", "a"), "finish"]


def test_interest_is_level_triggered_and_changes(poller, pair):
    ours, theirs = pair
    theirs.send(b"x")
    poller.watch(ours.fileno(), "a", True, False)
    poller.select(0)
    poller.select(0)
    assert poller.served.told.count(("readable", "a")) == 2
    poller.watch(ours.fileno(), "a", False, True)
    poller.served.told.clear()
    poller.select(0)
    assert poller.served.told == [("writable", "a"), "finish"]
    poller.watch(ours.fileno(), "a", False, False)
    poller.served.told.clear()
    poller.select(0)
    assert poller.served.told == ["finish"]
    assert len(poller) == 0


def test_socket_closed_by_its_reader_is_not_told_that_it_is_writable(poller, pair):
    ours, theirs = pair
    theirs.send(b"x")
    poller.watch(ours.fileno(), "a", True, True)
    poller.served.on_readable_do = lambda socket: poller.watch(ours.fileno(), "a", False, False)
    poller.select(0)
    assert ("writable", "a") not in poller.served.told


def test_tunnel_is_told_apart(poller, pair):
    ours, theirs = pair
    poller.watch_tunnel(ours.fileno(), True)
    theirs.send(b"x")
    poller.select(0)
    assert poller.served.told == ["tunnel", "finish"]
    poller.watch_tunnel(ours.fileno(), False)
    poller.forget(ours.fileno())
    poller.select(0)
    assert poller.served.told[2:] == ["finish"]


def test_hang_up_counts_as_what_was_waited_for(poller, pair):
    ours, theirs = pair
    theirs.close()
    poller.watch(ours.fileno(), "a", True, False)
    poller.select(0)
    assert ("readable", "a") in poller.served.told


def test_other_descriptors_call_back_with_or_without_an_engine(poller, pair):
    ours, theirs = pair
    called = []
    poller.watch_reader(ours.fileno(), lambda: called.append(ours.recv(10)))
    poller.select(0)
    assert called == []
    theirs.send(b"x")
    poller.select(0)
    poller.select(0)
    assert called == [b"x"]
    poller.served = None
    theirs.send(b"y")
    poller.select(0)
    assert called == [b"x", b"y"]
    poller.forget(ours.fileno())
    theirs.send(b"z")
    poller.select(0)
    assert called == [b"x", b"y"]


def test_socket_closed_by_another_of_its_round_is_not_told(poller):
    pairs = [socket.socketpair() for _ in range(3)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.send(b"x")
        poller.watch(ours.fileno(), ours, True, False)

    def close_the_others(socket):
        for ours, _ in pairs:
            if ours is not socket:
                poller.forget(ours.fileno())
                poller.watch(ours.fileno(), "new", True, False)

    poller.served.on_readable_do = close_the_others
    poller.select(0)
    assert len(poller.served.told) == 2
    assert poller.served.told[1] == "finish"
    for both in pairs:
        for each in both:
            each.close()


def test_shorter_of_both_deadlines_is_waited_for(poller, monkeypatch):
    waited = []

    class Waits:
        def poll(self, timeout, limit):
            waited.append(timeout)
            return []

        def close(self):
            pass

    poller._wait.close()
    poller._wait = Waits()
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for until, timeout in ((None, None), (None, 3), (2.0, None), (2.0, 3), (4.0, 3), (-1.0, 3)):
        poller.served.deadline = None if until is None else now + until
        poller.select(timeout)
    assert waited == [None, 3, 2.0, 2.0, 3, 0]
    assert poller.served.told == ["finish"] * 5 + ["deadline", "finish"]


def test_deadline_is_told_before_what_is_ready_in_its_round(poller, pair):
    ours, theirs = pair
    poller.watch(ours.fileno(), "a", True, False)
    theirs.send(b"x")
    begin = time.monotonic()
    poller.served.deadline = begin
    poller.select(None)
    assert poller.served.told == ["deadline", ("readable", "a"), "finish"]
    assert poller.served.now >= begin


def test_error_on_a_socket_that_keeps_errors_is_noted(poller):
    class Keeps:
        error_pending = False

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.IPPROTO_IP, 11, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            closed = other.getsockname()
        keeps = Keeps()
        poller.watch(udp.fileno(), keeps, True, False)
        udp.sendto(b"x", closed)
        poller.served.deadline = time.monotonic() + 2
        poller.select(2)
        assert ("readable", keeps) in poller.served.told
        assert keeps.error_pending or isinstance(poller._wait, module._Portable)
        poller.forget(udp.fileno())
