"""DNS over TLS, and plain DNS over nothing but TCP.

Responsible for: putting the TCP channel over TLS.
Refuses to know: framing and pipelining (`dns_channels`), TLS (`tls`), time limits (`connected`).
RFCs: 7858 (DoT), 7766 (one connection, pipelined, answers in any order), 8467 (padding).
"""

from __future__ import annotations

from netstack.core.events import EventSink
from netstack.core.flow import Endpoint
from netstack.core.ports import Dialer, Entropy
from netstack.core.stats import Stats
from netstack.upstream.bootstrap import Location
from netstack.upstream.connected import IDLE, TIMEOUT, ConnectedResolver
from netstack.upstream.dns_channels import ChannelOwner, StreamDialer, TcpChannel
from netstack.upstream.tls import TlsClient, Trust
from netstack.upstream.url import UpstreamUrl

WAITING_MOST = 16_384  # queries on one connection: a quarter of the ids, so that a free one is found quickly


def tcp_resolver(
    url: UpstreamUrl,
    location: Location,
    dialer: Dialer,
    entropy: Entropy,
    *,
    timeout: float = TIMEOUT,
    idle: float = IDLE,
    stats: Stats | None = None,
) -> ConnectedResolver:
    """A Resolver for a ``tcp://`` upstream."""
    return _over(dialer, location, entropy, timeout, idle, False, stats)


def dot_resolver(
    url: UpstreamUrl,
    location: Location,
    dialer: Dialer,
    entropy: Entropy,
    trust: Trust,
    *,
    timeout: float = TIMEOUT,
    idle: float = IDLE,
    padding: bool = False,
    stats: Stats | None = None,
    emit: EventSink | None = None,
) -> ConnectedResolver:
    """A Resolver for a ``tls://`` upstream. `emit` gets an EngineError when the certificate is refused."""
    client = TlsClient(dialer, trust, url.server_name, pins=url.pins, label=url.label, emit=emit)
    return _over(client, location, entropy, timeout, idle, padding, stats)


def _over(
    dialer: StreamDialer,
    location: Location,
    entropy: Entropy,
    timeout: float,
    idle: float,
    padding: bool,
    stats: Stats | None,
) -> ConnectedResolver:
    def channel(endpoint: Endpoint, owner: ChannelOwner) -> TcpChannel:
        return TcpChannel(dialer, entropy, endpoint, owner, idle=idle, most=WAITING_MOST)

    return ConnectedResolver(location, channel, timeout=timeout, padding=padding, stats=stats)
