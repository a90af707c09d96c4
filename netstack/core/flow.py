"""Who talks to whom: endpoints, five-tuples and the packed flow key.

Responsible for: the one representation of a flow's identity that every layer shares.
Refuses to know: what is done with a flow.

A flow key is 38 octets and always describes *the packet itself*, source first::

    version(1) protocol(1) source(16) destination(16) source port(2) destination port(2)

An IPv4 address takes the first 4 of its 16 octets, the rest is zero. The codecs build the key in the
descriptor, so that a dictionary look-up costs one hash and no object is made for a known flow. ICMP
has no ports; an echo carries its identifier as the source port and 0 as the destination port.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, NewType

from netstack.core.address import format_address, parse_address

KEY = struct.Struct("!BB16s16sHH")
_KEY4 = struct.Struct("!BB4s12x4s12xHH")
FlowKey = NewType("FlowKey", bytes)

ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58

PROTOCOL_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}


class Endpoint(NamedTuple):
    """One end of a flow: a packed address of 4 or 16 octets, and a port."""

    address: bytes
    port: int

    @property
    def host(self) -> str:
        """The address as text."""
        return format_address(self.address)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.address) == 4 else 6

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if len(self.address) == 4 else f"[{self.host}]:{self.port}"

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        """From an address literal; raises ValueError for anything else."""
        return cls(parse_address(host), port)


class FiveTuple(NamedTuple):
    """A flow as its first packet showed it: `source` is the app, `destination` the far end."""

    protocol: int
    source: Endpoint
    destination: Endpoint

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version

    def __str__(self) -> str:
        return f"{PROTOCOL_NAMES.get(self.protocol, self.protocol)} {self.source} -> {self.destination}"


_make = tuple.__new__


def pack_key(protocol: int, source: Endpoint, destination: Endpoint) -> FlowKey:
    """The key of a packet from `source` to `destination`."""
    return FlowKey(
        KEY.pack(source.version, protocol, source.address, destination.address, source.port, destination.port)
    )


def unpack_key(key: bytes) -> FiveTuple:
    """The five-tuple that a key packs."""
    _, protocol, source, destination, sport, dport = (_KEY4 if key[0] == 4 else KEY).unpack(key)
    # once for each flow: without the constructors, which are Python
    return _make(FiveTuple, (protocol, _make(Endpoint, (source, sport)), _make(Endpoint, (destination, dport))))


def reverse_key(key: bytes) -> FlowKey:
    """The key of the packets that answer those of `key`."""
    return FlowKey(key[:2] + key[18:34] + key[2:18] + key[36:38] + key[34:36])


def key_source(key: bytes) -> bytes:
    """Packed source address (4 or 16 octets)."""
    return key[2:6] if key[0] == 4 else key[2:18]


def key_destination(key: bytes) -> bytes:
    """Packed destination address (4 or 16 octets)."""
    return key[18:22] if key[0] == 4 else key[18:34]


def key_source_port(key: bytes) -> int:
    """Source port."""
    return key[34] << 8 | key[35]


def key_destination_port(key: bytes) -> int:
    """Destination port."""
    return key[36] << 8 | key[37]
