"""The firewall: one verdict for a flow or datagram, with the evidence for it.

Responsible for: the order in which rules speak, graded enforcement, the style of a refusal.
Refuses to know: how a refusal is sent (`forward/`), where leases come from.

The order: the engine's own address; a blocking state; DNS-only mode; multicast and broadcast; this host and
nowhere; QUIC, even towards a resolved address, because QUIC outlives leases and hides names; the local network;
then the evidence of the tracker, weighed by the enforcement: off asks for none, audit allows and says
what strict would have refused.
"""

from __future__ import annotations

from netstack.config import Config
from netstack.core.flow import TCP, UDP, Endpoint, FiveTuple
from netstack.core.packet import Octets
from netstack.core.verdict import Action, Reason, Refusal, Verdict
from netstack.policy.lan import Scope, classify
from netstack.policy.lockdown import Lockdown
from netstack.policy.quic import QuicPolicy
from netstack.policy.tracker import IpTracker

_ALLOW, _BLOCK = Action.ALLOW, Action.BLOCK
_MULTICAST = int(Scope.MULTICAST)
_NEVER_RESOLVED = "never resolved"


class FirewallPolicy:
    """`decide` is asked for each new TCP flow and each datagram without a session."""

    __slots__ = (
        "_audit", "_dns_only", "_gateways", "_lan", "_lan_allowed", "_multicast", "_off", "_off_allowed", "_quic",
        "_refusals", "_udp_refusal", "_verdicts", "lockdown", "tracker", "version",
    )  # fmt: skip

    def __init__(self, config: Config, tracker: IpTracker) -> None:
        self.tracker = tracker
        self.lockdown: Lockdown | None = None
        """The blocking state, when the host has one; set by `use_lockdown`."""
        self.version = 0
        """Counts reconfigurations: a cached verdict is good for one version."""
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take over new settings; everything that does not depend on a flow is worked out here."""
        policy, tunnel = config.policy, config.tunnel
        self.version += 1
        self._dns_only = config.mode == "dns-only"
        self._off = policy.enforcement == "off"
        self._audit = policy.enforcement == "audit"
        self._lan = policy.lan
        self._multicast = policy.multicast
        texts = [tunnel.address, tunnel.address6]
        self._gateways = frozenset(Endpoint.of(text, 0).address for text in texts if text)
        self._quic = QuicPolicy(block=policy.quic == "block", ports=policy.quic_ports, dns_ports=config.dns.ports)
        self._udp_refusal = Refusal(policy.udp_refusal)
        self._refusals = {TCP: Refusal(policy.refusal)}
        self._verdicts: dict[tuple[Reason, Action, int], Verdict] = {}
        self._fix(Reason.QUIC, _BLOCK, "QUIC is refused so that the app uses TCP", Refusal(policy.quic_refusal))
        for protocol, style in ((TCP, Refusal(policy.refusal)), (UDP, self._udp_refusal)):
            self._fix(Reason.MODE, _BLOCK, "DNS-only mode carries nothing else", style, protocol)
            self._fix(Reason.LAN, _BLOCK, "local destinations are refused", style, protocol)
            self._fix(Reason.UNRESOLVED, _BLOCK, _NEVER_RESOLVED, style, protocol)
        # nobody answers for a group, so nothing is sent for one either (RFC 1122 3.2.2)
        self._fix(Reason.MULTICAST, _BLOCK, "multicast is refused", Refusal.DROP)
        self._fix(Reason.MULTICAST, _ALLOW, "multicast")
        self._fix(Reason.GATEWAY, _ALLOW, "the engine's own address")
        self._fix(Reason.LAN, _ALLOW, "local destination")
        self._fix(Reason.OFF, _ALLOW, "enforcement is off")
        # looking these up would hash two enumeration members, which is a call of Python each
        self._lan_allowed = self._verdicts[Reason.LAN, _ALLOW, 0]
        self._off_allowed = self._verdicts[Reason.OFF, _ALLOW, 0]

    def _fix(
        self, reason: Reason, action: Action, evidence: str, refusal: Refusal = Refusal.RESET, protocol: int = 0
    ) -> None:
        self._verdicts[reason, action, protocol] = Verdict(action, reason, evidence, None, refusal)

    def use_lockdown(self, lockdown: Lockdown) -> None:
        """Let `lockdown` speak first while it blocks."""
        self.lockdown = lockdown
        lockdown.tracker = self.tracker
        lockdown.watch(self._lockdown_changed)
        self.version += 1

    def _lockdown_changed(self, now: float) -> None:
        self.version += 1

    def decide(self, flow: FiveTuple, now: float, payload: Octets = b"") -> Verdict:
        """The verdict on `flow`; `payload` is the datagram's, for UDP."""
        protocol = flow.protocol
        address = flow.destination.address
        if address in self._gateways:
            return self._verdicts[Reason.GATEWAY, _ALLOW, 0]
        kind = TCP if protocol == TCP else UDP
        if self.lockdown is not None and self.lockdown.blocking:
            return self.lockdown.judge(flow, self._refusals[TCP] if kind == TCP else self._udp_refusal)
        if self._dns_only:
            return self._verdicts[Reason.MODE, _BLOCK, kind]
        scope = classify(address)
        if scope >= _MULTICAST:
            return self._special(scope, kind)
        if protocol == UDP and self._quic.blocks(flow.destination.port, payload):
            return self._verdicts[Reason.QUIC, _BLOCK, 0]
        if scope and self._lan != "resolve-only":
            if self._lan == "allow":
                return self._lan_allowed
            return self._verdicts[Reason.LAN, _BLOCK, kind]
        return self._by_evidence(address, kind, now)

    def blocks_quic(self, port: int, payload: Octets) -> bool:
        """True when a datagram of a session that is already allowed must be refused as QUIC after all."""
        return self._quic.blocks_in_session(port, payload)

    def may_block_quic(self, port: int, run: Octets, size: int) -> bool:
        """False when `blocks_quic` is false for each of a run's datagrams of `size` octets."""
        return self._quic.may_block_in_session(port, run, size)

    def _special(self, scope: int, kind: int) -> Verdict:
        if scope <= Scope.BROADCAST:
            return self._verdicts[Reason.MULTICAST, _ALLOW if self._multicast == "allow" else _BLOCK, 0]
        return self._verdicts[Reason.LAN, _BLOCK, kind]  # loopback: the engine would reach its own host's services

    def _by_evidence(self, address: bytes, kind: int, now: float) -> Verdict:
        lease = self.tracker.lookup(address, now)
        if lease is not None:
            left = lease.expires - now
            tail = f"lease ends in {left:.0f} s" if left > 0 else "lease held by a flow" if lease.held else "lingers"
            return Verdict(_ALLOW, Reason.LEASE, f"{lease.name}, {tail}")
        if self._off:
            return self._off_allowed
        ago = self.tracker.was_known(address, now)
        if ago is None:
            if not self._audit:
                return self._verdicts[Reason.UNRESOLVED, _BLOCK, kind]
            return Verdict(_ALLOW, Reason.UNRESOLVED, _NEVER_RESOLVED, would_block=True)
        evidence = f"{self.tracker.name_of(address)}, expired {ago:.0f} s ago"
        if self._audit:
            return Verdict(_ALLOW, Reason.EXPIRED, evidence, would_block=True)
        refusal = self._refusals.get(kind, self._udp_refusal)
        return Verdict(_BLOCK, Reason.EXPIRED, evidence, None, refusal)
