"""What a replay puts around an engine: a tunnel for one packet at a time, a policy that tells, a patient TCP.

Responsible for: the seams of an engine in a replay that are not upstream.
Refuses to know: captures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from netstack.codec.base import PacketCodec
from netstack.config import Config
from netstack.core.flow import FiveTuple
from netstack.core.packet import Octets, SegmentRun
from netstack.core.record import replace
from netstack.core.stats import Stats
from netstack.core.verdict import Verdict
from netstack.link.packets import PacketTunnel
from netstack.policy.firewall import FirewallPolicy
from netstack.policy.tracker import IpTracker


def replay_config(config: Config) -> Config:
    """The same policy with a TCP that never lags behind the captured one.

    What the captured far end had in flight this one must be able to have in flight too, and a retransmission
    time-out would say nothing about an app that cannot answer. `Replay` corrects what remains.
    """
    tcp = replace(
        config.tcp, window=1 << 20, window_max=1 << 24, send_buffer=1 << 26, initial_cwnd=1 << 16,
        rto_initial=3.0, rto_min=3.0, delayed_ack=0.0,
    )  # fmt: skip
    limits = replace(config.limits, memory=1 << 30)
    return replace(config, tcp=tcp, limits=limits)


class ReplayTunnel(PacketTunnel):
    """One packet in at a time; what comes out is handed over at once."""

    def __init__(
        self,
        codec: PacketCodec,
        mtu: int,
        stats: Stats,
        on_run: Callable[[SegmentRun], None],
        on_packet: Callable[[Octets], None],
    ) -> None:
        """`on_run` sees TCP before it is cut, `on_packet` every packet."""
        super().__init__(codec, mtu, stats=stats)
        self._waiting: bytes | None = None
        self._verify = True
        self._on_run = on_run
        self._on_packet = on_packet

    def give(self, packet: bytes, verify: bool) -> None:
        """The next packet of the app, to be read once; `verify` its checksums."""
        self._waiting, self._verify = packet, verify

    def read_batch(self, batch: Any) -> int:
        """As `Tunnel.read_batch`."""
        packet, self._waiting = self._waiting, None
        if packet is None:
            batch.count = batch.packets = batch.octets = 0
            return 0
        return self.codec.parse_batch([packet], batch, verify=self._verify)

    def write_run(self, run: SegmentRun) -> int:
        """As `Tunnel.write_run`."""
        self._on_run(run)
        return super().write_run(run)

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """As `PacketTunnel.write_packets`."""
        for packet in packets:
            self._on_packet(packet)
        return len(packets)


class WitnessedPolicy(FirewallPolicy):
    """The engine's own policy, with every verdict told."""

    __slots__ = ("_told",)

    def __init__(self, config: Config, tracker: IpTracker, told: Callable[[FiveTuple, Verdict], None]) -> None:
        self._told = told
        super().__init__(config, tracker)

    def decide(self, flow: FiveTuple, now: float, payload: Octets = b"") -> Verdict:
        """As `FirewallPolicy.decide`."""
        verdict = super().decide(flow, now, payload)
        self._told(flow, verdict)
        return verdict
