"""Counts frames by layer and checksums by state.

Responsible for: the outermost IP header of each frame and the transport right above it.
Refuses to know: conversations and content.
RFCs: 1071, 768 and 8200 8.1 (a zero UDP checksum).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from netstack.capture.dissect import TRANSPORTS, IpHeader, TcpFields, UdpFields
from netstack.core.flow import ICMP, ICMPV6
from netstack.core.packet import ACK, FIN, RST, SYN
from netstack.wire.checksum import is_transport_valid, is_valid

_QUIC_PORTS = (443, 80)
_ENCAPSULATED = {4: 4, 41: 6}
_ICMP_ERRORS = {ICMP: frozenset((3, 4, 5, 11, 12)), ICMPV6: frozenset((1, 2, 3, 4))}


class Counts:
    """Counters of one capture. Those that stayed zero are left out when shown, but for `frames`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.checksums: dict[str, Counter[str]] = {}

    def frame(self, snapped: bool) -> None:
        """Any frame."""
        self.counts["frames"] += 1
        self.counts["truncated_by_snaplen"] += snapped

    def not_ip(self) -> None:
        """A frame without IP."""
        self.counts["non_ip"] += 1

    def ip(self, frame: bytes, header: IpHeader) -> None:
        """A frame's outermost IP header."""
        counts = self.counts
        if header.version == 4:
            counts["ipv4"] += 1
            counts["ipv4_fragments"] += header.fragment
            self._ipv4_checksum(frame, header)
        else:
            counts["ipv6"] += 1
            counts["ipv6_ext_headers"] += header.extensions
            counts["ipv6_fragment_headers"] += header.fragment_header
        name = TRANSPORTS.get(header.protocol)
        if name is not None:
            counts[name] += 1
        if self._holds_ip(frame, header):
            counts["with_inner_ip"] += 1
        if header.protocol in (ICMP, ICMPV6):
            self._transport_checksum(frame, header, header.size, 4)

    @staticmethod
    def _holds_ip(frame: bytes, header: IpHeader) -> bool:
        """IP in IP, or an ICMP error that quotes a packet."""
        inner = _ENCAPSULATED.get(header.protocol)
        if inner is not None:
            return header.end > header.at and frame[header.at] >> 4 == inner
        errors = _ICMP_ERRORS.get(header.protocol)
        if errors is None or header.end <= header.at + 8 or frame[header.at] not in errors:
            return False
        return frame[header.at + 8] >> 4 == header.version

    def tcp(self, frame: bytes, header: IpHeader, fields: TcpFields | None) -> None:
        """The TCP header of a frame, None when too little of it was captured."""
        counts = self.counts
        if fields is None:
            counts["tcp_headerless"] += 1
            self._state("tcp")["absent"] += 1
            return
        flags = fields.flags
        counts["tcp_syn"] += flags & (SYN | ACK) == SYN
        counts["tcp_synack"] += flags & (SYN | ACK) == SYN | ACK
        counts["tcp_fin"] += flags & FIN != 0
        counts["tcp_rst"] += flags & RST != 0
        self._transport_checksum(frame, header, header.size, 18)

    def udp(self, frame: bytes, header: IpHeader, fields: UdpFields | None) -> None:
        """The UDP header of a frame, None when too little of it was captured."""
        if fields is None:
            self._state("udp")["absent"] += 1
            return
        counts = self.counts
        ports = (fields.source_port, fields.destination_port)
        counts["udp_port_53"] += 53 in ports
        counts["udp_to_443_or_80"] += fields.destination_port in _QUIC_PORTS
        counts["udp_443_or_80_any_direction"] += any(port in _QUIC_PORTS for port in ports)
        if frame[header.at + 6 : header.at + 8] == b"\0\0":
            self._state("udp")["not_present" if header.version == 4 else "bad"] += 1
        else:
            self._transport_checksum(frame, header, fields.size + 8, 8)

    def _state(self, layer: str) -> Counter[str]:
        return self.checksums.setdefault(layer, Counter())

    def _ipv4_checksum(self, frame: bytes, header: IpHeader) -> None:
        if header.at:
            good = is_valid(frame[header.start : header.at])
            self._state("ipv4")["good" if good else "bad"] += 1

    def _transport_checksum(self, frame: bytes, header: IpHeader, size: int, needed: int) -> None:
        """Judge it where all octets that it covers are there; an IPv4 ICMP sum has no pseudo-header."""
        state = self._state(TRANSPORTS[header.protocol])
        octets = frame[header.at : header.end]
        if len(octets) < needed:
            state["absent"] += 1
        elif header.fragment or len(octets) < size:
            state["unverified"] += 1
        elif header.protocol == ICMP:
            state["good" if is_valid(octets) else "bad"] += 1
        else:
            good = is_transport_valid(header.source, header.checksum_destination, header.protocol, octets[:size])
            state["good" if good else "bad"] += 1

    def as_dict(self) -> dict[str, int]:
        """The counters that are not zero, TCP flags whenever there is TCP."""
        kept = ("tcp_syn", "tcp_synack", "tcp_fin", "tcp_rst") if self.counts["tcp"] else ()
        shown = {name: count for name, count in self.counts.items() if count or name in kept}
        return dict(sorted({"frames": 0, **dict.fromkeys(kept, 0), **shown}.items()))

    def checksums_as_dict(self) -> dict[str, Any]:
        """Layer -> state (good, bad, unverified, absent, not_present) -> packets."""
        return {layer: dict(sorted(states.items())) for layer, states in sorted(self.checksums.items())}
