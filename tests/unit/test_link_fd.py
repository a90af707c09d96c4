"""A TUN descriptor: what goes, what is counted, what ends it."""

import errno
import os
import socket

import pytest

from netstack.codec import PacketBatch, load
from netstack.core.drops import DropReason
from netstack.core.errors import TunnelClosed
from netstack.core.events import EngineError
from netstack.core.packet import ACK, Datagram, IcmpMessage, SegmentRun
from netstack.link.fd import FdTunnel

KEY4 = bytes([4, 6]) + bytes(36)
KEY6 = bytes([6, 6]) + bytes(36)


class Codec:
    """Does as `plan` says: an errno to raise, or a number to return."""

    name = "plan"

    def __init__(self):
        self.plan = []
        self.vnet = []

    def _next(self, vnet):
        self.vnet.append(vnet)
        step = self.plan.pop(0)
        if step < 0:
            raise OSError(-step, os.strerror(-step))
        return step

    def read_batch(self, fd, batch, *, vnet=False):
        return self._next(vnet)

    def write_run(self, fd, run, *, vnet=False):
        return self._next(vnet)

    def write_datagram(self, fd, datagram, mtu, *, vnet=False):
        self._next(vnet)

    def emit_icmp(self, message, mtu):
        return [b"12345", b"678"]

    def write_packet(self, fd, packet, *, vnet=False):
        self._next(vnet)


class Batch:
    count = packets = octets = 9


@pytest.fixture
def world():
    class World:
        def __init__(self):
            self.codec = Codec()
            self.events = []
            self.inside, self.outside = os.pipe()

        def tunnel(self, **settings):
            return FdTunnel(
                self.inside, self.codec, 1500, emit=self.events.append, clock=lambda: 7.0, **settings
            )  # fmt: skip

    made = World()
    yield made
    for fd in (made.inside, made.outside):
        try:
            os.close(fd)
        except OSError:
            pass


def test_descriptor_becomes_non_blocking(world):
    os.set_blocking(world.inside, True)
    world.tunnel()
    assert not os.get_blocking(world.inside)


@pytest.mark.parametrize("offload", [False, True])
def test_read_gives_what_the_codec_read(world, offload):
    tunnel = world.tunnel(offload=offload)
    world.codec.plan = [5, 0]
    assert tunnel.read_batch(Batch()) == 5
    assert tunnel.read_batch(Batch()) == 0
    assert world.codec.vnet == [offload, offload]
    assert not tunnel.stalled


def test_burst_of_eio_is_one_event_and_no_packets(world):
    tunnel = world.tunnel()
    world.codec.plan = [-errno.EIO, -errno.EIO, 3, -errno.EIO]
    batch = Batch()
    assert tunnel.read_batch(batch) == 0
    assert (batch.count, batch.packets, batch.octets) == (0, 0, 0)
    assert tunnel.stalled
    assert tunnel.read_batch(Batch()) == 0
    assert [event.message for event in world.events] == ["read: Input/output error; going on"]
    assert tunnel.read_batch(Batch()) == 3
    assert not tunnel.stalled
    tunnel.read_batch(Batch())
    assert len(world.events) == 2
    assert not any(event.fatal for event in world.events)
    assert isinstance(world.events[0], EngineError) and world.events[0].at == 7.0


@pytest.mark.parametrize("code", [errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENXIO])
def test_read_of_a_device_that_is_gone_raises(world, code):
    tunnel = world.tunnel()
    world.codec.plan = [-code]
    with pytest.raises(TunnelClosed):
        tunnel.read_batch(Batch())
    assert tunnel.gone


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINTR])
def test_nothing_to_read_is_no_trouble(world, code):
    tunnel = world.tunnel()
    world.codec.plan = [-code]
    assert tunnel.read_batch(Batch()) == 0
    assert not tunnel.stalled and world.events == []


@pytest.mark.parametrize(
    ("key", "size", "options", "packets", "octets"),
    [
        (KEY4, 0, b"", 1, 40),
        (KEY4, 1000, b"", 1, 1040),
        (KEY4, 1001, b"", 2, 1081),
        (KEY6, 3000, b"123", 3, 3000 + 3 * 64),
    ],
)
def test_written_run_is_counted_as_the_packets_it_becomes(world, key, size, options, packets, octets):
    tunnel = world.tunnel()
    world.codec.plan = [size]
    run = SegmentRun(key, 1, 1, ACK, 100, mss=1000, options=options, payload=bytes(size))
    assert tunnel.write_run(run) == size
    assert (tunnel.stats.packets_out, tunnel.stats.octets_out) == (packets, octets)
    assert not tunnel.stats.drops


