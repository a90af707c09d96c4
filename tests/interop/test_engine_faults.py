"""Faults of the engine's own surroundings, with real threads and sockets: devices that fail, hosts that refuse, stops.

Responsible for: no thread and no descriptor is left, and stop() returns in time, whatever happened.
Refuses to know: TUN; a pair of sockets stands for the device. Each test has a network namespace without a name, in
which the far end is the loopback interface, so nothing leaves the machine.

NETSTACK_RELIABILITY_FULL=1 runs 5,000 cycles instead of 200.
"""

import errno
import os
import socket
import threading
import time

import pytest

from netstack.codec import load
from netstack.config import make_config
from netstack.controller import PacketCaptureController, State
from netstack.core.events import EngineError
from netstack.core.flow import Endpoint
from netstack.link import linux
from netstack.link.fd import FdTunnel
from netstack.link.netlink import Netlink
from netstack.testing.world import World
from tests.interop.conftest import missing
from tests.made_captures import query
from tests.reliability.settings import FULL

pytestmark = pytest.mark.interop

MADE = World()
FAR = Endpoint.of("192.0.2.80", 9)
SYN = MADE.tcp_packet(2, 1, destination=FAR)
DATAGRAM = MADE.udp_packet(b"x", destination=FAR)
QUERY = MADE.udp_packet(query(1, "www.example.test"), destination=Endpoint.of("10.0.0.1", 53))


class Host:
    """A host app; `protects` None makes it raise."""

    def __init__(self, protects=True):
        self.protects = protects
        self.closed = 0
        self.message = None

    def protect_socket(self, fd):
        if self.protects is None:
            raise RuntimeError("the host's own trouble")
        return self.protects

    def close_packet_io(self):
        self.closed += 1

    def exit(self, message):
        self.message = message


class Bench:
    """A controller, its events, and the app's end of its device."""

    def __init__(self, host=None, codec=None):
        self.events = []
        self.codec = codec
        config = make_config({"policy": {"enforcement": "off"}, "dns": {"servers": ["127.0.0.1:9"]}})
        self.controller = PacketCaptureController(config, host)
        self.controller.subscribe(self.events.append)
        self.app = None
        self.fd = -1

    def device(self):
        """A new pair; the tunnel factory over its engine's end."""
        self.app, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.app.settimeout(3)
        self.fd = theirs.detach()
        fd = self.fd

        def make(config, stats, emit, runtime):
            return FdTunnel(fd, self.codec or runtime.codec, config.tunnel.mtu, stats=stats, emit=emit)

        return make

    def start(self):
        self.controller.start(self.device())
        self.wait_for(State.RUNNING)

    def wait_for(self, *states, timeout=3.0):
        end = time.monotonic() + timeout
        while self.controller.state not in states and time.monotonic() < end:
            time.sleep(0.001)
        assert self.controller.state in states

    def ask(self, packet):
        """Send a packet and wait for what comes back."""
        self.app.send(packet)
        return self.app.recv(65_536)

    def stop(self):
        started = time.monotonic()
        self.controller.stop()
        assert time.monotonic() - started < 2.0
        assert self.controller.state in (State.STOPPED, State.FAILED)
        if self.app is not None:
            self.app.close()


def resources():
    engines = [thread for thread in threading.enumerate() if thread.name == "netstack-engine"]
    return len(engines), len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A network namespace for this thread and those that it starts; it ends with the last of them."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    linux.unshare(linux.CLONE_NEWNET)
    try:
        linux.bring_up("lo")
        with Netlink() as netlink:
            netlink.add_address("lo", "192.0.2.80/32")
        yield
    finally:
        linux.enter_namespace(f"/proc/self/fd/{before}")
        os.close(before)


@pytest.fixture
def nothing_left():
    """Threads and descriptors are as they were."""
    load("auto")
    before = resources()
    yield
    end = time.monotonic() + 2
    while resources() != before and time.monotonic() < end:
        time.sleep(0.01)
    assert resources() == before


