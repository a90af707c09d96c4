"""Makes captured packets fit for an engine: what the capture cut off or the sender's card would have filled in.

Responsible for: padding packets that a snap length cut, lengths left to segmentation offload, ACK numbers that are
ahead of a replay, and judging checksums of the far end's packets as its host would.
Refuses to know: what the packets are for.
RFCs: 1624 (a checksum after a change), 791, 9293 3.1, 768.
"""

from __future__ import annotations

from netstack.capture.dissect import IpHeader
from netstack.core.flow import ICMP, ICMPV6, TCP, UDP
from netstack.wire.checksum import checksum, is_transport_valid, is_valid


def whole_packet(octets: bytes, ip: IpHeader) -> tuple[bytes, bool]:
    """The IP packet at `ip`, as long as its header says; False when octets had to be made up, so that no
    checksum can be right."""
    if not ip.at:
        return octets[ip.start :], True
    packet = octets[ip.start : ip.end]
    header_length = ip.at - ip.start
    intact = True
    if ip.version == 4 and packet[2:4] == b"\0\0":
        length = min(header_length + ip.size, 65_535)
        packet = _with_length(packet[:length], header_length, length)
        intact = False
    missing = header_length + ip.size - len(packet)
    if 0 < missing <= 65_535:
        packet += bytes(missing)
        intact = False
    return packet, intact


def _with_length(packet: bytes, header_length: int, length: int) -> bytes:
    head = bytearray(packet[:header_length])
    head[2:4] = length.to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head) + packet[header_length:]


def clamp_ack(packet: bytes, ip: IpHeader, ack: int) -> bytes:
    """The TCP packet with another ACK number. A right checksum stays right and a wrong one wrong (RFC 1624)."""
    at = ip.at - ip.start
    if at + 20 > len(packet):
        return packet
    changed = bytearray(packet)
    changed[at + 8 : at + 12] = ack.to_bytes(4, "big")
    total = ~int.from_bytes(packet[at + 16 : at + 18], "big") & 0xFFFF
    for offset in (8, 10):
        total += ~int.from_bytes(packet[at + offset : at + offset + 2], "big") & 0xFFFF
        total += int.from_bytes(changed[at + offset : at + offset + 2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    changed[at + 16 : at + 18] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


def is_intact(octets: bytes, ip: IpHeader) -> bool:
    """Whether the checksums of a packet are right, as far as the capture can tell (a cut packet passes)."""
    if ip.version == 4 and not is_valid(octets[ip.start : ip.at]):
        return False
    body = octets[ip.at : ip.end]
    if len(body) < ip.size:
        return True
    if ip.protocol == ICMP:
        return is_valid(body)
    if ip.protocol == UDP:
        length = body[4] << 8 | body[5]
        if body[6:8] == b"\0\0":
            return ip.version == 4
        body = body[:length] if 8 <= length <= len(body) else body
    if ip.protocol in (TCP, UDP, ICMPV6):
        return is_transport_valid(ip.source, ip.checksum_destination, ip.protocol, body)
    return True