def test_run_that_went_in_part_is_counted_and_told(world):
    tunnel = world.tunnel()
    world.codec.plan = [2000]
    assert tunnel.write_run(SegmentRun(KEY4, 1, 1, ACK, 100, mss=1000, payload=bytes(5000))) == 2000
    assert tunnel.stats.packets_out == 2
    assert tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 1}


@pytest.mark.parametrize(
    ("code", "reason", "gone"),
    [
        (errno.EAGAIN, DropReason.TUNNEL_QUEUE_FULL, False),
        (errno.ENOBUFS, DropReason.TUNNEL_QUEUE_FULL, False),
        (errno.EIO, DropReason.TUNNEL_WRITE_FAILED, False),
        (errno.EINVAL, DropReason.TUNNEL_WRITE_FAILED, False),
        (errno.EBADFD, DropReason.TUNNEL_WRITE_FAILED, True),
    ],
)
def test_failed_write_never_raises_and_says_why_in_a_counter(world, code, reason, gone):
    tunnel = world.tunnel()
    world.codec.plan = [-code] * 3
    assert tunnel.write_run(SegmentRun(KEY4, 1, 1, ACK, 100, payload=b"x")) == 0
    assert tunnel.write_datagram(Datagram(KEY4, b"x")) is False
    assert tunnel.write_icmp(IcmpMessage(4, bytes(4), bytes(4), 0, 0)) is False
    assert tunnel.stats.drops == {reason: 3}
    assert tunnel.stats.packets_out == 0
    assert tunnel.gone is gone


def test_datagrams_and_messages_are_counted(world):
    tunnel = world.tunnel()
    world.codec.plan = [0, 0, 0, 0]
    assert tunnel.write_datagram(Datagram(KEY4, bytes(100)))
    assert (tunnel.stats.packets_out, tunnel.stats.octets_out) == (1, 128)
    assert tunnel.write_datagram(Datagram(KEY6, bytes(2000)))
    assert tunnel.stats.packets_out == 3
    assert tunnel.write_icmp(IcmpMessage(4, bytes(4), bytes(4), 0, 0))
    assert tunnel.stats.packets_out == 5


def test_close_closes_once_and_only_what_it_owns(world):
    tunnel = world.tunnel(owned=False)
    tunnel.close()
    assert tunnel.fileno() == -1
    os.fstat(world.inside)
    tunnel = world.tunnel()
    tunnel.close()
    with pytest.raises(OSError):
        os.fstat(world.inside)
    tunnel.close()


def test_closed_tunnel_is_gone_for_readers(world):
    tunnel = world.tunnel()
    tunnel.close()
    world.codec.plan = [-errno.EIO]
    with pytest.raises(TunnelClosed):
        tunnel.read_batch(Batch())


def test_whole_packets_for_decorators(world):
    tunnel = world.tunnel()
    os.write(world.outside, b"packet")
    assert tunnel.read_packets(1) == [b"packet"]
    assert tunnel.read_packets(5) == []
    tunnel.close()
    with pytest.raises(TunnelClosed):
        tunnel.read_packets(1)


def test_whole_packets_are_written_until_one_does_not_go():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        tunnel = FdTunnel(ours.fileno(), Codec(), 1500, owned=False)
        assert tunnel.write_packets([b"one", b"three"]) == 2
        assert (theirs.recv(10), theirs.recv(10)) == (b"one", b"three")
        assert (tunnel.stats.packets_out, tunnel.stats.octets_out) == (2, 8)
        taken = tunnel.write_packets([b"x"] * 10_000)
        assert 0 < taken < 10_000
        assert tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 1}


@pytest.mark.parametrize("codec", ["pure", "auto"])
@pytest.mark.parametrize("whole_packets", [True, False])
def test_end_of_file_is_the_end(codec: str, whole_packets: bool) -> None:
    """A TUN has none, but a socket in its place would be readable for ever."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tunnel = FdTunnel(ours.detach(), load(codec), 1500)
    theirs.close()
    with pytest.raises(TunnelClosed):
        tunnel.read_packets(4) if whole_packets else tunnel.read_batch(PacketBatch(capacity=4, slot=2048))
    assert tunnel.gone
    tunnel.close()
