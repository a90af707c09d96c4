"""Two ends of a packet link in memory, for tests and simulations.

Responsible for: packets that one side gives, the other side takes, in order, up to a bound.
Refuses to know: time; nothing here wakes anyone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from netstack.codec.base import PacketCodec
from netstack.core.errors import TunnelClosed
from netstack.core.events import EventSink
from netstack.core.packet import Octets
from netstack.core.stats import Stats
from netstack.link.fd import ignore_event
from netstack.link.packets import PacketTunnel


class PacketEnd:
    """The app's end: `give` packets to the engine, `take` what the engine sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.up: deque[Octets] = deque()
        self.down: deque[bytes] = deque()
        self.closed = False

    def give(self, *packets: Octets) -> int:
        """Queue packets towards the engine; how many found room."""
        room = max(0, self._limit - len(self.up))
        self.up.extend(packets[:room])
        return min(room, len(packets))

    def take(self) -> list[bytes]:
        """Everything the engine sent since the last call."""
        packets = list(self.down)
        self.down.clear()
        return packets


class MemoryTunnel(PacketTunnel):
    """The engine's end of a `PacketEnd`."""

    def __init__(
        self,
        codec: PacketCodec,
        mtu: int = 1500,
        *,
        limit: int = 1000,
        stats: Stats | None = None,
        emit: EventSink = ignore_event,
    ) -> None:
        """`limit`: packets that each direction holds."""
        super().__init__(codec, mtu, stats=stats, emit=emit)
        self.app = PacketEnd(limit)
        self._limit = limit

    def read_packets(self, limit: int) -> list[Octets]:
        """As `PacketTunnel.read_packets`; TunnelClosed when the app's end was closed and is empty."""
        up = self.app.up
        if not up and self.app.closed:
            self.gone = True
            raise TunnelClosed("the other end of the memory link was closed")
        return [up.popleft() for _ in range(min(limit, len(up)))]

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """As `PacketTunnel.write_packets`."""
        if self.gone:
            return 0
        down = self.app.down
        taken = min(len(packets), max(0, self._limit - len(down)))
        down.extend(bytes(packet) for packet in packets[:taken])
        return taken
