"""The QUIC policy: which datagrams are refused so that an app falls back to TCP.

Responsible for: telling QUIC from its neighbours by port and by content.
Refuses to know: the tracker, how a refusal looks.
RFCs: 9000, 9443.

On the QUIC ports everything counts as QUIC unless it is positively something else (STUN, TURN, DTLS, RTP,
WireGuard): a client that was refused must not slip through with an odd packet. On other ports only an
unmistakable Initial counts. DNS ports are never QUIC: a 16-bit id may look like a long header.
"""

from __future__ import annotations

from netstack.core.packet import Octets
from netstack.wire.quic import is_not_quic, is_quic_initial


class QuicPolicy:
    """`blocks(port, payload)` for every datagram of a flow; about 0.1 us when the policy is to allow."""

    __slots__ = ("_block", "_dns_ports", "_ports")

    def __init__(self, *, block: bool, ports: tuple[int, ...], dns_ports: tuple[int, ...] = (53,)) -> None:
        self._block = block
        self._ports = frozenset(ports)
        self._dns_ports = frozenset(dns_ports)

    def blocks(self, port: int, payload: Octets) -> bool:
        """True when a datagram to `port` is QUIC and QUIC is refused."""
        if not self._block:
            return False
        if port in self._ports:
            return not is_not_quic(payload)
        # the first octet of an Initial has its two top bits set, which most datagrams have not
        if len(payload) < 7 or payload[0] < 0xC0 or port in self._dns_ports:
            return False
        return is_quic_initial(payload)

    def blocks_in_session(self, port: int, payload: Octets) -> bool:
        """True when a datagram of a flow that was let through as something else opens a QUIC connection."""
        if not self._block or len(payload) < 7 or payload[0] < 0xC0 or port in self._dns_ports:
            return False
        return is_quic_initial(payload)

    def may_block_in_session(self, port: int, run: Octets, size: int) -> bool:
        """False when no datagram of a run, each of `size` octets, can open a QUIC connection."""
        return self._block and port not in self._dns_ports and max(run[::size]) >= 0xC0
