"""One engine and one device, without a clock: deadlines, backlog, defects, trouble with the device."""

import pytest

from netstack.core.errors import TunnelClosed
from netstack.runtime.driver import Driver


class Poller:
    def __init__(self):
        self.served = None
        self.watched = {}

    def watch_tunnel(self, fd, readable):
        self.watched[fd] = readable

    def forget(self, fd):
        self.watched.pop(fd, None)


class Loop:
    def __init__(self):
        self.later = []

    def call_later(self, seconds, callback):
        self.later.append((seconds, callback))


class Engine:
    def __init__(self):
        self.calls = []
        self.deadline = None
        self.raises = {}

    def _told(self, name, *details):
        self.calls.append((name, *details))
        if name in self.raises:
            raise self.raises[name]

    def next_timeout(self):
        return self.deadline

    def on_timeout(self, now):
        self._told("timeout")
        self.deadline = None

    def on_tunnel_readable(self, now):
        self._told("tunnel")

    def on_readable(self, socket, now):
        self._told("readable", socket)

    def on_writable(self, socket, now):
        self._told("writable", socket)

    def flush(self, now):
        self._told("flush")


class Device:
    def __init__(self, fd=7):
        self.fd = fd
        self.stalled = self.gone = self.closed = False

    def fileno(self):
        return self.fd

    def close(self):
        self.closed = True


class Delaying(Device):
    """Holds packets back until `due`."""

    due = None
    released = True

    def next_timeout(self):
        return self.due

    def on_timeout(self, now):
        self.due = None
        return self.released


class Queue(Device):
    pending = 0


class Socket:
    def __init__(self):
        self.interest = (True, True)

    def watch(self, *, readable, writable):
        self.interest = (readable, writable)


class World:
    def __init__(self, device=None):
        self.problems, self.lost = [], []
        self.poller, self.loop, self.engine = Poller(), Loop(), Engine()
        self.device = device or Device()
        self.driver = Driver(self.poller, self.loop, self.engine, self.device, self)
        self.driver.attach()

    def report(self, problem, where="engine"):
        self.problems.append((where, problem))

    def lose(self, problem):
        self.lost.append(str(problem))

    def names(self):
        return [call[0] for call in self.engine.calls]


def test_one_flush_follows_whatever_happened_together_and_none_follows_nothing():
    world = World()
    world.driver.finish(1.0)
    assert world.names() == []
    world.driver.on_tunnel_readable(1.0)
    world.driver.on_readable("a", 1.0)
    world.driver.on_writable("a", 1.0)
    world.driver.finish(1.0)
    world.driver.finish(1.0)
    assert world.names() == ["tunnel", "readable", "writable", "flush"]


def test_deadline_is_the_engines():
    world = World()
    assert world.driver.next_deadline() is None
    world.engine.deadline = 5.0
    assert world.driver.next_deadline() == 5.0
    world.driver.on_deadline(5.0)
    world.driver.finish(5.0)
    assert world.names() == ["timeout", "flush"]


@pytest.mark.parametrize(
    "engine, device, first", [(5.0, 3.0, 3.0), (3.0, 5.0, 3.0), (None, 3.0, 3.0), (3.0, None, 3.0)]
)
def test_device_with_deadlines_of_its_own(engine, device, first):
    world = World(Delaying())
    world.engine.deadline, world.device.due = engine, device
    assert world.driver.next_deadline() == first
    world.driver.on_deadline(first)
    assert world.names() == (["tunnel"] if device == first else ["timeout"])


def test_device_whose_deadline_released_nothing_is_not_read():
    world = World(Delaying())
    world.device.due, world.device.released = 3.0, False
    world.driver.on_deadline(3.0)
    assert world.names() == []


def test_packets_left_in_a_queue_are_read_without_waiting():
    world = World(Queue())
    world.engine.deadline = 9.0
    assert world.driver.next_deadline() == 9.0
    world.device.pending = 3
    assert world.driver.next_deadline() == 0.0
    world.driver.on_deadline(1.0)
    assert world.names() == ["tunnel"]


def test_defects_are_told_and_cost_one_socket():
    world = World()
    for name in ("tunnel", "readable", "writable", "timeout", "flush"):
        world.engine.raises[name] = KeyError(name)
    sockets = Socket(), Socket()
    world.engine.deadline = 1.0
    world.driver.on_deadline(1.0)
    world.driver.on_tunnel_readable(1.0)
    world.driver.on_readable(sockets[0], 1.0)
    world.driver.on_writable(sockets[1], 1.0)
    world.driver.finish(1.0)
    assert [(where, problem.args[0]) for where, problem in world.problems] == [
        ("engine", "timeout"),
        ("tunnel", "tunnel"),
        ("engine", "readable"),
        ("engine", "writable"),
        ("engine", "flush"),
    ]
    assert [each.interest for each in sockets] == [(False, False)] * 2
    assert world.lost == []


@pytest.mark.parametrize("name", ["tunnel", "flush"])
def test_lost_device_is_told_and_no_longer_watched(name):
    world = World()
    world.engine.raises[name] = TunnelClosed("gone")
    world.driver.on_tunnel_readable(1.0)
    world.driver.finish(1.0)
    assert world.lost == ["gone"]
    assert world.problems == []
    assert world.poller.watched == {}


def test_device_that_says_it_is_gone_is_lost():
    world = World()
    world.device.gone = True
    world.driver.on_readable("a", 1.0)
    world.driver.finish(1.0)
    assert len(world.lost) == 1


def test_device_in_trouble_is_looked_at_less_and_less_until_it_recovers():
    world = World()
    world.device.stalled = True
    waits = []
    for _ in range(8):
        world.driver.on_tunnel_readable(1.0)
        assert world.poller.watched == {7: False}
        seconds, again = world.loop.later.pop()
        waits.append(seconds)
        again()
        assert world.poller.watched == {7: True}
    assert waits == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]
    world.device.stalled = False
    world.driver.on_tunnel_readable(1.0)
    assert world.loop.later == []
    world.device.stalled = True
    world.driver.on_tunnel_readable(1.0)
    assert world.loop.later[0][0] == 0.02
    world.driver.detach()
    world.loop.later[0][1]()
    assert world.poller.watched == {}


def test_another_device_takes_over_with_its_own_ways():
    world = World()
    old, new = world.device, Queue(9)
    new.pending = 1
    world.driver.replace(new)
    assert old.closed
    assert world.poller.watched == {9: True}
    assert world.poller.served is world.driver
    assert world.driver.next_deadline() == 0.0
    world.driver.close()
    assert new.closed
