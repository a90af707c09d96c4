"""What the host says of the network that the device is on.

Responsible for: one value for all of it.
Refuses to know: how a host finds out, what follows from it.
RFCs: 2132 and 8106 (resolvers), 6146 and 8781 (the NAT64 prefix).
"""

from __future__ import annotations

from netstack.core.record import recordclass


@recordclass(frozen=True, kw_only=True)
class Network:
    """Everything that is not said has its default, and means: not known."""

    name: str = ""
    """What rules call the network."""
    has_ipv6: bool | None = None
    """Whether there is a way to the IPv6 Internet, NAT64 not counted."""
    nat64: str = ""
    """The NAT64 prefix as the network advertises it, `64:ff9b::/96`; empty to find it out (RFC 7050)."""
    servers: tuple[str, ...] = ()
    """The network's own resolvers, ADDR or ADDR:PORT."""