def test_stop_at_any_moment_of_many_cycles(nothing_left):
    bench = Bench()
    for cycle in range(5000 if FULL else 200):
        make = bench.device()
        bench.controller.start(make)
        if cycle % 4:
            bench.wait_for(State.RUNNING)
            for packet in (SYN, DATAGRAM, QUERY)[: cycle % 4]:
                bench.app.send(packet)
            if cycle % 8 > 4:
                bench.app.recv(65_536)
        bench.stop()
    assert not [event for event in bench.events if isinstance(event, EngineError) and event.fatal]


def test_a_device_whose_other_end_is_closed_does_not_spin(nothing_left):
    """A descriptor that is no TUN but a pair of sockets says end of file for ever."""
    host = Host()
    bench = Bench(host)
    bench.start()
    bench.ask(DATAGRAM)
    bench.app.close()
    bench.wait_for(State.FAILED)
    assert host.closed == 1 and "gone" in host.message
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
    bench.stop()


def test_a_descriptor_that_its_owner_closed_ends_the_run(nothing_left):
    bench = Bench(Host())
    bench.start()
    bench.ask(SYN)
    os.close(bench.fd)
    bench.controller.reconfigure(make_config({"policy": {"enforcement": "off"}}))  # wakes it
    started = time.monotonic()
    bench.controller.stop()
    assert time.monotonic() - started < 2
    assert bench.controller.state in (State.STOPPED, State.FAILED)
    bench.app.close()


class Failing:
    """A codec whose reads give an error for some time."""

    def __init__(self, code, times):
        self._codec = load("auto")
        self.code, self.times = code, times

    def read_batch(self, fd, batch, **more):
        if self.times:
            self.times -= 1
            raise OSError(self.code, os.strerror(self.code))
        return self._codec.read_batch(fd, batch, **more)

    def __getattr__(self, name):
        return getattr(self._codec, name)


def test_eio_passes(nothing_left):
    codec = Failing(errno.EIO, 4)
    bench = Bench(codec=codec)
    bench.start()
    assert bench.ask(SYN)
    assert codec.times == 0
    bench.stop()
    told = [event for event in bench.events if isinstance(event, EngineError)]
    assert told and not any(event.fatal for event in told)


def test_eio_for_ever_costs_little_and_can_be_stopped(nothing_left):
    bench = Bench(codec=Failing(errno.EIO, 10**9))
    bench.start()
    bench.app.send(SYN)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
    bench.stop()


def test_another_device_again_and_again(nothing_left):
    bench = Bench()
    bench.start()
    for _ in range(20):
        old = bench.app
        bench.controller.replace_tunnel(bench.device())
        assert bench.ask(SYN)
        old.close()
    bench.stop()


@pytest.mark.parametrize("protects", [False, None])
@pytest.mark.parametrize("packet", [SYN, DATAGRAM, QUERY], ids=["tcp", "udp", "dns"])
def test_a_host_that_does_not_protect_gets_no_socket(nothing_left, protects, packet):
    host = Host(protects)
    bench = Bench(host)
    bench.start()
    assert bench.ask(packet), "the app is told"
    assert any("protect" in event.line() for event in bench.events)
    host.protects = True
    assert bench.ask(packet)
    bench.stop()


def test_subscribers_that_raise_stop_no_traffic(nothing_left):
    bench = Bench()

    def broken(event):
        raise RuntimeError("a listener's bug")

    bench.controller.subscribe(broken)
    bench.start()
    for _ in range(3):
        bench.controller.subscribe(broken)
        assert bench.ask(SYN)
    bench.stop()


def test_a_tunnel_that_cannot_be_made_leaves_nothing(nothing_left):
    bench = Bench(Host())

    def make(config, stats, emit, runtime):
        raise OSError(errno.ENODEV, "no such device")

    for _ in range(20):
        bench.controller.start(make)
        bench.wait_for(State.FAILED)
    bench.start()
    bench.stop()
