"""The callback link: pushing from any thread, waking, batches of 16 or 5 ms."""

import select
import threading

import pytest

from netstack.codec.base import PacketBatch
from netstack.codec.pure import PureCodec
from netstack.core.drops import DropReason
from netstack.core.errors import TunnelClosed
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import Datagram
from netstack.link.queue import PacketQueueTunnel

DATAGRAM = Datagram(pack_key(17, Endpoint.of("203.0.113.10", 2), Endpoint.of("10.0.0.2", 1)), b"hello")
PACKET = PureCodec().emit_datagram(DATAGRAM, 1500)[0]


class Link:
    """A tunnel with its host's side and a clock."""

    def __init__(self, **settings):
        self.now = 100.0
        self.delivered = []
        self.events = []
        self.tunnel = PacketQueueTunnel(
            PureCodec(), 1500, self.deliver, clock=lambda: self.now, emit=self.events.append, **settings
        )

    def deliver(self, packets):
        self.delivered.append(packets)

    def is_awake(self):
        return bool(select.select([self.tunnel.fileno()], [], [], 0)[0])

    def send(self, count):
        for _ in range(count):
            assert self.tunnel.write_datagram(DATAGRAM)
        self.tunnel.flush()


@pytest.fixture
def link():
    made = Link()
    yield made
    made.tunnel.close()


def test_pushed_packets_wake_the_reader_until_they_are_read(link):
    assert not link.is_awake()
    assert link.tunnel.push([PACKET, PACKET]) == 2
    link.tunnel.push([PACKET])
    assert link.is_awake()
    batch = PacketBatch(capacity=2)
    assert link.tunnel.read_batch(batch) == 2
    assert link.is_awake()
    assert link.tunnel.read_batch(batch) == 1
    assert not link.is_awake()
    link.tunnel.push([PACKET])
    assert link.is_awake()


def test_packets_over_the_bound_are_dropped_and_counted():
    link = Link(limit=3)
    assert link.tunnel.push([PACKET] * 5) == 3
    assert link.tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 2}
    link.tunnel.close()


def test_many_threads_may_push(link):
    threads = [threading.Thread(target=lambda: [link.tunnel.push([PACKET]) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    total = 0
    while total < 400:
        assert select.select([link.tunnel.fileno()], [], [], 5)[0]
        total += link.tunnel.read_batch(PacketBatch())
    for thread in threads:
        thread.join()
    assert not link.is_awake()


def test_sixteen_packets_go_at_once_the_rest_after_the_delay(link):
    link.send(20)
    assert [len(packets) for packets in link.delivered] == [16]
    assert link.tunnel.next_timeout() == pytest.approx(100.005)
    link.now = 100.003
    link.send(1)
    assert link.tunnel.next_timeout() == pytest.approx(100.005)  # the oldest packet counts
    assert link.tunnel.on_timeout(100.004) is False
    assert len(link.delivered) == 1
    assert link.tunnel.on_timeout(100.005) is False
    assert [len(packets) for packets in link.delivered] == [16, 5]
    assert link.delivered[1][0] == PACKET
    assert link.tunnel.next_timeout() is None


def test_without_delay_each_write_phase_is_one_delivery():
    link = Link(delay=0)
    link.send(3)
    link.send(1)
    assert [len(packets) for packets in link.delivered] == [3, 1]
    assert link.tunnel.next_timeout() is None
    link.tunnel.close()


def test_failing_host_is_an_event_not_an_end(link):
    def fail(packets):
        raise RuntimeError("host is gone")

    link.tunnel._deliver = fail
    link.send(16)
    assert link.tunnel.stats.drops == {DropReason.TUNNEL_WRITE_FAILED: 16}
    assert link.events[0].where == "host" and "host is gone" in link.events[0].message


def test_close_hands_over_what_is_left_and_ends_both_ways(link):
    link.send(2)
    link.tunnel.close()
    link.tunnel.close()
    assert [len(packets) for packets in link.delivered] == [2]
    assert link.tunnel.push([PACKET]) == 0
    assert not link.tunnel.write_datagram(DATAGRAM)
    with pytest.raises(TunnelClosed):
        link.tunnel.read_batch(PacketBatch())
    assert link.tunnel.fileno() == -1
