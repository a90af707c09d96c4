"""Whether the tunnel's addresses are those of the network that the host is in.

Responsible for: telling, without any permission, that this host has an address in the tunnel's network;
naming networks that homes do not use.
Refuses to know: what is done about it.

10.0.0.0/24 is a common home network. There, the tunnel's gateway would hide the home router of the same
address. The kernel is asked which source it would use towards the gateway: nothing is sent.
"""

from __future__ import annotations

import socket

from netstack.config import Config, TunnelConfig
from netstack.core.address import parse_address
from netstack.core.record import replace

_PORT = 9  # any: connecting a datagram socket only looks up the route

ALTERNATIVES = (("10.0.0.1", "10.0.0.2"), ("198.18.0.1", "198.18.0.2"), ("100.64.73.1", "100.64.73.2"))
"""Gateway and device addresses to try in order: the original's, then RFC 2544's and RFC 6598's ranges."""


def source_towards(address: str) -> str | None:
    """The host's own address from which it would speak to `address`; None when there is no route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _PORT))
            host: str = probe.getsockname()[0]
            return host
    except OSError:
        return None


def collides(address: str) -> bool:
    """True when the host has an address in the /24 of `address`. Ask before the tunnel itself is up."""
    source = source_towards(address)
    return source is not None and parse_address(source)[:3] == parse_address(address)[:3]


def without_collision(config: Config) -> Config:
    """`config`, or the same with other tunnel addresses when its default ones are the host's network's."""
    tunnel = config.tunnel
    if tunnel.address != TunnelConfig().address or not collides(tunnel.address):
        return config
    for address, device in ALTERNATIVES:
        if not collides(address):
            return replace(config, tunnel=replace(tunnel, address=address, device_address=device))
    return config


def warning(config: Config) -> str | None:
    """A sentence for people when the configured addresses collide."""
    address = config.tunnel.address
    if not collides(address):
        return None
    free = next((gateway for gateway, _ in ALTERNATIVES if not collides(gateway)), "another network")
    return (
        f"tunnel.address: {address} lies in this host's own network, whose {address} is out of reach now; "
        f"try {free} (tunnel.address, --tun-address)"
    )
