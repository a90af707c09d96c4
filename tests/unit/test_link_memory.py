"""The in-memory pair."""

import pytest

from netstack.codec.base import PacketBatch
from netstack.codec.pure import PureCodec
from netstack.core.drops import DropReason
from netstack.core.errors import TunnelClosed
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import Datagram
from netstack.link.memory import MemoryTunnel

DATAGRAM = Datagram(pack_key(17, Endpoint.of("10.0.0.2", 1), Endpoint.of("203.0.113.10", 2)), b"hello")


@pytest.fixture
def tunnel():
    return MemoryTunnel(PureCodec(), limit=3)


def test_packets_cross_both_ways_in_order(tunnel):
    packet = PureCodec().emit_datagram(DATAGRAM, 1500)[0]
    assert tunnel.app.give(packet, packet) == 2
    batch = PacketBatch()
    assert tunnel.read_batch(batch) == 2
    [run] = batch.items()
    assert [bytes(item.payload) for item in run.datagrams()] == [b"hello", b"hello"]
    assert tunnel.write_datagram(DATAGRAM)
    assert tunnel.app.take() == [packet]
    assert tunnel.app.take() == []


def test_each_direction_is_bounded(tunnel):
    assert tunnel.app.give(*[b"x"] * 5) == 3
    for _ in range(5):
        tunnel.write_datagram(DATAGRAM)
    assert len(tunnel.app.take()) == 3
    assert tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 2}


def test_closed_end_is_the_end_once_it_is_empty(tunnel):
    tunnel.app.give(PureCodec().emit_datagram(DATAGRAM, 1500)[0])
    tunnel.app.closed = True
    assert tunnel.read_batch(PacketBatch()) == 1
    with pytest.raises(TunnelClosed):
        tunnel.read_batch(PacketBatch())


def test_nothing_is_written_after_close(tunnel):
    tunnel.close()
    assert not tunnel.write_datagram(DATAGRAM)
    assert tunnel.app.take() == []
