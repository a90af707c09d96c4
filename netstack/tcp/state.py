"""The TCP state machine as one table: what each stimulus does to each state.

Responsible for: the states of RFC 9293 that a passive opener can be in, the stimuli, and every
transition between them. Refuses to know: segments, sequence numbers, timers, buffers.
RFCs: 9293 section 3.3.2 (figure 5) and 3.10; 1122 section 4.2.2.13 (half-close).

Theory
======

A connection is two half-connections that are opened together and closed each on its own. Its state
says, for either direction, whether the end of the stream (FIN) was sent, and whether it was
acknowledged:

=============  ==============================  =======================
state          our direction (to the app)      the app's direction
=============  ==============================  =======================
LISTEN         nothing yet                     nothing yet
SYN_RECEIVED   SYN sent (or withheld)          SYN received
ESTABLISHED    open                            open
FIN_WAIT_1     FIN sent, not acknowledged      open
FIN_WAIT_2     FIN acknowledged                open
CLOSE_WAIT     open                            FIN received
LAST_ACK       FIN sent, not acknowledged      FIN received (first)
CLOSING        FIN sent, not acknowledged      FIN received (second)
TIME_WAIT      FIN acknowledged                FIN received
CLOSED         over                            over
=============  ==============================  =======================

This end never opens actively, so SYN_SENT does not exist and a simultaneous open cannot happen; a
simultaneous *close* can, and leads through CLOSING.

Two things differ from the textbook. SYN_RECEIVED begins when the app's SYN arrives, but the SYN|ACK
is withheld until the far end has been reached: nothing is promised before it is true. And `CLOSE` in
SYN_RECEIVED is remembered, not acted upon: the FIN leaves once the connection is established, which
is what section 3.10.4 allows ("queue this call").

A stimulus that the table does not name for a state does not exist in that state, and asking for it
raises `StateError`; that is a mistake in this package and never something a segment can cause.

What a stimulus means is decided elsewhere (`arrival`): a `RESET` here is a RST that was *valid*,
an `ACK_OF_FIN` one that covers our FIN, a `FIN` one whose every preceding octet has been received.
"""

from __future__ import annotations

from enum import IntEnum

from netstack.core.errors import StateError


class State(IntEnum):
    """The states of RFC 9293 section 3.3.2 that a passive opener passes through."""

    CLOSED = 0
    LISTEN = 1
    SYN_RECEIVED = 2
    ESTABLISHED = 3
    FIN_WAIT_1 = 4
    FIN_WAIT_2 = 5
    CLOSE_WAIT = 6
    CLOSING = 7
    LAST_ACK = 8
    TIME_WAIT = 9


class Stimulus(IntEnum):
    """What can happen to a connection."""

    SYN = 1  # the app's SYN
    ACK_OF_SYN = 2  # the app acknowledged our SYN: the handshake is complete
    FIN = 3  # the app's FIN, and everything before it
    ACK_OF_FIN = 4  # the app acknowledged our FIN
    CLOSE = 5  # our stream ends
    RESET = 6  # a valid RST from the app
    ABORT = 7  # we reset, refuse or give up
    EXPIRE = 8  # TIME-WAIT is over


_C, _L, _SR, _E = State.CLOSED, State.LISTEN, State.SYN_RECEIVED, State.ESTABLISHED
_F1, _F2, _CW, _CG = State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSE_WAIT, State.CLOSING
_LA, _TW = State.LAST_ACK, State.TIME_WAIT
_S = Stimulus

TRANSITIONS: dict[State, dict[Stimulus, State]] = {
    _L: {_S.SYN: _SR, _S.ABORT: _C},
    _SR: {_S.ACK_OF_SYN: _E, _S.RESET: _C, _S.ABORT: _C},
    _E: {_S.FIN: _CW, _S.CLOSE: _F1, _S.RESET: _C, _S.ABORT: _C},
    _F1: {_S.FIN: _CG, _S.ACK_OF_FIN: _F2, _S.RESET: _C, _S.ABORT: _C},
    _F2: {_S.FIN: _TW, _S.RESET: _C, _S.ABORT: _C},
    _CW: {_S.CLOSE: _LA, _S.RESET: _C, _S.ABORT: _C},
    _CG: {_S.ACK_OF_FIN: _TW, _S.RESET: _C, _S.ABORT: _C},
    _LA: {_S.ACK_OF_FIN: _C, _S.RESET: _C, _S.ABORT: _C},
    _TW: {_S.EXPIRE: _C, _S.RESET: _C, _S.ABORT: _C},
    _C: {},
}
"""Every transition there is."""

MAY_SEND = frozenset({_SR, _E, _CW})
"""Our stream takes more octets (in SYN_RECEIVED they wait for the handshake)."""

MAY_RECEIVE = frozenset({_E, _F1, _F2})
"""The app's stream may bring more octets."""


def next_state(state: State, stimulus: Stimulus) -> State:
    """Where `stimulus` leads from `state`. Raises StateError when the table has no such row."""
    try:
        return TRANSITIONS[state][stimulus]
    except KeyError:
        raise StateError(f"TCP: {stimulus.name} cannot happen in {state.name}") from None
