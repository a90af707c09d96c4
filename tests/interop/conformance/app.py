"""A TCP and a UDP client made of raw packets: correct when asked to be, and bent in any field when told so.

Responsible for: a small in-order TCP client (handshake, windows, ACKs, retransmission on a stall) and single packets
in its name; UDP exchanges.
Refuses to know: what a check wants to prove.
RFCs: 9293, 7323, 2018, 768.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

from . import packets as p
from .wire import Wire

_ports = itertools.cycle(range(20000, 60000))
_random = random.Random()
MASK = 0xFFFFFFFF


class Failure(Exception):
    """The engine did not do what the row says."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise Failure(message)


def behind(a: int, b: int) -> bool:
    """a < b modulo 2^32."""
    return ((a - b) & MASK) > 0x7FFFFFFF


class TcpApp:
    """One connection from the app. `snd_nxt`, `rcv_nxt` as RFC 9293 names them; `window` in octets is what we offer."""

    def __init__(
        self,
        wire: Wire,
        src: bytes,
        dst: bytes,
        dport: int,
        *,
        sport: int | None = None,
        mss: int | None = -1,
        wscale: int | None = 7,
        ts: bool = True,
        sack: bool = True,
        window: int = 65535,
        iss: int | None = None,
        tsval: int | None = None,
    ) -> None:
        self.wire, self.src, self.dst, self.dport = wire, src, dst, dport
        self.sport = next(_ports) if sport is None else sport
        self.v6 = len(src) == 16
        self.mss = (1440 if self.v6 else 1460) if mss == -1 else mss
        self.wscale, self.ts, self.sack, self.window = wscale, ts, sack, window
        self.iss = _random.getrandbits(32) if iss is None else iss
        self.ts_base = (_random.getrandbits(31) if tsval is None else tsval) - int(time.monotonic() * 1000)
        self.key = (p.TCP, src, self.sport, dst, dport)
        self.inbox = wire.flow(self.key)
        self.snd_una = self.snd_nxt = self.iss
        self.rcv_nxt = self.irs = 0
        self.peer_window, self.peer_scale, self.peer_mss, self.ts_recent = 0, 0, 536, 0
        self.data = bytearray()
        self.established = self.fin = self.was_reset = False
        self.ts_used = self.scale_used = self.sack_used = False
        self.log: list[p.Packet] = []

    # Single packets.

    @property
    def tsval(self) -> int:
        return (self.ts_base + int(time.monotonic() * 1000)) & MASK

    def syn_options(self) -> bytes:
        return (
            (p.mss(self.mss) if self.mss is not None else b"")
            + (p.SACK_OK if self.sack else b"")
            + (p.timestamps(self.tsval, 0) if self.ts else b"")
            + (p.wscale(self.wscale) if self.wscale is not None else b"")
        )

    def window_field(self) -> int:
        return min(65535, self.window >> (self.wscale or 0) if self.scale_used else self.window)

    def segment(
        self,
        flags: int,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        options: bytes | None = None,
        extra: bytes = b"",
        window: int | None = None,
        tsval: int | None = None,
        **bent: Any,
    ) -> bytes:
        """The TCP octets of a segment in the connection's present state."""
        if options is None:
            options = self.syn_options() if flags & p.SYN and not flags & p.ACK else b""
            if not flags & p.SYN and self.ts_used:
                options = p.timestamps(self.tsval if tsval is None else tsval, self.ts_recent)
        return p.tcp(
            self.src,
            self.dst,
            self.sport,
            self.dport,
            self.snd_nxt if seq is None else seq,
            (self.rcv_nxt if flags & p.ACK else 0) if ack is None else ack,
            flags,
            self.window_field() if window is None else window,
            options + extra,
            data,
            **bent,
        )

    def packet(self, flags: int, data: bytes = b"", **bent: Any) -> bytes:
        return p.ip(self.src, self.dst, p.TCP, self.segment(flags, data, **bent))

    def emit(self, flags: int, data: bytes = b"", **bent: Any) -> None:
        """Send one segment; the connection's own numbers do not move."""
        self.wire.send(self.packet(flags, data, **bent))

    def ack(self, **bent: Any) -> None:
        self.emit(p.ACK, **bent)

    def push(self, data: bytes, flags: int = p.ACK | p.PSH) -> None:
        """Send data as one segment and move on."""
        self.emit(flags, data)
        self.snd_nxt = self.snd_nxt + len(data) & MASK

    def finish(self) -> None:
        """Send FIN."""
        self.emit(p.FIN | p.ACK)
        self.snd_nxt = self.snd_nxt + 1 & MASK

    def reset(self) -> None:
        self.emit(p.RST | p.ACK)

    # Waiting.

    def next(self, timeout: float = 2.0) -> p.Packet | None:
        """The next packet of this flow, taken into no account."""
        packet = self.inbox.get(timeout)
        if packet is not None:
            self.log.append(packet)
        return packet

    def expect(
        self,
        what: str,
        wanted: Callable[[p.Packet], bool] = lambda _: True,
        timeout: float = 2.0,
        *,
        strict: bool = False,
    ) -> p.Packet:
        """The next packet that `wanted` accepts; with `strict` the very next one must be it."""
        seen: list[str] = []
        end = time.monotonic() + timeout
        while True:
            packet = self.next(max(0.0, end - time.monotonic()))
            if packet is None:
                raise Failure(f"no {what} within {timeout:g} s" + (f", but {' '.join(seen[-3:])}" if seen else ""))
            if wanted(packet):
                return packet
            seen.append(str(packet))
            if strict:
                raise Failure(f"wanted {what}, got {packet}")

    def expect_ack(self, what: str = "ACK", timeout: float = 2.0, *, ack: int | None = None) -> p.Packet:
        """A pure ACK of exactly `ack` (default: all that was sent)."""
        number = self.snd_nxt if ack is None else ack & MASK
        packet = self.expect(
            what, lambda s: bool(s.flags & p.ACK) and not s.flags & (p.SYN | p.RST | p.FIN) and s.ack == number, timeout
        )
        self.note(packet)
        return packet

    def silence(self, seconds: float, what: str, allowed: Callable[[p.Packet], bool] = lambda _: False) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            packet = self.next(left)
            if packet is not None and not allowed(packet):
                raise Failure(f"{what}: got {packet}")

    # A correct client.

    def note(self, packet: p.Packet) -> None:
        """Take the acknowledgement, window and timestamp of a packet into account."""
        if packet.flags & p.ACK and not behind(packet.ack, self.snd_una) and not behind(self.snd_nxt, packet.ack):
            self.snd_una = packet.ack
        self.peer_window = packet.window << (0 if packet.flags & p.SYN else self.peer_scale)
        if packet.tsval >= 0 and packet.seq == self.rcv_nxt:
            self.ts_recent = packet.tsval

    def absorb(self, packet: p.Packet) -> bool:
        """Take all of a packet into account. True if it wants an ACK."""
        if packet.flags & p.RST:
            self.was_reset = True
            return False
        self.note(packet)
        wants = bool(packet.data or packet.flags & (p.FIN | p.SYN)) or behind(
            packet.seq, self.rcv_nxt
        )  # the last: a probe
        data = packet.data
        if behind(packet.seq, self.rcv_nxt):
            data = data[(self.rcv_nxt - packet.seq) & MASK :]
        if packet.seq == self.rcv_nxt or (data and behind(packet.seq, self.rcv_nxt)):
            self.data += data
            self.rcv_nxt = self.rcv_nxt + len(data) & MASK
            if packet.flags & p.FIN and not self.fin:
                self.fin = True
                self.rcv_nxt = self.rcv_nxt + 1 & MASK
        return wants

    def accept_syn_ack(self, packet: p.Packet) -> None:
        require(packet.flags & (p.SYN | p.ACK | p.RST | p.FIN) == p.SYN | p.ACK, f"wanted SYN|ACK, got {packet}")
        require(
            packet.ack in ((self.iss + 1) & MASK, self.snd_nxt),
            f"SYN|ACK acknowledges {packet.ack}, the SYN was {self.iss}",
        )
        self.irs, self.rcv_nxt = packet.seq, packet.seq + 1 & MASK
        self.snd_una = packet.ack
        self.snd_nxt = packet.ack
        self.peer_window = packet.window
        self.ts_used = self.ts and 8 in packet.options
        self.sack_used = self.sack and 4 in packet.options
        self.scale_used = self.wscale is not None and 3 in packet.options
        self.peer_scale = packet.options[3][0] if self.scale_used else 0
        self.peer_mss = int.from_bytes(packet.options[2], "big") if 2 in packet.options else (1220 if self.v6 else 536)
        self.ts_recent = packet.tsval if self.ts_used else 0

    def syn(self, data: bytes = b"", **bent: Any) -> None:
        self.snd_nxt = self.iss
        self.emit(p.SYN, data, **bent)
        self.snd_nxt = self.iss + 1 + len(data) & MASK

    def handshake_to_syn_ack(self, timeout: float = 3.0, repeat: float | None = None) -> p.Packet:
        """SYN (repeated every `repeat` seconds) until the answer, which must be a SYN|ACK."""
        end = time.monotonic() + timeout
        while True:
            self.syn()
            left = end - time.monotonic()
            packet = self.next(left if repeat is None else min(repeat, left))
            if packet is not None:
                self.accept_syn_ack(packet)
                return packet
            if repeat is None or time.monotonic() >= end:
                raise Failure(f"no SYN|ACK within {timeout:g} s")

    def connect(self, timeout: float = 3.0, repeat: float | None = None) -> p.Packet:
        packet = self.handshake_to_syn_ack(timeout, repeat)
        self.ack()
        self.established = True
        return packet

    def pump(self, done: Callable[[], bool], timeout: float) -> bool:
        """Receive and acknowledge until `done` or time is up."""
        end = time.monotonic() + timeout
        while not done():
            packet = self.next(min(0.25, max(0.0, end - time.monotonic())))
            if packet is None:
                if time.monotonic() >= end:
                    return False
                continue
            if self.absorb(packet):
                self.ack()
        return True

    def write(self, data: bytes, timeout: float = 10.0, *, size: int | None = None) -> None:
        """Send data within the peer's window and MSS until acknowledged; after a second's stall, again from snd_una."""
        size = min(size or 65535, self.peer_mss - (12 if self.ts_used else 0), 1448)
        base, end = self.snd_nxt, time.monotonic() + timeout
        goal = base + len(data) & MASK
        progress = time.monotonic()
        while self.snd_una != goal:
            require(not self.was_reset, "reset while sending")
            require(
                time.monotonic() < end,
                f"only {(self.snd_una - base) & MASK} of {len(data)} octets acknowledged within {timeout:g} s",
            )
            sent = 0
            while self.snd_nxt != goal and sent < 16:
                room = self.peer_window - ((self.snd_nxt - self.snd_una) & MASK)
                at = (self.snd_nxt - base) & MASK
                part = data[at : at + min(size, max(0, room))]
                if not part:
                    break
                self.push(part, p.ACK | (p.PSH if at + len(part) == len(data) else 0))
                sent += 1
            before = self.snd_una
            packet = self.next(0.0 if sent == 16 else 0.2)
            while packet is not None:
                if self.absorb(packet):
                    self.ack()
                packet = self.inbox.get(0.0)
            if self.snd_una != before:
                progress = time.monotonic()
            elif time.monotonic() - progress > 1.0:
                self.snd_nxt, progress = self.snd_una, time.monotonic()
                if not self.peer_window:
                    self.emit(p.ACK, seq=self.snd_una - 1)

    def read(self, count: int, timeout: float = 3.0) -> bytes:
        """At least `count` octets if they come in time; removes and returns what is there (at most `count`)."""
        self.pump(lambda: len(self.data) >= count or self.fin or self.was_reset, timeout)
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    def read_to_end(self, timeout: float = 5.0) -> bytes:
        """All octets up to the FIN, which is acknowledged."""
        ended = self.pump(lambda: self.fin or self.was_reset, timeout)
        require(not self.was_reset, "reset instead of the end of the stream")
        require(ended, f"no FIN within {timeout:g} s after {len(self.data)} octets")
        taken = bytes(self.data)
        self.data.clear()
        return taken

    def works(self, text: bytes = b"does it still echo?") -> None:
        """The connection (to an echo service) still carries data both ways."""
        self.write(text, 3.0)
        got = self.read(len(text))
        require(got == text, f"the connection does not work any more: {'reset' if self.was_reset else repr(got[:40])}")

    def close(self) -> None:
        """FIN both ways, each acknowledged."""
        self.finish()
        self.read_to_end()
        require(self.pump(lambda: self.snd_una == self.snd_nxt or self.was_reset, 2.0), "our FIN was not acknowledged")


