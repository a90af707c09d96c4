"""Puts captured IP fragments together again.

Responsible for: whole packets out of fragments, in bounded memory, whatever their checksums say.
Refuses to know: what is in the packet.
RFCs: 815, 5722 (by `forward/fragments.py`, which does the work).
"""

from __future__ import annotations

from netstack.capture.dissect import IpHeader, read_ip
from netstack.config import LimitsConfig
from netstack.core.stats import Stats
from netstack.forward.fragments import Reassembler
from netstack.wire.checksum import checksum


class CapturedFragments:
    """Fragments in, whole packets out."""

    __slots__ = ("_reassembler",)

    def __init__(self) -> None:
        self._reassembler = Reassembler(LimitsConfig(), Stats())

    def add(self, frame: bytes, ip: IpHeader, now: float) -> tuple[bytes, IpHeader] | None:
        """A fragment at `ip` of `frame`; the packet and its header when this was the last piece. `now` in seconds."""
        packet = bytearray(frame[ip.start : ip.end])
        if not packet:
            return None
        if ip.version == 4:  # wrong sums are counted elsewhere and must not lose content here
            header_length = ip.at - ip.start
            packet[10:12] = b"\0\0"
            packet[10:12] = checksum(packet[:header_length]).to_bytes(2, "big")
        self._reassembler.on_timeout(now)
        whole = self._reassembler.add(bytes(packet), now)
        return None if whole is None else (whole, read_ip(whole, ip.version, 0, len(whole)))
