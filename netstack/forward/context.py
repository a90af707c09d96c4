"""What all forwarders of one engine share, and the refusals that more than one of them sends.

Responsible for: the bundle of seams and tables that an engine hands to its forwarders; flow ids; ICMP
errors built from the packet that earned them (RFC 792, RFC 1812 4.3.2, RFC 4443 2.4), rate limited.
Refuses to know: what a forwarder does with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from netstack.codec.base import PacketCodec
from netstack.config import Config
from netstack.core.drops import DropReason
from netstack.core.events import EventSink, FlowBlocked
from netstack.core.flow import unpack_key
from netstack.core.packet import Datagram, IcmpMessage, Octets
from netstack.core.ports import Dialer, Entropy, Tunnel
from netstack.core.stats import Stats
from netstack.core.timers import TimerQueue
from netstack.core.verdict import Reason, Verdict
from netstack.forward.limiter import RateLimiter
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.tracker import IpTracker

QUOTE_V4 = 548  # RFC 1812 4.3.2.3: as much as fits a datagram of 576 octets
QUOTE_V6 = 1232  # RFC 4443 3.1: as much as fits the minimum MTU
BLOCKED_REPEAT = 1.0  # seconds in which repeats of one blocked flow make no new event
BLOCKED_REMEMBERED = 512


class IcmpError(Enum):
    """An error by meaning: (IPv4 type, code), (IPv6 type, code)."""

    NO_ROUTE = (3, 0), (1, 0)
    HOST_UNREACHABLE = (3, 1), (1, 3)
    PROTOCOL_UNREACHABLE = (3, 2), (4, 1)
    PORT_UNREACHABLE = (3, 3), (1, 4)
    PROHIBITED = (3, 13), (1, 1)
    TOO_BIG = (3, 4), (2, 0)
    TIME_EXCEEDED = (11, 0), (3, 0)
    REASSEMBLY_TIME_EXCEEDED = (11, 1), (3, 1)


@dataclass(slots=True)
class Context:
    """The shared parts. `reset_limiter` and `icmp_limiter` bound what hostile packets can make us send."""

    config: Config
    tunnel: Tunnel
    dialer: Dialer
    policy: FirewallPolicy
    tracker: IpTracker
    timers: TimerQueue
    entropy: Entropy
    emit: EventSink
    stats: Stats
    gateways: tuple[bytes, ...]  # packed addresses of the engine itself
    icmp_limiter: RateLimiter
    reset_limiter: RateLimiter
    codec: PacketCodec
    buffered: int = 0  # octets held for all flows, kept by the TCP forwarder
    _flow_id: int = 0
    _blocked: dict[bytes, float] = field(default_factory=dict)

    def next_flow_id(self) -> int:
        """Numbers flows from 1 in the order in which they open."""
        self._flow_id += 1
        return self._flow_id

    def drop(self, reason: DropReason) -> None:
        """Count a packet that does not go on."""
        self.stats.drops[reason] += 1

    def gateway(self, version: int) -> bytes:
        """The engine's own address of a family, as the source of its ICMP errors."""
        size = 4 if version == 4 else 16
        for address in self.gateways:
            if len(address) == size:
                return address
        return b"\x0a\x00\x00\x01" if version == 4 else b"\xfd" + bytes(14) + b"\x01"

    def send_error(
        self, error: IcmpError, packet: Octets, now: float, *, source: bytes | None = None, info: int = 0
    ) -> bool:
        """Answer `packet` with an ICMP error from `source` (default: the address it was sent to).

        `info` is the MTU of a TOO_BIG and the pointer of an IPv6 PROTOCOL_UNREACHABLE. False (and
        counted) when the limiter said no.
        """
        version = packet[0] >> 4
        if version == 4:
            sender, target, quote = bytes(packet[12:16]), bytes(packet[16:20]), QUOTE_V4
            kind, code = error.value[0]
        else:
            sender, target, quote = bytes(packet[8:24]), bytes(packet[24:40]), QUOTE_V6
            kind, code = error.value[1]
        if not self.icmp_limiter.allow(now):
            self.drop(DropReason.RATE_LIMITED)
            return False
        return self.tunnel.write_icmp(
            IcmpMessage(version, source or target, sender, kind, code, info, packet[:quote])
        )

    def quote(self, datagram: Datagram) -> bytes:
        """The packet that the app sent, made again from what a socket error kept of it."""
        return self.codec.emit_datagram(datagram, 65_535)[0]

    def report_blocked(self, key: bytes, verdict: Verdict, now: float) -> None:
        """Emit FlowBlocked, once a second for each flow, so that a retrying app is not a storm of events."""
        seen = self._blocked
        last = seen.get(key)
        if last is not None and now - last < BLOCKED_REPEAT:
            return
        seen.pop(key, None)
        seen[key] = now
        if len(seen) > BLOCKED_REMEMBERED:
            del seen[next(iter(seen))]
        self.emit(FlowBlocked(now, unpack_key(key), verdict))


BLOCK_DROPS = {
    Reason.QUIC: DropReason.POLICY_QUIC,
    Reason.LAN: DropReason.POLICY_LAN,
    Reason.MULTICAST: DropReason.MULTICAST,
    Reason.RULE: DropReason.POLICY_RULE,
    Reason.MODE: DropReason.POLICY_MODE,
}


def block_reason(verdict: Verdict) -> DropReason:
    """The drop counter of a refusal."""
    return BLOCK_DROPS.get(verdict.reason, DropReason.POLICY_UNTRACKED)


__all__ = ["Context", "IcmpError", "block_reason"]
