"""A world whose sockets need no test to say what they do: they connect, echo, refuse or fall silent by themselves."""

from __future__ import annotations

from random import Random
from typing import Any

from netstack.config import Config, make_config
from netstack.core.packet import Octets, Parsed
from netstack.testing.world import World
from tests.reliability.resting import prune

SMALL = {
    "policy": {"enforcement": "off", "quic": "allow"},
    "limits": {
        "tcp_flows": 48, "half_open": 16, "udp_sessions": 24, "icmp_sessions": 8, "dns_pending": 16,
        "fragments": 16, "tracked_addresses": 64,
    },
    "dns": {"timeout": 2.0},
}  # fmt: skip
"""Tables so small that they are full all the time."""


def small(**more: dict[str, Any]) -> Config:
    return make_config({**SMALL, **more})


class ObligingWorld:
    """`feed` packets; what the sockets do about it is drawn from `random`."""

    def __init__(self, random: Random, config: Config | None = None, codec: str = "pure") -> None:
        self.random = random
        self.world = World(config or small(), codec=codec)
        self._dialled = 0

    def feed(self, *packets: Octets, seconds: float = 0.0) -> list[Parsed]:
        world = self.world
        world.send(*packets)
        self._act()
        out = world.run(seconds)
        if len(world.streams) + len(world.datagrams) > 100 or len(world.events) > 1000:
            prune(world)
        return out

    def _act(self) -> None:
        random, world = self.random, self.world
        for stream in world.streams:
            if stream.closed:
                continue
            if stream._connected is None:
                if random.random() < 0.8:
                    stream.connect(random.choice((0, 0, 0, 0, 111, 113, 110)))
                continue
            chance = random.random()
            if chance < 0.3:
                stream.deliver(random.randbytes(random.choice((1, 100, 3000, 20_000))))
            elif chance < 0.35:
                stream.end()
            elif chance < 0.37:
                stream.fail(random.choice((104, 32, 110)))
            elif chance < 0.5:
                stream.capacity = random.choice((0, 1, 500, None))
        for datagrams in world.datagrams:
            if not datagrams.closed and datagrams.sent and random.random() < 0.5:
                octets, where = datagrams.sent[-1]
                datagrams.incoming.append((octets, where))
        for token, query in list(world.resolver.queries.items()):
            chance = random.random()
            if chance < 0.4:
                world.resolver.answer(token, mutated(random, query), world.now)
            elif chance < 0.6:
                world.resolver.fail(token, "refused", world.now)


def mutated(random: Random, octets: bytes) -> bytes:
    """Octets with a few of them changed, cut, doubled or made up."""
    changed = bytearray(octets)
    for _ in range(random.choice((0, 1, 1, 2, 4, 16))):
        kind = random.randrange(5)
        at = random.randrange(len(changed) + 1)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = random.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF))
        elif kind == 2:
            del changed[at : at + random.randrange(1, 9)]
        elif kind == 3:
            changed[at:at] = random.randbytes(random.randrange(1, 9))
        elif changed:
            other = random.randrange(len(changed))
            changed[at : at + 4] = changed[other : other + 4]
    return bytes(changed)
