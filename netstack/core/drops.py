"""Why a packet did not go on: one name for each cause, none of them silent.

Responsible for: the closed list of reasons; their numbers are shared with `native/include/netstack.h`.
Refuses to know: who drops.
"""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """Each value is a counter in `Stats.drops`. 1-31 come from the codec and must match the C header."""

    # --- codec (native/include/netstack.h holds the same numbers) ---
    EMPTY = 1  # no octets at all
    BAD_VERSION = 2  # neither IPv4 nor IPv6
    TRUNCATED_IP = 3  # shorter than its own header or total length
    BAD_IP_HEADER = 4  # header length below the minimum, bad option length, total length below header
    BAD_IP_CHECKSUM = 5
    TRUNCATED_TRANSPORT = 6  # transport header not whole
    BAD_TRANSPORT_HEADER = 7  # data offset or UDP length that contradicts the packet
    BAD_TCP_CHECKSUM = 8
    BAD_UDP_CHECKSUM = 9
    ZERO_UDP_CHECKSUM_V6 = 10  # RFC 8200 section 8.1
    BAD_ICMP_CHECKSUM = 11
    BAD_TCP_OPTION = 12  # illegal option length (RFC 9293 MUST-7); the segment is dropped
    BAD_EXTENSION_HEADER = 13  # IPv6 extension chain broken, too long, or an option that demands discard
    BAD_ADDRESS = 14  # source is multicast, unspecified or broadcast
    BAD_FRAGMENT = 15  # fragment offset/length impossible
    BAD_GSO = 16  # virtio-net header contradicts the packet
    NO_NEXT_HEADER = 17  # IPv6 "no next header"
    ROUTING_HEADER = 18  # IPv6 routing header type 0 or with segments left (RFC 5095, RFC 8200 4.4)

    # --- reassembly ---
    FRAGMENT_OVERLAP = 32  # RFC 5722
    FRAGMENT_TIMEOUT = 33
    FRAGMENT_TABLE_FULL = 34
    FRAGMENT_TOO_LARGE = 35

    # --- TCP ---
    TCP_NO_FLOW = 48  # answered with RST unless it was one
    TCP_OUT_OF_WINDOW = 49
    TCP_PAWS = 50
    TCP_BAD_ACK = 51
    TCP_BAD_RST = 52
    TCP_BAD_FLAGS = 53  # NULL, FIN|SYN, XMAS
    TCP_REASSEMBLY_FULL = 54
    TCP_NO_ACK = 55  # a segment without ACK in a synchronized state
    TCP_TABLE_FULL = 56
    TCP_HALF_OPEN_FULL = 57
    TCP_AFTER_CLOSE = 58
    TCP_CHALLENGE_LIMITED = 59

    # --- UDP, ICMP, other ---
    UDP_TABLE_FULL = 64
    UDP_SEND_FAILED = 65
    UDP_NOT_EXPECTED = 66  # reply from an address that was never spoken to
    ICMP_UNSUPPORTED = 67
    ICMP_TABLE_FULL = 68
    ICMP_REFUSED = 69  # no ICMP socket to be had
    UNSUPPORTED_PROTOCOL = 70
    TTL_EXCEEDED = 71
    RATE_LIMITED = 72  # an answer that was owed, withheld by the ICMP or RST limiter
    MULTICAST = 73
    UDP_BACKPRESSURE = 74

    # --- DNS ---
    DNS_MALFORMED = 80
    DNS_TABLE_FULL = 81
    DNS_UNEXPECTED_ANSWER = 82  # no query with this id and question on this flow
    DNS_LATE_ANSWER = 83

    # --- policy ---
    POLICY_UNTRACKED = 96
    POLICY_QUIC = 97
    POLICY_LAN = 98
    POLICY_RULE = 99
    POLICY_MODE = 100

    # --- links ---
    TUNNEL_WRITE_FAILED = 112
    TUNNEL_QUEUE_FULL = 113
    IMPAIRED = 114  # the impairment decorator's doing
    CAPTURE_NOT_IP = 115
    CAPTURE_SNAPPED = 116
