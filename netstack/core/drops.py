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
    BAD_IP_CHECKSUM = 5  # IPv4 header checksum (RFC 1122 3.2.1.2)
    TRUNCATED_TRANSPORT = 6  # transport header not whole
    BAD_TRANSPORT_HEADER = 7  # data offset or UDP length that contradicts the packet
    BAD_TCP_CHECKSUM = 8  # RFC 9293 MUST-3
    BAD_UDP_CHECKSUM = 9  # RFC 1122 4.1.3.4
    ZERO_UDP_CHECKSUM_V6 = 10  # RFC 8200 section 8.1
    BAD_ICMP_CHECKSUM = 11  # RFC 792, RFC 4443 2.3
    BAD_TCP_OPTION = 12  # illegal option length (RFC 9293 MUST-7); the segment is dropped
    BAD_EXTENSION_HEADER = 13  # IPv6 extension chain broken, too long, or an option that demands discard
    BAD_ADDRESS = 14  # source is multicast, unspecified or broadcast
    BAD_FRAGMENT = 15  # fragment offset/length impossible
    BAD_GSO = 16  # virtio-net header contradicts the packet
    NO_NEXT_HEADER = 17  # IPv6 "no next header"
    ROUTING_HEADER = 18  # IPv6 routing header with segments left (RFC 5095, RFC 8200 4.4)

    # --- reassembly ---
    FRAGMENT_OVERLAP = 32  # RFC 5722
    FRAGMENT_TIMEOUT = 33  # the rest never came
    FRAGMENT_TABLE_FULL = 34  # over limits.fragments or limits.fragment_octets
    FRAGMENT_TOO_LARGE = 35  # would end beyond 65535 octets

    # --- TCP ---
    TCP_NO_FLOW = 48  # answered with RST unless it was one
    TCP_OUT_OF_WINDOW = 49  # outside the receive window; answered with an ACK (RFC 9293 3.10.7.4)
    TCP_PAWS = 50  # timestamp older than the last (RFC 7323 5)
    TCP_BAD_ACK = 51  # acknowledges what was never sent (RFC 5961 5)
    TCP_BAD_RST = 52  # RST that is not at the next octet; challenged or ignored (RFC 5961 3)
    TCP_BAD_FLAGS = 53  # NULL, FIN|SYN, XMAS
    TCP_REASSEMBLY_FULL = 54  # out-of-order data beyond what is kept
    TCP_NO_ACK = 55  # a segment without ACK in a synchronized state
    TCP_TABLE_FULL = 56  # over limits.tcp_flows
    TCP_HALF_OPEN_FULL = 57  # over limits.half_open
    TCP_AFTER_CLOSE = 58  # data for a flow that is closed
    TCP_CHALLENGE_LIMITED = 59  # a challenge ACK withheld (RFC 5961 7)

    # --- UDP, ICMP, other ---
    UDP_TABLE_FULL = 64  # over limits.udp_sessions
    UDP_SEND_FAILED = 65  # the real socket refused the datagram
    UDP_NOT_EXPECTED = 66  # reply from an address that was never spoken to
    ICMP_UNSUPPORTED = 67  # a type that is not relayed
    ICMP_TABLE_FULL = 68  # over limits.icmp_sessions
    ICMP_REFUSED = 69  # no ICMP socket to be had
    UNSUPPORTED_PROTOCOL = 70  # an IP protocol other than TCP, UDP and ICMP
    TTL_EXCEEDED = 71  # TTL or hop limit used up
    RATE_LIMITED = 72  # an answer that was owed, withheld by the ICMP or RST limiter
    MULTICAST = 73  # multicast or broadcast that nothing here carries
    UDP_BACKPRESSURE = 74  # the real socket is full

    # --- DNS ---
    DNS_MALFORMED = 80  # cannot be read as a DNS message
    DNS_TABLE_FULL = 81  # over limits.dns_pending
    DNS_UNEXPECTED_ANSWER = 82  # no query with this id and question on this flow
    DNS_LATE_ANSWER = 83  # came after the client had its SERVFAIL
    DNS_PEER_NOT_ALLOWED = 84  # asked by a host that may not

    # --- policy ---
    POLICY_UNTRACKED = 96  # no DNS answer named the destination
    POLICY_QUIC = 97  # QUIC is blocked
    POLICY_LAN = 98  # policy.lan
    POLICY_RULE = 99  # an explicit rule
    POLICY_MODE = 100  # DNS-only mode
    POLICY_LOCKDOWN = 101  # a blocking state

    # --- links ---
    TUNNEL_WRITE_FAILED = 112  # the device refused the packet
    TUNNEL_QUEUE_FULL = 113  # the device's queue is full; TCP sends again
    IMPAIRED = 114  # the impairment decorator's doing
    CAPTURE_NOT_IP = 115  # a frame without IP
    CAPTURE_SNAPPED = 116  # cut by the snap length of the capture
