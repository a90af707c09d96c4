"""TCP and UDP conversations of a capture: who talked to whom, how much, and what the streams held.

Responsible for: telling conversations apart, deciding who the client is, figures for each side.
Refuses to know: verdicts; the content of streams beyond handing it to whoever watches.
RFCs: 9293 3.4 (a new initial sequence number on an old pair is a new connection).

A TCP client is who sent the SYN, else who was sent the SYN|ACK, else who was seen first. A UDP client is who was
seen first.
"""

from __future__ import annotations

from typing import Any

from netstack.capture.analysis import SegmentAnalysis
from netstack.capture.dissect import TcpFields
from netstack.capture.streams import StreamDigest, StreamOrder
from netstack.core.address import format_address
from netstack.core.packet import ACK, FIN, RST, SYN

Peer = tuple[bytes, int]
"""Packed address and port."""


def format_time(time_ns: int) -> str:
    """Seconds since 1970 with nine decimals, without rounding."""
    sign = "-" if time_ns < 0 else ""
    seconds, fraction = divmod(abs(time_ns), 1_000_000_000)
    return f"{sign}{seconds}.{fraction:09}"


class TcpSide:
    """What one end of a TCP conversation sent."""

    __slots__ = (
        "base_seq", "digest", "fins", "isn", "mss", "octets", "order", "packets", "resets",
        "synacks", "syns", "wscale",
    )  # fmt: skip

    def __init__(self) -> None:
        self.packets = self.octets = 0
        self.syns = self.synacks = self.fins = self.resets = 0
        self.base_seq: int | None = None
        self.isn: int | None = None
        self.mss: int | None = None
        self.wscale: int | None = None
        self.digest = StreamDigest()
        self.order: StreamOrder | None = None


class TcpConversation:
    """One connection. `peers` and `sides` are in order of appearance; `client` is an index into both."""

    def __init__(self, index: int, first: Peer, second: Peer, frame: int, time_ns: int) -> None:
        self.index = index
        self.peers = (first, second)
        self.sides = (TcpSide(), TcpSide())
        self.first_frame = frame
        self.first_time_ns = time_ns
        self.analysis = SegmentAnalysis()
        self.client = 0
        self.role = "first-packet"
        self.snapped = False
        self.sack_permitted = 0
        self.timestamps = 0
        self.resolved_ns: tuple[int | None, int | None] = (None, None)  # when DNS last named each peer

    def is_reused_by(self, side: int, fields: TcpFields) -> bool:
        """True for a SYN that opens another connection on this pair."""
        base = self.sides[side].base_seq
        return fields.flags & (SYN | ACK) == SYN and base is not None and base != fields.seq

    def add(self, side: int, fields: TcpFields, time_ns: int) -> None:
        """Count a segment (its content comes by `StreamOrder`, after reassembly of fragments)."""
        own, other = self.sides[side], self.sides[1 - side]
        flags = fields.flags
        own.packets += 1
        own.octets += fields.size
        own.fins += flags & FIN != 0
        own.resets += flags & RST != 0
        self.timestamps += fields.timestamps
        if own.base_seq is None:
            own.base_seq = fields.seq if flags & SYN else (fields.seq - 1) & 0xFFFFFFFF
        if other.base_seq is None and flags & ACK:
            other.base_seq = (fields.ack - 1) & 0xFFFFFFFF
        if flags & SYN:
            self._add_syn(side, own, fields)
        if not fields.broken:
            self.analysis.add(side, fields.seq, fields.ack, flags, fields.window, fields.size, time_ns)

    def _add_syn(self, side: int, own: TcpSide, fields: TcpFields) -> None:
        if fields.flags & ACK:
            own.synacks += 1
            if self.role == "first-packet":
                self.role, self.client = "synack", 1 - side
        else:
            own.syns += 1
            if self.role != "syn":
                self.role, self.client = "syn", side
        self.sack_permitted += fields.sack_permitted
        if own.isn is None:
            own.isn, own.mss, own.wscale = fields.seq, fields.mss, fields.wscale

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; `client` and `server` figures as the names say."""
        client, server = self.sides[self.client], self.sides[1 - self.client]
        (client_address, cport), (server_address, sport) = self.peers[self.client], self.peers[1 - self.client]
        tally = self.analysis.tally
        resolved = self.resolved_ns[1 - self.client]
        shown: dict[str, Any] = {
            "stream": self.index,
            "client": format_address(client_address),
            "cport": cport,
            "server": format_address(server_address),
            "sport": sport,
            "role": self.role,
            "first_frame": self.first_frame,
            "first_time": format_time(self.first_time_ns),
            "pkts_client": client.packets,
            "pkts_server": server.packets,
            "bytes_client": client.octets,
            "bytes_server": server.octets,
            "syn": client.syns + server.syns,
            "synack": client.synacks + server.synacks,
            "fin_client": client.fins,
            "fin_server": server.fins,
            "rst_client": client.resets,
            "rst_server": server.resets,
            "isn_client": client.isn if client.syns else None,
            "isn_server": server.isn if server.synacks else None,
            "mss_client": client.mss,
            "mss_server": server.mss,
            "wscale_client": client.wscale,
            "wscale_server": server.wscale,
            "sack_perm": self.sack_permitted,
            "timestamps": self.timestamps,
            "retransmissions": tally.retransmissions,
            "out_of_order": tally.out_of_order,
            "lost_segments": tally.lost_segments,
            "dup_acks": tally.dup_acks,
            "zero_window": tally.zero_window,
            "dns_age_s": None if resolved is None else round((self.first_time_ns - resolved) / 1e9, 6),
        }
        if self.is_complete:
            shown["stream_sha256"] = {
                "client": client.digest.hex,
                "client_len": client.digest.length,
                "server": server.digest.hex,
                "server_len": server.digest.length,
            }
        return shown

    @property
    def is_complete(self) -> bool:
        """The capture holds every octet from the handshake on, so that the streams can be compared by digest."""
        digests = [side.digest for side in self.sides]
        return (
            self.role == "syn"
            and not self.snapped
            and not any(digest.gaps for digest in digests)
            and any(digest.length for digest in digests)
        )


class UdpConversation:
    """One pair of endpoints; `peers[0]` is the client."""

    __slots__ = ("first_frame", "first_time_ns", "index", "octets", "packets", "peers", "resolved_ns")

    def __init__(self, index: int, first: Peer, second: Peer, frame: int, time_ns: int) -> None:
        self.index = index
        self.peers = (first, second)
        self.packets = [0, 0]
        self.octets = [0, 0]
        self.first_frame = frame
        self.first_time_ns = time_ns
        self.resolved_ns: int | None = None

    def add(self, side: int, size: int) -> None:
        """Count a datagram of `size` payload octets."""
        self.packets[side] += 1
        self.octets[side] += size

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        (client, cport), (server, sport) = self.peers
        resolved = self.resolved_ns
        return {
            "stream": self.index,
            "client": format_address(client),
            "cport": cport,
            "server": format_address(server),
            "sport": sport,
            "first_frame": self.first_frame,
            "first_time": format_time(self.first_time_ns),
            "pkts_client": self.packets[0],
            "pkts_server": self.packets[1],
            "bytes_client": self.octets[0],
            "bytes_server": self.octets[1],
            "dns_age_s": None if resolved is None else round((self.first_time_ns - resolved) / 1e9, 6),
        }
