"""What must follow from a stimulus: runs to the app, events for the owner, drops, the state.

Responsible for: the expectations of a `Playbook`; each says in words what it missed.
Refuses to know: what caused it (`builders`).

Runs are expected one by one and in order, with none left over; so are drops. Of events and of the state
only what is named is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from netstack.core.drops import DropReason
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, SegmentRun
from netstack.core.seq import seq_diff
from netstack.tcp.events import Data, TcpEvent
from netstack.tcp.state import State
from netstack.wire.tcp import TcpOptions, parse_options

_LETTERS = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (ACK, "."))


def flag_letters(flags: int) -> str:
    """As tcpdump writes them: ``S.`` for SYN|ACK."""
    return "".join(letter for bit, letter in _LETTERS if flags & bit)


@dataclass
class Outcome:
    """All that a stimulus caused. `iss` and `irs` make numbers relative."""

    runs: list[SegmentRun]
    events: list[TcpEvent]
    drops: list[DropReason]
    state: State
    iss: int
    irs: int
    octets: bytes = b""  # of the Data events, in order

    def describe(self) -> str:
        """Every run in one line, like tcpdump."""
        lines = [show_run(run, self.iss, self.irs) for run in self.runs]
        named = [type(event).__name__ for event in self.events]
        return f"{self.state.name}, runs [{'; '.join(lines)}], events {named}, drops {[d.name for d in self.drops]}"


def show_run(run: SegmentRun, iss: int, irs: int) -> str:
    """A run in one line, numbers relative."""
    seq, ack, size = seq_diff(run.seq, iss), seq_diff(run.ack, irs), len(run.payload)
    return f"{flag_letters(run.flags)} seq {seq}:{seq + size}({size}) ack {ack} win {run.window}"


class Expectation:
    """Root of all expectations."""

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """Raise AssertionError, or take what was expected off the front of `runs` and out of `drops`."""
        raise NotImplementedError


@dataclass
class Sends(Expectation):
    """The next run has these flags, and those of the other fields that are not None (numbers relative)."""

    flags: int
    seq: int | None = None
    ack: int | None = None
    length: int | None = None
    payload: bytes | None = None
    win: int | None = None
    mss: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    ignored: int = PSH

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        wanted = flag_letters(self.flags)
        assert runs, f"no run left, expected {wanted}; got {outcome.describe()}"
        run = runs.pop(0)
        shown = show_run(run, outcome.iss, outcome.irs)
        assert run.flags & ~self.ignored == self.flags & ~self.ignored, f"expected {wanted}, got {shown}"
        actual = {
            "seq": seq_diff(run.seq, outcome.iss),
            "ack": seq_diff(run.ack, outcome.irs),
            "length": len(run.payload),
            "payload": bytes(run.payload),
            "win": run.window,
            "mss": run.mss,
        }
        for name, value in actual.items():
            expected = getattr(self, name)
            assert expected is None or value == expected, f"{name}: expected {expected!r}, got {value!r} in {shown}"
        if self.options:
            self._check_options(parse_options(run.options) or TcpOptions(), outcome, shown)

    def _check_options(self, options: TcpOptions, outcome: Outcome, shown: str) -> None:
        for name, expected in self.options.items():
            value: Any = getattr(options, name)
            if name == "sack":
                value = tuple((seq_diff(left, outcome.irs), seq_diff(right, outcome.irs)) for left, right in value)
            assert value == expected, f"option {name}: expected {expected!r}, got {value!r} in {shown}"


def sends(length: int | None = None, **fields: Any) -> Sends:
    """A run of octets."""
    return Sends(ACK, length=length, **fields)


def sends_fin(length: int = 0, **fields: Any) -> Sends:
    """A run that ends our stream."""
    return Sends(FIN | ACK, length=length, **fields)


def acks(number: int | None = None, **fields: Any) -> Sends:
    """A pure ACK of everything below `number`."""
    return Sends(ACK, ack=number, length=0, **fields)


def syn_ack(**fields: Any) -> Sends:
    """Our SYN|ACK."""
    fields.setdefault("seq", 0)
    return Sends(SYN | ACK, **fields)


def resets(*, with_ack: bool = True, **fields: Any) -> Sends:
    """A RST."""
    return Sends(RST | (ACK if with_ack else 0), **fields)


@dataclass
class Nothing(Expectation):
    """No run at all (which is also what a step without any `Sends` demands)."""

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        assert not runs, f"expected nothing, got {outcome.describe()}"


@dataclass
class Anything(Expectation):
    """Whatever runs are left."""

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        runs.clear()


nothing = Nothing()
anything = Anything()


@dataclass
class Hears(Expectation):
    """The owner got exactly these octets."""

    octets: bytes

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        assert outcome.octets == self.octets, f"expected octets {self.octets!r:.80}, got {outcome.octets!r:.80}"


def hears(octets: bytes) -> Hears:
    """Delivered, in order."""
    return Hears(octets)


@dataclass
class Tells(Expectation):
    """These events, in this order, besides Data."""

    kinds: tuple[type[TcpEvent], ...]

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        got = [type(event) for event in outcome.events if type(event) is not Data]
        assert got == list(self.kinds), f"expected {self.kinds}, got {outcome.describe()}"


def tells(*kinds: type[TcpEvent]) -> Tells:
    """Exactly these events."""
    return Tells(kinds)


@dataclass
class Drops(Expectation):
    """A segment went no further, and why."""

    reason: DropReason

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        assert self.reason in drops, f"expected a drop {self.reason.name}; got {outcome.describe()}"
        drops.remove(self.reason)


def drop(reason: DropReason) -> Drops:
    """Counted under `reason`."""
    return Drops(reason)


@dataclass
class Becomes(Expectation):
    """The state afterwards."""

    state: State

    def check(self, outcome: Outcome, runs: list[SegmentRun], drops: list[DropReason]) -> None:
        """As in `Expectation`."""
        assert outcome.state is self.state, f"expected {self.state.name}, got {outcome.describe()}"


def becomes(state: State) -> Becomes:
    """The connection is in `state`."""
    return Becomes(state)
