"""IP packets out of captures, read with dpkt: a reader that shares nothing with ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dpkt

LINK_HEADERS = {1: 14, 12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 0: 4, 108: 4, 113: 16, 276: 20, 9: 4}
"""Octets before the IP header by link type; VLAN tags are looked at below."""


def frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """(link type, frame) for as much of a capture as dpkt can read."""
    with path.open("rb") as file:
        try:
            reader = dpkt.pcapng.Reader(file) if path.suffix == ".pcapng" else dpkt.pcap.Reader(file)
            link = reader.datalink()
            for _, frame in reader:
                yield link, bytes(frame)
        except Exception:  # whatever a malformed capture makes of dpkt: the rest is not read
            return


def packets(path: Path) -> Iterator[bytes]:
    """What lies behind the link header of each frame, IP or not."""
    for link, frame in frames(path):
        start = LINK_HEADERS.get(link)
        if start is None:
            continue
        if link == 1:
            while frame[start - 2 : start] in (b"\x81\x00", b"\x88\xa8"):
                start += 4
            if frame[start - 2 : start] not in (b"\x08\x00", b"\x86\xdd"):
                continue
        yield frame[start:]