class UdpApp:
    """One UDP flow."""

    def __init__(self, wire: Wire, src: bytes, dst: bytes, dport: int, sport: int | None = None) -> None:
        self.wire, self.src, self.dst, self.dport = wire, src, dst, dport
        self.sport = next(_ports) if sport is None else sport
        self.inbox = wire.flow((p.UDP, src, self.sport, dst, dport))

    def packet(self, data: bytes, **bent: Any) -> bytes:
        return p.ip(self.src, self.dst, p.UDP, p.udp(self.src, self.dst, self.sport, self.dport, data, **bent))

    def send(self, data: bytes, **bent: Any) -> None:
        self.wire.send(self.packet(data, **bent))

    def next(self, timeout: float = 2.0) -> p.Packet | None:
        return self.inbox.get(timeout)

    def expect(self, data: bytes, what: str, timeout: float = 2.0) -> p.Packet:
        packet = self.next(timeout)
        if packet is None:
            raise Failure(f"{what}: no reply within {timeout:g} s")
        require(packet.data == data, f"{what}: got {len(packet.data)} octets {packet.data[:24]!r}, wanted {len(data)}")
        return packet

    def echoes(self, data: bytes = b"are you there?") -> None:
        self.send(data)
        self.expect(data, f"echo of {len(data)} octets")

    def silence(self, seconds: float, what: str) -> None:
        packet = self.next(seconds)
        if packet is not None:
            raise Failure(f"{what}: got {packet}")
