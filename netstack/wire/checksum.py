"""The Internet checksum without a loop.

Responsible for: one's-complement sums of octets and of pseudo-headers.
Refuses to know: which header the sum belongs to.
RFCs: 1071 (the checksum), 9293 3.1 and 768 (IPv4 pseudo-header), 8200 8.1 (IPv6 pseudo-header).

Since 2**16 is 1 modulo 65535, the one's-complement sum of 16-bit words is the whole octet string read
as one big number, modulo 65535. Only the two representations of zero need care: a sum of 0 is 0xFFFF
unless every octet was zero.
"""

from __future__ import annotations

from netstack.core.packet import Octets

_LOW_12288, _LOW_6144, _LOW_4096, _LOW_3072, _LOW_1536, _LOW_768 = (
    (1 << bits) - 1 for bits in (12_288, 6144, 4096, 3072, 1536, 768)
)


def residue(number: int) -> int:
    """``number % 65535``; a long one is folded first, since halving it is cheaper than dividing.

    Every fold is by a multiple of 16 bits: 2**16 is 1 modulo 65535. The last four are written out for packets of
    512 to 1,536 octets, which is what nearly all long ones are.
    """
    if number > _LOW_4096:
        while number > _LOW_12288:
            half = number.bit_length() >> 5 << 4
            number = (number >> half) + (number & (1 << half) - 1)
        number = (number >> 6144) + (number & _LOW_6144)
        number = (number >> 3072) + (number & _LOW_3072)
        number = (number >> 1536) + (number & _LOW_1536)
        number = (number >> 768) + (number & _LOW_768)
    return number % 65535


def partial_sum(octets: Octets) -> int:
    """The sum of `octets` as 16-bit words, modulo 65535; an odd last octet is padded with zero.

    Partial sums of pieces may be added with ``+`` when every piece but the last has an even length.
    """
    number = int.from_bytes(octets, "big")
    return residue(number << 8 if len(octets) & 1 else number)


def checksum(octets: Octets) -> int:
    """The 16-bit checksum of `octets`, whose own checksum field holds zero (RFC 1071)."""
    number = int.from_bytes(octets, "big")
    if not number:
        return 0xFFFF
    return 0xFFFF - (residue(number << 8 if len(octets) & 1 else number) or 0xFFFF)


def is_valid(octets: Octets) -> bool:
    """True when `octets`, checksum field included, sum to 0xFFFF (RFC 1071 section 1)."""
    number = int.from_bytes(octets, "big")
    return number != 0 and residue(number << 8 if len(octets) & 1 else number) == 0


def pseudo_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Partial sum of the pseudo-header; addresses of 4 or 16 octets, `length` of the transport in octets."""
    return (int.from_bytes(source, "big") + int.from_bytes(destination, "big") + protocol + length) % 65535


def transport_checksum(source: bytes, destination: bytes, protocol: int, octets: Octets) -> int:
    """The checksum of a transport header and payload whose checksum field holds zero, pseudo-header included.

    UDP sends 0xFFFF where this gives 0 (RFC 768).
    """
    total = pseudo_sum(source, destination, protocol, len(octets)) + partial_sum(octets)
    return 0xFFFF - (total % 65535 or 0xFFFF)  # never all zero: the protocol is in the sum


def is_transport_valid(source: bytes, destination: bytes, protocol: int, octets: Octets) -> bool:
    """True when the checksum inside `octets` is right."""
    return (pseudo_sum(source, destination, protocol, len(octets)) + partial_sum(octets)) % 65535 == 0
