"""Tracing and impairing any packet device, in virtual time."""

import random

import pytest

from netstack.codec.base import PacketBatch
from netstack.codec.pure import PureCodec
from netstack.core.drops import DropReason
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import Datagram, DatagramRun
from netstack.link.decorators import ImpairedTunnel, Impairment, TracingTunnel
from netstack.link.memory import MemoryTunnel


class Seeded:
    """Repeatable entropy."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def octets(self, count):
        return self._random.randbytes(count)

    def below(self, limit):
        return self._random.randrange(limit)


class Shown:
    def __init__(self):
        self.seen = []

    def packet_in(self, packet, now):
        self.seen.append(("in", bytes(packet), now))

    def packet_out(self, packet, now):
        self.seen.append(("out", bytes(packet), now))


def datagram(number):
    return Datagram(pack_key(17, Endpoint.of("203.0.113.10", 2), Endpoint.of("10.0.0.2", 1)), number.to_bytes(4, "big"))


def packet(number):
    return PureCodec().emit_datagram(datagram(number), 1500)[0]


def number_of(octets):
    return int.from_bytes(octets[-4:], "big")


class Bad:
    """An impaired link over memory, with a clock."""

    def __init__(self, *, up=None, down=None, seed=1):
        self.now = 0.0
        self.device = MemoryTunnel(PureCodec(), limit=100_000)
        self.tunnel = ImpairedTunnel(
            self.device, PureCodec(), Seeded(seed), up=up, down=down, clock=lambda: self.now
        )  # fmt: skip

    def down(self, count):
        for number in range(count):
            self.tunnel.write_datagram(datagram(number))
        return [number_of(octets) for octets in self.device.app.take()]

    def advance(self, seconds):
        self.now += seconds
        readable = self.tunnel.on_timeout(self.now)
        return readable, [number_of(octets) for octets in self.device.app.take()]

    def up(self):
        batch = PacketBatch()
        self.tunnel.read_batch(batch)
        numbers = []
        for item in batch.items():
            for one in item.datagrams() if isinstance(item, DatagramRun) else [item]:
                numbers.append(int.from_bytes(one.payload, "big"))
        return numbers


def test_tracer_sees_each_packet_as_it_is_on_the_wire():
    device, shown = MemoryTunnel(PureCodec()), Shown()
    tunnel = TracingTunnel(device, PureCodec(), shown, clock=lambda: 3.0)
    device.app.give(packet(1), packet(2))
    assert tunnel.read_batch(PacketBatch()) == 2
    tunnel.write_datagram(datagram(3))
    tunnel.flush()
    assert shown.seen == [("in", packet(1), 3.0), ("in", packet(2), 3.0), ("out", packet(3), 3.0)]
    assert device.app.take() == [packet(3)]
    assert tunnel.mtu == device.mtu and tunnel.fileno() == -1
    assert tunnel.next_timeout() is None and tunnel.on_timeout(4.0) is False
    tunnel.close()
    assert device.gone


def test_packet_that_the_device_refused_is_not_shown():
    device, shown = MemoryTunnel(PureCodec(), limit=1), Shown()
    tunnel = TracingTunnel(device, PureCodec(), shown)
    assert tunnel.write_datagram(datagram(1))
    assert not tunnel.write_datagram(datagram(2))
    assert len(shown.seen) == 1
    assert tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 1}


def test_link_without_faults_changes_nothing():
    bad = Bad()
    assert bad.down(50) == list(range(50))
    bad.device.app.give(*map(packet, range(20)))
    assert bad.up() == list(range(20))
    assert bad.tunnel.next_timeout() is None


def test_loss_is_about_its_share_and_counted():
    bad = Bad(down=Impairment(loss=0.2))
    arrived = bad.down(2000)
    assert 1500 < len(arrived) < 1700
    assert arrived == sorted(arrived)
    assert bad.tunnel.stats.drops == {DropReason.IMPAIRED: 2000 - len(arrived)}


def test_duplicates_come_twice():
    bad = Bad(down=Impairment(duplicate=0.1))
    arrived = bad.down(1000)
    assert set(arrived) == set(range(1000))
    assert 1050 < len(arrived) < 1150


def test_delay_holds_packets_and_tells_when():
    bad = Bad(down=Impairment(delay=0.1), up=Impairment(delay=0.2))
    assert bad.down(3) == []
    assert bad.tunnel.next_timeout() == pytest.approx(0.1)
    assert bad.advance(0.05) == (False, [])
    bad.device.app.give(packet(7))
    assert bad.up() == []
    assert bad.advance(0.05) == (False, [0, 1, 2])
    assert bad.tunnel.next_timeout() == pytest.approx(0.25)
    assert bad.advance(0.2) == (True, [])
    assert bad.up() == [7]


def test_reordered_packets_are_overtaken_but_arrive():
    bad = Bad(down=Impairment(reorder=0.2, reorder_delay=0.01))
    first = bad.down(200)
    assert 0 < len(first) < 200
    _, late = bad.advance(0.02)
    assert sorted(first + late) == list(range(200))


def test_jitter_spreads_packets_over_its_range():
    bad = Bad(down=Impairment(jitter=0.1))
    bad.down(200)
    _, early = bad.advance(0.05)
    _, late = bad.advance(0.05)
    assert 60 < len(early) < 140
    assert sorted(early + late) == list(range(200))


def test_flipped_bit_is_exactly_one():
    bad = Bad(down=Impairment(flip=1.0))
    for number in range(50):
        bad.tunnel.write_datagram(datagram(number))
    for number, octets in enumerate(bad.device.app.take()):
        difference = int.from_bytes(octets, "big") ^ int.from_bytes(packet(number), "big")
        assert difference.bit_count() == 1


def test_queue_is_bounded():
    bad = Bad(down=Impairment(delay=1, limit=10))
    bad.down(25)
    assert bad.tunnel.stats.drops == {DropReason.IMPAIRED: 15}
    assert bad.advance(1)[1] == list(range(10))


def test_same_entropy_same_faults():
    how = Impairment(loss=0.1, duplicate=0.1, reorder=0.1, jitter=0.01)

    def outcome(seed):
        bad = Bad(down=how, seed=seed)
        return bad.down(300) + bad.advance(1)[1]

    assert outcome(5) == outcome(5)
    assert outcome(5) != outcome(6)


def test_device_without_room_is_counted():
    bad = Bad(down=Impairment(delay=0.1))
    bad.device._limit = 2
    bad.down(5)
    assert bad.advance(0.2)[1] == [0, 1]
    assert bad.tunnel.stats.drops == {DropReason.TUNNEL_QUEUE_FULL: 3}
