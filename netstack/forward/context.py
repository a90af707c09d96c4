"""What all forwarders of one engine share, and the refusals that more than one of them sends.

Responsible for: the bundle of seams and tables that an engine hands to its forwarders; flow ids; the
rate limit of ICMP errors (RFC 1812 4.3.2.8, RFC 4443 2.4 f); reports of blocked flows.
Refuses to know: what a forwarder does with them.
"""

from __future__ import annotations

from netstack.config import Config
from netstack.core.drops import DropReason
from netstack.core.events import EventSink, FlowBlocked, StormNoticed
from netstack.core.flow import PROTOCOL_NAMES, unpack_key
from netstack.core.packet import IcmpMessage
from netstack.core.ports import Dialer, Entropy, Tunnel
from netstack.core.stats import Stats
from netstack.core.storms import WINDOW, StormGauge
from netstack.core.timers import TimerQueue
from netstack.core.verdict import Reason, Refusal, Verdict
from netstack.forward.limiter import RateLimiter
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.tracker import IpTracker

BLOCKED_REPEAT = 1.0  # seconds in which repeats of one blocked flow make no new event
BLOCKED_REMEMBERED = 512


class Context:
    """The shared parts. `reset_limiter` and `icmp_limiter` bound what hostile packets can make us send."""

    __slots__ = (
        "_blocked", "_flow_id", "_storms", "buffered", "config", "dialer", "emit", "entropy", "gateways",
        "icmp_limiter", "policy", "reset_limiter", "stats", "timers", "tracker", "tunnel",
    )  # fmt: skip

    def __init__(
        self,
        *,
        config: Config,
        tunnel: Tunnel,
        dialer: Dialer,
        policy: FirewallPolicy,
        tracker: IpTracker,
        timers: TimerQueue,
        entropy: Entropy,
        emit: EventSink,
        stats: Stats,
        gateways: tuple[bytes, ...],
        icmp_limiter: RateLimiter,
        reset_limiter: RateLimiter,
    ) -> None:
        """`gateways` are the packed addresses of the engine itself."""
        self.config = config
        self.tunnel = tunnel
        self.dialer = dialer
        self.policy = policy
        self.tracker = tracker
        self.timers = timers
        self.entropy = entropy
        self.emit = emit
        self.stats = stats
        self.gateways = gateways
        self.icmp_limiter = icmp_limiter
        self.reset_limiter = reset_limiter
        self.buffered = 0  # octets held for all flows, kept by the TCP forwarder
        self._flow_id = 0
        self._blocked: dict[bytes, float] = {}
        self._storms = StormGauge(config.policy.storm)

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

    def send_error(self, message: IcmpMessage | None, now: float) -> None:
        """Send an ICMP error made by `wire.icmp`, unless none is due (None) or the limiter says no."""
        if message is None:
            return
        if self.icmp_limiter.allow(now):
            self.tunnel.write_icmp(message)
        else:
            self.drop(DropReason.RATE_LIMITED)

    def report_blocked(self, key: bytes, verdict: Verdict, now: float) -> Refusal:
        """Emit FlowBlocked, once a second for each flow, so that a retrying app is not a storm of events.

        How the flow is to be refused: as the verdict says, or as policy wants it in a storm.
        """
        refusal = verdict.refusal
        level, rose = self._storms.hit(key[1:2] + key[18:34] + key[36:38], now)  # protocol and destination
        if level and self.config.policy.storm_refusal == "drop":
            refusal = Refusal.DROP
        if rose:
            self._report_storm(key, level, now)
        seen = self._blocked
        last = seen.get(key)
        if last is not None and now - last < BLOCKED_REPEAT:
            return refusal
        seen.pop(key, None)
        seen[key] = now
        if len(seen) > BLOCKED_REMEMBERED:
            del seen[next(iter(seen))]
        self.emit(FlowBlocked(now, unpack_key(key), verdict))
        return refusal

    def _report_storm(self, key: bytes, level: int, now: float) -> None:
        if level == 1:
            self.stats.storms += 1
        flow = unpack_key(key)
        what = f"{PROTOCOL_NAMES.get(flow.protocol, str(flow.protocol))} {flow.destination}"
        self.emit(StormNoticed(now, "flow", what, self.config.policy.storm, WINDOW))

    def policy_changed(self) -> None:
        """What was refused may be allowed now: nothing is a storm until it is one again."""
        self._storms.reconfigure(self.config.policy.storm)


BLOCK_DROPS = {
    Reason.QUIC: DropReason.POLICY_QUIC,
    Reason.LAN: DropReason.POLICY_LAN,
    Reason.MULTICAST: DropReason.MULTICAST,
    Reason.RULE: DropReason.POLICY_RULE,
    Reason.MODE: DropReason.POLICY_MODE,
    Reason.LOCKDOWN: DropReason.POLICY_LOCKDOWN,
}


def block_reason(verdict: Verdict) -> DropReason:
    """The drop counter of a refusal."""
    return BLOCK_DROPS.get(verdict.reason, DropReason.POLICY_UNTRACKED)
