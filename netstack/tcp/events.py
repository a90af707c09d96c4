"""What a connection tells its owner.

Responsible for: one small class for each event of `TcpConnection.next_event`.
Refuses to know: what the owner does about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from netstack.core.packet import Octets


@dataclass(slots=True, eq=False)
class TcpEvent:
    """Root of all events of a connection."""


@dataclass(slots=True, eq=False)
class Established(TcpEvent):
    """The handshake is complete."""


@dataclass(slots=True, eq=False)
class Data(TcpEvent):
    """Octets from the app, in order. `payload` is valid until the next tunnel read; report `consumed`."""

    payload: Octets


@dataclass(slots=True, eq=False)
class EndOfStream(TcpEvent):
    """The app sent FIN and every octet before it has been delivered."""


@dataclass(slots=True, eq=False)
class SendSpace(TcpEvent):
    """`write` takes octets again after it had been full."""


@dataclass(slots=True, eq=False)
class Reset(TcpEvent):
    """The app reset the connection. `Closed` follows."""


@dataclass(slots=True, eq=False)
class TimedOut(TcpEvent):
    """The app does not answer any more. `Closed` follows."""


@dataclass(slots=True, eq=False)
class Closed(TcpEvent):
    """The connection is gone and holds nothing; always the last event."""
