"""Looks whether a captive portal is in the way: over HTTP, past the tunnel, as the network itself would have it.

Responsible for: asking the portal's API (RFC 8908) or a probe's URL, resolving their names at the network's own
resolvers, looking again while the portal is shut.
Refuses to know: what follows from what is found (`policy/captive.py`).
RFCs: 8908, 8910, 8952, 9110 (15: status codes), 6585 6 (511).

It runs on a thread of its own for as long as it looks, with blocking sockets that are protected like all others.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from netstack.core.errors import NetstackError
from netstack.core.events import EngineError, EventSink
from netstack.core.flow import Endpoint
from netstack.core.servers import parse_server
from netstack.dns.filter import read_answer
from netstack.dns.message import AAAA, HEADER, RD, A, is_answer_to, parse_question
from netstack.dns.records import IN, wire_name
from netstack.runtime.entropy import SystemEntropy

if TYPE_CHECKING:
    from netstack.runtime.changes import Changes

TIMEOUT = 5.0  # seconds for each step
AGAIN = 10.0  # seconds until a portal that is shut is looked at again
LARGEST = 65_536
API_TYPE = "application/captive+json"

Protect = Callable[[int], bool]


class Found(NamedTuple):
    """What a look found."""

    answer: bytes = b""
    """The API's answer; empty when a probe was made."""
    captive: bool = False
    url: str = ""


class PortalCheck:
    """One look. Raises OSError or NetstackError when it cannot be said what is there."""

    def __init__(self, servers: Sequence[str], protect: Protect | None, *, ca_file: str = "") -> None:
        """`servers` are the network's own resolvers; `ca_file` holds trust anchors beside the system's."""
        self._servers = [parse_server(server) for server in servers]
        self._protect = protect
        self._ca_file = ca_file

    def ask_api(self, url: str) -> Found:
        """The API's own word (RFC 8908 4)."""
        status, _, body = self._get(url, API_TYPE)
        if status != 200:
            raise NetstackError(f"{url} answers {status}")
        return Found(answer=body)

    def probe(self, url: str) -> Found:
        """What becomes of a request for `url`, whose server answers 204, or 200 and "Success"."""
        status, location, body = self._get(url, "*/*")
        if status == 204 or (status == 200 and (not body or b"Success" in body)):
            return Found()
        if status in (200, 301, 302, 303, 307, 308, 511):
            return Found(captive=True, url=location or url)
        raise NetstackError(f"{url} answers {status}")

    # --- the least of HTTP ---

    def _get(self, url: str, accept: str) -> tuple[int, str, bytes]:
        """Status, Location and body."""
        import http.client

        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with contextlib.closing(self._connect(host, port)) as plain:
            sock = self._secured(plain, host) if parts.scheme == "https" else plain
            with contextlib.closing(sock):
                sock.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: {accept}\r\n"
                    "Cache-Control: no-cache\r\nConnection: close\r\n\r\n".encode("ascii")
                )
                response = http.client.HTTPResponse(sock, method="GET")
                try:
                    response.begin()
                    return response.status, response.getheader("Location") or "", response.read(LARGEST)
                except http.client.HTTPException as problem:
                    raise NetstackError(f"{url}: no HTTP: {problem!r}") from None

    def _secured(self, sock: socket.socket, host: str) -> socket.socket:
        import ssl

        context = ssl.create_default_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        return context.wrap_socket(sock, server_hostname=host)

    def _connect(self, host: str, port: int) -> socket.socket:
        problem: OSError | None = None
        for address in self._addresses(host):
            sock = self._socket(address, socket.SOCK_STREAM)
            try:
                sock.connect((address, port))
                return sock
            except OSError as failed:
                sock.close()
                problem = failed
        raise problem or NetstackError(f"{host} has no address here")

    def _socket(self, address: str, kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        sock.settimeout(TIMEOUT)
        if self._protect is not None and not self._protect(sock.fileno()):
            sock.close()
            raise NetstackError("a socket could not be protected")
        return sock

    # --- the least of DNS ---

    def _addresses(self, host: str) -> list[str]:
        with contextlib.suppress(ValueError):
            return [Endpoint.of(host, 0).host]
        name = wire_name(host)
        if name is None:
            raise NetstackError(f"{host!r} is not a host name")
        found: list[str] = []
        for kind in (A, AAAA):
            for server in self._servers:
                try:
                    found += self._resolve(name, kind, server)
                    break
                except OSError:
                    continue
        return found

    def _resolve(self, name: bytes, kind: int, server: tuple[str, int]) -> list[str]:
        ident = int.from_bytes(SystemEntropy().octets(2), "big")
        query = HEADER.pack(ident, RD, 1, 0, 0, 0) + name + kind.to_bytes(2, "big") + IN.to_bytes(2, "big")
        question = parse_question(query)
        assert question is not None  # our own
        with contextlib.closing(self._socket(server[0], socket.SOCK_DGRAM)) as sock:
            sock.connect(server)  # from anybody else nothing is heard
            sock.send(query)
            end = time.monotonic() + TIMEOUT
            while time.monotonic() < end:
                message = sock.recv(LARGEST)
                if is_answer_to(message, ident, question):
                    answer = read_answer(message, question)
                    addresses = answer.addresses if answer is not None else []
                    return [Endpoint(address, 0).host for address, _ in addresses]
        raise TimeoutError


class PortalWatch:
    """Looks when told to, and again for as long as a portal is shut and its names are let through."""

    def __init__(
        self,
        change: Callable[[Callable[[Changes, float], Any]], bool],
        call_later: Callable[[float, Callable[[], None]], object],
        protect: Protect | None,
        emit: EventSink,
        *,
        check: Callable[..., PortalCheck] = PortalCheck,
    ) -> None:
        """``change(function)`` has ``function(changes, now)`` called on the engine's thread."""
        self._change = change
        self._call_later = call_later
        self._protect = protect
        self._emit = emit
        self._check = check
        self._looking = False

    def look(self) -> None:
        """Begin, from any thread; what is found comes as an event."""
        self._change(self._begin)

    def _begin(self, changes: Changes, now: float) -> None:
        config = changes.config
        servers = changes.network.servers or config.dns.network_servers
        known = changes.known_portal
        api = known.location if known is not None else ""
        if self._looking or changes.is_blocking or not (servers or config.dns.servers):
            return  # while everything is blocked nothing leaves the device for this either
        self._looking = True
        check = self._check(servers or config.dns.servers, self._protect, ca_file=config.dns.ca_file)
        threading.Thread(
            target=self._work, args=(check, api, config.captive.probe), name="portal", daemon=True
        ).start()

    def _work(self, check: PortalCheck, api: str, probe: str) -> None:
        found = None
        try:
            found = check.ask_api(api) if api else check.probe(probe)
        except (OSError, ValueError, NetstackError) as problem:
            # nobody knows more than before; a portal that does not answer is no news either
            self._emit(EngineError(time.monotonic(), "portal", f"cannot look for a portal: {problem}"))
        self._change(lambda changes, now: self._tell(changes, found, now))

    def _tell(self, changes: Changes, found: Found | None, now: float) -> None:
        self._looking = False
        if found is not None and found.answer:
            changes.captive_portal(now, answer=found.answer)
        elif found is not None:
            changes.captive_portal(now, captive=found.captive, url=found.url)
        known = changes.known_portal
        if known is not None and known.allowing:
            self._call_later(AGAIN, self.look)
