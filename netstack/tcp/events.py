"""What a connection tells its owner.

Responsible for: one small class for each event of `TcpConnection.next_event`.
Refuses to know: what the owner does about it.
"""

from __future__ import annotations

from netstack.core.packet import Octets


class TcpEvent:
    """Root of all events of a connection."""

    __slots__ = ()


class Established(TcpEvent):
    """The handshake is complete."""

    __slots__ = ()


class Data(TcpEvent):
    """Octets from the app, in order. `payload` is valid until the next tunnel read; report `consumed`."""

    __slots__ = ("payload",)

    def __init__(self, payload: Octets) -> None:
        self.payload = payload


class EndOfStream(TcpEvent):
    """The app sent FIN and every octet before it has been delivered."""

    __slots__ = ()


class SendSpace(TcpEvent):
    """`write` takes octets again after it had been full."""

    __slots__ = ()


class Reset(TcpEvent):
    """The app reset the connection. `Closed` follows."""

    __slots__ = ()


class TimedOut(TcpEvent):
    """The app does not answer any more. `Closed` follows."""

    __slots__ = ()


class Closed(TcpEvent):
    """The connection is gone and holds nothing; always the last event."""

    __slots__ = ()
