"""The TCP that terminates an app's connections: a sans-IO state machine, always the passive opener.

`state` is the table of all transitions, with the theory. `connection` has the verbs, `arrival` what a
segment does, `receiver` and `sender` one half of the stream each, `scoreboard` what was selectively
acknowledged, `timers` the round trip and the retransmission time-out, `reset` the answer to what belongs to
no connection, `events` what the owner is told.
"""

from netstack.tcp.connection import TcpConnection
from netstack.tcp.events import (
    Closed,
    Data,
    EndOfStream,
    Established,
    Reset,
    SendSpace,
    TcpEvent,
    TimedOut,
)
from netstack.tcp.reset import opens_connection, reset_for
from netstack.tcp.state import State

__all__ = [
    "Closed",
    "Data",
    "EndOfStream",
    "Established",
    "Reset",
    "SendSpace",
    "State",
    "TcpConnection",
    "TcpEvent",
    "TimedOut",
    "opens_connection",
    "reset_for",
]
