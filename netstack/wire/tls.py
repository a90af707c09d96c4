"""TLS ClientHello: the names that a client shows before anything is encrypted.

Responsible for: server name, ALPN and the presence of ECH, from the first octets of a TCP stream.
Refuses to know: any other TLS message, whether the name is allowed.
RFCs: 8446 (TLS 1.3), 6066 section 3 (server_name), 7301 (ALPN), 9849 (ECH).

Tolerant: a ClientHello may be cut over many records and many segments; the caller hands in what it has
and is told whether more is needed. Never raises.
"""

from __future__ import annotations

from netstack.core.packet import Octets
from netstack.core.record import recordclass

HANDSHAKE = 22
CLIENT_HELLO = 1
MAX_HELLO = 65_536  # octets of stream that are worth looking at; post-quantum key shares take about 2,000

_SERVER_NAME = 0
_ALPN = 16
_ECH = 0xFE0D


@recordclass(frozen=True)
class ClientHello:
    """`server_name` is lower case without a trailing dot, None when absent or unusable."""

    server_name: str | None
    alpn: tuple[str, ...] = ()
    has_ech: bool = False


@recordclass(frozen=True)
class HelloScan:
    """What a look at a stream's first octets gave. `more` means undecided: hand in a longer prefix."""

    hello: ClientHello | None = None
    more: bool = False


NOT_TLS = HelloScan()
NEED_MORE = HelloScan(more=True)


def scan_client_hello(stream: Octets) -> HelloScan:
    """Look at the first octets of a TCP stream, as many as there are."""
    view = bytes(stream[:MAX_HELLO])
    body, undecided = _handshake_octets(view)
    if body is None:
        return NOT_TLS
    if len(body) >= 1 and body[0] != CLIENT_HELLO:
        return NOT_TLS
    if len(body) < 4 or len(body) < 4 + int.from_bytes(body[1:4], "big"):
        return NEED_MORE if undecided and len(stream) < MAX_HELLO else NOT_TLS
    hello = parse_client_hello(body[4 : 4 + int.from_bytes(body[1:4], "big")])
    return HelloScan(hello) if hello is not None else NOT_TLS


def parse_sni(stream: Octets) -> str | None:
    """The server name in the first octets of a TCP stream, or None."""
    hello = scan_client_hello(stream).hello
    return hello.server_name if hello is not None else None


def _handshake_octets(view: bytes) -> tuple[bytes | None, bool]:
    """Handshake octets of the leading records, joined; None when these are no TLS records.

    The flag says whether the octets end inside or right after a handshake record, so that more may come.
    """
    parts: list[bytes] = []
    at = 0
    wanted = -1
    have = 0
    while at < len(view):
        header = view[at : at + 5]
        if header[0] != HANDSHAKE or (len(header) > 1 and header[1] != 3):
            return (b"".join(parts), False) if parts else (None, False)
        if len(header) < 5:
            break
        size = header[3] << 8 | header[4]
        if size == 0 or size > 16_640:  # RFC 8446 5.1: no empty handshake records; 2**14 + 256
            return None, False
        part = view[at + 5 : at + 5 + size]
        parts.append(part)
        have += len(part)
        at += 5 + size
        if wanted < 0 and have >= 4:
            head = b"".join(parts)
            wanted = 4 + int.from_bytes(head[1:4], "big")
        if 0 <= wanted <= have:
            break
    return b"".join(parts), True


def parse_client_hello(body: bytes) -> ClientHello | None:
    """The body of a whole ClientHello message; None when it contradicts itself."""
    size = len(body)
    at = 34  # legacy_version and random
    if size < at + 1:
        return None
    at += 1 + body[at]  # legacy_session_id
    if at + 2 > size:
        return None
    at += 2 + (body[at] << 8 | body[at + 1])  # cipher_suites
    if at + 1 > size:
        return None
    at += 1 + body[at]  # legacy_compression_methods
    if at == size:
        return ClientHello(None)  # no extensions: before TLS 1.3
    if at + 2 > size:
        return None
    end = at + 2 + (body[at] << 8 | body[at + 1])
    at += 2
    if end > size:
        return None
    name: str | None = None
    alpn: tuple[str, ...] = ()
    has_ech = False
    while at + 4 <= end:
        kind = body[at] << 8 | body[at + 1]
        stop = at + 4 + (body[at + 2] << 8 | body[at + 3])
        if stop > end:
            return None
        content = body[at + 4 : stop]
        if kind == _SERVER_NAME and name is None:
            name = _server_name(content)
        elif kind == _ALPN:
            alpn = _alpn(content)
        elif kind == _ECH:
            has_ech = True
        at = stop
    return ClientHello(name, alpn, has_ech)


def _server_name(content: bytes) -> str | None:
    """The host_name of a server_name extension (RFC 6066 section 3)."""
    at = 2
    while at + 3 <= len(content):
        stop = at + 3 + (content[at + 1] << 8 | content[at + 2])
        if stop > len(content):
            return None
        if content[at] == 0:
            name = content[at + 3 : stop]
            if not name or len(name) > 255 or not name.isascii() or b"\0" in name or b" " in name:
                return None
            return name.decode("ascii").lower().rstrip(".") or None
        at = stop
    return None


def _alpn(content: bytes) -> tuple[str, ...]:
    protocols = []
    at = 2
    while at < len(content):
        stop = at + 1 + content[at]
        if stop > len(content):
            break
        protocols.append(content[at + 1 : stop].decode("latin-1"))
        at = stop
    return tuple(protocols)
