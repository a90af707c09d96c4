"""What can happen to a connection, in packetdrill's words: segments from the app, the owner's verbs, time.

Responsible for: the stimuli of a `Playbook` and `make_segment`, which turns numbers into a `Segment`.
Refuses to know: what should follow (`checkers`).

Numbers are relative, as in packetdrill: the app's SYN is 0 and its first octet 1; so is ours in `ack`.
What is left out takes its natural value: the app's next number, everything it received so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netstack.core.flow import TCP, Endpoint, FlowKey, pack_key
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Octets, Segment
from netstack.core.seq import MASK
from netstack.wire.tcp import emit_options

if TYPE_CHECKING:
    from netstack.testing.checkers import Expectation

APP4, FAR4 = Endpoint.of("10.0.0.2", 40000), Endpoint.of("192.0.2.80", 443)
APP6, FAR6 = Endpoint.of("fd00::2", 40000), Endpoint.of("2001:db8::80", 443)


def flow_key(version: int = 4) -> FlowKey:
    """The key of the app's SYN in the kit's own flow."""
    return pack_key(TCP, APP4, FAR4) if version == 4 else pack_key(TCP, APP6, FAR6)


def make_segment(
    key: bytes,
    seq: int,
    ack: int = 0,
    flags: int = ACK,
    window: int = 65535,
    payload: Octets = b"",
    *,
    options: bytes = b"",
    ts: tuple[int, int] | None = None,
    nsegs: int = 1,
    ack_advance: int = 0,
) -> Segment:
    """A segment with absolute numbers, as a codec would hand it up (`options` without the timestamps)."""
    has_ts = ts is not None
    value, echo = ts or (0, 0)
    made = Segment(key, seq & MASK, ack & MASK, flags, window, memoryview(payload), options, has_ts, value, echo, nsegs)
    made.ack_advance = ack_advance
    return made


@dataclass
class Stimulus:
    """Something that happens, `after` so many seconds or `at` a time of the play."""

    after: float = field(default=0.0, kw_only=True)
    at: float | None = field(default=None, kw_only=True)

    def __rshift__(self, expectation: Expectation) -> Step:
        """``stimulus >> expectation``: one step of a playbook."""
        return Step(self, [expectation])


@dataclass
class Step:
    """A stimulus and everything that must follow from it."""

    stimulus: Stimulus
    expectations: list[Expectation]

    def __rshift__(self, expectation: Expectation) -> Step:
        """``step >> expectation``: this too."""
        return Step(self.stimulus, [*self.expectations, expectation])


@dataclass
class Arriving(Stimulus):
    """A segment from the app; numbers relative, None for the natural value."""

    flags: int = ACK
    seq: int | None = None
    ack: int | None = None
    payload: Octets = b""
    win: int | None = None  # the raw 16-bit field
    options: bytes = b""
    ts: tuple[int, int] | bool | None = None  # (value, echo); None: natural; False: none
    sack: tuple[tuple[int, int], ...] = ()  # blocks relative to our first number
    nsegs: int = 1
    ack_advance: int = 0  # of coalesced segments
    new_connection: dict[str, Any] | None = None  # of a SYN: what it offers

    def __str__(self) -> str:
        return f"flags {self.flags:#x} seq {self.seq} ack {self.ack} {self.payload!r:.40} win {self.win}"


@dataclass
class Verb(Stimulus):
    """A call of the connection's owner."""

    name: str = ""
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{self.arguments!r:.60}"


@dataclass
class Passing(Stimulus):
    """Time passes; every deadline on the way takes effect in order."""


def segment(flags: int, **fields: Any) -> Arriving:
    """A segment with these flags."""
    return Arriving(flags=flags, **fields)


def syn(
    *,
    mss: int | None = 1460,
    wscale: int | None = None,
    sack: bool = False,
    ts: int | None = None,
    extra_options: bytes = b"",
    **fields: Any,
) -> Arriving:
    """The app's SYN; `ts` is its TSval."""
    stamps = None if ts is None else (ts, 0)
    options = emit_options(mss=mss, window_scale=wscale, sack_permitted=sack, timestamps=stamps) + extra_options
    fields.setdefault("seq", 0)
    fields.setdefault("ts", stamps if stamps else False)
    return Arriving(flags=SYN, options=options, new_connection={"wscale": wscale or 0, "ts": ts}, **fields)


def ack(number: int | None = None, **fields: Any) -> Arriving:
    """A pure ACK, by default of everything sent."""
    return Arriving(flags=ACK, ack=number, **fields)


def data(payload: Octets, *, push: bool = True, **fields: Any) -> Arriving:
    """Octets."""
    return Arriving(flags=ACK | (PSH if push else 0), payload=payload, **fields)


def fin(payload: Octets = b"", **fields: Any) -> Arriving:
    """FIN, with octets in front of it or not."""
    return Arriving(flags=FIN | ACK, payload=payload, **fields)


def rst(**fields: Any) -> Arriving:
    """A RST without ACK."""
    return Arriving(flags=RST, **fields)


def accept(**when: Any) -> Verb:
    """The far end is connected."""
    return Verb(name="accept", **when)


def refuse(**when: Any) -> Verb:
    """The far end refused."""
    return Verb(name="refuse", **when)


def write(octets: bytes, **when: Any) -> Verb:
    """Octets for the app."""
    return Verb(name="write", arguments=(octets,), **when)


def consume(octets: int, **when: Any) -> Verb:
    """The far end took so many."""
    return Verb(name="consumed", arguments=(octets,), **when)


def limit(octets: int, **when: Any) -> Verb:
    """The receive limit changes."""
    return Verb(name="set_receive_limit", arguments=(octets,), **when)


def close(**when: Any) -> Verb:
    """Our stream ends."""
    return Verb(name="close", **when)


def abort(**when: Any) -> Verb:
    """We reset."""
    return Verb(name="abort", **when)


def after(seconds: float) -> Passing:
    """So many seconds pass."""
    return Passing(after=seconds)
