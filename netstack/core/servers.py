"""Servers and networks as people write them.

Responsible for: ``ADDR:PORT``, ``[ADDR6]:PORT`` and ``ADDR/PREFIX``, and saying what is wrong with anything else.
Refuses to know: names; who is there.
RFCs: 3986 3.2.2 (addresses in brackets), 4291 2.3 and 4632 (prefixes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstack.core.address import parse_address
from netstack.core.errors import ConfigError

if TYPE_CHECKING:
    import ipaddress


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """``ADDR/PREFIX`` or ``ADDR``. Raises ConfigError."""
    import ipaddress  # most hosts name no network

    try:
        return ipaddress.ip_network(text)
    except ValueError as problem:
        raise ConfigError(f"{text!r} is not a network (a network is ADDR/PREFIX): {problem}") from None


def parse_server(text: str, default_port: int = 53) -> tuple[str, int]:
    """``ADDR``, ``ADDR:PORT``, ``[ADDR6]:PORT`` or ``ADDR6`` as host and port. Raises ConfigError."""
    host, port = text, str(default_port)
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ConfigError(f"{text!r}: write an IPv6 server as [ADDRESS]:PORT")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        parse_address(host)
    except ValueError:
        raise ConfigError(f"{text!r}: {host!r} is not an IP address (a server is ADDR or ADDR:PORT)") from None
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"{text!r}: the port must be 1..65535")
    return host, int(port)
