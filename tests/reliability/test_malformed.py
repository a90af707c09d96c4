"""Damaged packets: third-party captures, and each of their packets cut at every length, through a whole engine.

By default a sample that is the same in every run; everything with NETSTACK_RELIABILITY_FULL=1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

from netstack.codec import load
from netstack.core.errors import CaptureError, CodecError
from netstack.link.linktype import find_ip
from netstack.link.pcap import read_capture
from netstack.wire.checksum import checksum, transport_checksum
from tests.reliability.obliging import ObligingWorld
from tests.reliability.resting import assert_sound
from tests.reliability.settings import FULL

CAPTURES = Path(__file__).resolve().parents[2].parent / "shared" / "captures"
SLOWEST = 0.05  # seconds of work for one packet
SAMPLE = 8_000  # packets for each codec and kind


@cache
def captured() -> tuple[bytes, ...]:
    """Different packets of the damaged captures, and some of the others."""
    found: dict[bytes, None] = {}
    for folder, most in (("malformed", 10_000 if FULL else 60), ("real", 300 if FULL else 6)):
        for path in sorted((CAPTURES / folder).glob("*")):
            for packet in _packets(path, most):
                found[packet] = None
    return tuple(found)


def _packets(path: Path, most: int) -> Iterator[bytes]:
    try:
        for frame in read_capture(str(path)):
            place = find_ip(frame.linktype, frame.data)
            yield frame.data if place is None else frame.data[place[1] :]
            if frame.number >= most:
                return
    except CaptureError:
        return


def repaired(packet: bytes) -> bytes:
    """The packet with length fields that tell the truth and checksums that are right, so that it gets further."""
    made = bytearray(packet)
    if len(made) >= 40 and made[0] >> 4 == 6:
        made[4:6] = (len(made) - 40).to_bytes(2, "big")
        _seal(made, 40, made[6], 8, 24, 40)
    elif len(made) >= 20 and made[0] >> 4 == 4:
        made[2:4] = min(len(made), 65_535).to_bytes(2, "big")
        size = min(4 * (made[0] & 15), len(made))
        made[10:12] = b"\0\0"
        made[10:12] = checksum(bytes(made[:size])).to_bytes(2, "big")
        _seal(made, size, made[9], 12, 16, 20)
    return bytes(made)


def _seal(made: bytearray, at: int, protocol: int, source: int, middle: int, end: int) -> None:
    place = {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol)
    body = made[at:]
    if place is None or len(body) < place + 2:
        return
    if protocol == 17:
        body[4:6] = len(body).to_bytes(2, "big")
    body[place : place + 2] = b"\0\0"
    if protocol == 1:
        total = checksum(bytes(body))
    else:
        total = transport_checksum(bytes(made[source:middle]), bytes(made[middle:end]), protocol, bytes(body))
    body[place : place + 2] = total.to_bytes(2, "big")
    made[at:] = body


def cuts(packets: tuple[bytes, ...]) -> Iterator[bytes]:
    """Every beginning of every packet; of a sample, places near the headers more than others."""
    for packet in packets:
        for length in range(len(packet)):
            yield packet[:length]


def sampled(packets: tuple[bytes, ...]) -> Iterator[bytes]:
    random = Random(20)
    for _ in range(SAMPLE):
        packet = random.choice(packets)
        if packet:
            most = min(len(packet), random.choice((8, 44, 70, 120, 70_000)))
            yield packet[: random.randrange(most)]


@pytest.mark.parametrize("kind", ["whole", "cut", "cut and repaired"])
@pytest.mark.parametrize("codec", ["pure", "native"])
def test_damaged_packets_cost_little_and_break_nothing(codec: str, kind: str) -> None:
    packets = captured()
    if not packets:
        pytest.skip("third-party captures are not here (../shared/captures beside the repository)")
    try:
        load(codec)
    except CodecError as problem:
        pytest.skip(str(problem))
    obliging = ObligingWorld(Random(1), codec=codec)
    if kind == "whole":
        chosen: Iterator[bytes] = iter(packets)
    else:
        chosen = cuts(packets) if FULL else sampled(packets)
    engine, app = obliging.world.engine, obliging.world.tunnel.app
    count, slow = 0, []
    for packet in chosen:
        count += 1
        if kind == "cut and repaired":
            packet = repaired(packet)
        app.give(packet)
        started = time.thread_time()
        engine.on_tunnel_readable(obliging.world.now)
        engine.flush(obliging.world.now)
        if time.thread_time() - started > SLOWEST:
            slow.append(packet.hex())
        if count % 10 == 0:
            obliging.feed(seconds=0.5)
        if count % 500 == 0:
            assert_sound(obliging.world)
    assert count > 1000
    assert slow == []
    assert_sound(obliging.world)
    # and it still serves
    world = obliging.world
    world.run(600.0)
    world.dialer.datagrams.clear()
    world.send(world.echo_packet())
    assert len(world.datagrams) == 1


@pytest.mark.parametrize("codec", ["pure", "native"])
def test_whole_batches_of_damage(codec: str) -> None:
    """Many packets in one batch, so that they are coalesced, with good ones between them."""
    packets = captured()
    if not packets:
        pytest.skip("third-party captures are not here (../shared/captures beside the repository)")
    try:
        load(codec)
    except CodecError as problem:
        pytest.skip(str(problem))
    random = Random(3)
    obliging = ObligingWorld(random, codec=codec)
    for _ in range(60):
        chosen = [random.choice(packets) for _ in range(60)]
        obliging.feed(*(repaired(packet[: random.randrange(len(packet) + 1)]) for packet in chosen), seconds=0.2)
    assert_sound(obliging.world)
