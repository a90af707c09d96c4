"""What the packet-at-a-time links share: batching, cutting, counting."""

import pytest

from netstack.codec.pure import PureCodec
from netstack.core.drops import DropReason
from netstack.core.flow import Endpoint, pack_key, reverse_key
from netstack.core.packet import ACK, PSH, Datagram, IcmpMessage, SegmentRun
from netstack.link.packets import PacketTunnel

APP, FAR = Endpoint.of("10.0.0.2", 4000), Endpoint.of("203.0.113.10", 80)
UP = pack_key(6, APP, FAR)
DOWN = reverse_key(UP)


class Listed(PacketTunnel):
    """Packets from a list to a list; `room` is how many may still go."""

    def __init__(self, codec):
        super().__init__(codec, 1500)
        self.waiting = []
        self.sent = []
        self.room = 1000

    def read_packets(self, limit):
        packets, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return packets

    def write_packets(self, packets):
        taken = list(packets[: self.room])
        self.room -= len(taken)
        self.sent += taken
        return len(taken)


@pytest.fixture
def codec():
    return PureCodec()


@pytest.fixture
def tunnel(codec):
    return Listed(codec)


def batch(**settings):
    from netstack.codec.base import PacketBatch

    return PacketBatch(**settings)


def segments(codec, count, size=100):
    run = SegmentRun(UP, 1, 1, ACK | PSH, 1000, mss=size, payload=bytes(count * size))
    return codec.cut_run(run)


def test_packets_are_parsed_and_coalesced(tunnel, codec):
    tunnel.waiting = segments(codec, 5)
    read = batch()
    assert tunnel.read_batch(read) == 5
    assert sum(len(item.payload) for item in read.items()) == 500
    assert tunnel.read_batch(read) == 0
    assert read.count == 0


def test_more_than_a_batch_holds_comes_with_the_next(tunnel, codec):
    tunnel.waiting = segments(codec, 10)
    read = batch(capacity=4)
    assert [tunnel.read_batch(read) for _ in range(4)] == [4, 4, 2, 0]
    assert not tunnel.pending


def test_packets_that_the_arena_has_no_room_for_wait_and_are_pending(tunnel, codec):
    tunnel.waiting = segments(codec, 4, size=900)
    read = batch(capacity=8, slot=1500, arena=3000)
    counts = [tunnel.read_batch(read)]
    assert 0 < counts[0] < 4
    assert tunnel.pending
    while tunnel.pending:
        counts.append(tunnel.read_batch(read))
    assert sum(counts) == 4


def test_run_is_cut_sent_and_counted(tunnel):
    run = SegmentRun(DOWN, 1, 1, ACK, 1000, mss=1000, payload=bytes(2500))
    assert tunnel.write_run(run) == 2500
    assert [len(packet) for packet in tunnel.sent] == [1040, 1040, 540]
    assert (tunnel.stats.packets_out, tunnel.stats.octets_out) == (3, 2620)


def test_run_for_which_there_is_no_room_says_how_much_went(tunnel):
    tunnel.room = 2
    assert tunnel.write_run(SegmentRun(DOWN, 1, 1, ACK, 1000, mss=1000, payload=bytes(2500))) == 2000
    assert tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 1}
    assert tunnel.write_run(SegmentRun(DOWN, 1, 1, ACK, 1000)) == 0
    assert (tunnel.stats.packets_out, tunnel.stats.octets_out) == (2, 2080)


def test_datagram_and_message_go_whole_or_are_dropped(tunnel):
    datagram = Datagram(pack_key(17, FAR, APP), bytes(3000))
    assert tunnel.write_datagram(datagram)
    assert len(tunnel.sent) == 3  # fragments of an MTU of 1500
    assert tunnel.write_icmp(IcmpMessage(4, FAR.address, APP.address, 0, 0, 1, b"payload"))
    tunnel.room = 0
    assert not tunnel.write_datagram(datagram)
    assert not tunnel.write_icmp(IcmpMessage(4, FAR.address, APP.address, 0, 0))
    assert tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 4}
