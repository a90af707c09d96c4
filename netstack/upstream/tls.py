"""TLS towards an upstream, as a `Stream` over a `Stream`: whatever speaks TCP speaks TLS without knowing.

Responsible for: the handshake, the check of the certificate (always), resumption, records in both directions.
Refuses to know: what is said inside; sockets (the dialer's), trust beyond the anchors it is given.
RFCs: 8446, 5246; 8310 section 8 (strict privacy: authenticated or not at all), 6125 (names), 7301 (ALPN).

There is no way to switch the check off, and no fall-back to anything weaker: a failed check is an event, and a
connection error (EPROTO) for whoever dialled.
"""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
from typing import Any

from netstack.core.errors import ConfigError
from netstack.core.events import EngineError, EventSink
from netstack.core.flow import Endpoint, FiveTuple
from netstack.core.packet import Octets
from netstack.core.ports import Dialer, SocketOwner, Stream

RECORD = 16_384
READ_SIZE = 65_536
OUTPUT_MOST = 262_144  # octets waiting for the socket above which no more are taken
REPEAT_EVENT = 10.0  # seconds during which the same failure is reported once
REPORTS_MOST = 5  # different ones in that time: what a server says may be new every time
REPORT_LONGEST = 300  # characters


class Trust:
    """Trust anchors, read once for all upstreams; contexts are made when first wanted."""

    def __init__(self, ca_file: str = "") -> None:
        """`ca_file` (PEM) replaces the system's anchors. Raises ConfigError when it cannot be used."""
        self.ca_file = ca_file
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        if ca_file:
            self.context(())

    def context(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """A client context that verifies; one for each list of protocols, for that is where ALPN lives."""
        context = self._contexts.get(alpn)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=self.ca_file or None)
            except (OSError, ssl.SSLError) as problem:
                reason = problem.strerror or str(problem)
                raise ConfigError(f"ca_file {self.ca_file!r}: cannot read certificates: {reason}") from None
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if alpn:
                context.set_alpn_protocols(list(alpn))
            self._contexts[alpn] = context
        return context


class Reporter:
    """Error events about one upstream, the same one not all the time, and not many."""

    __slots__ = ("_emit", "_label", "_said")

    def __init__(self, label: str, emit: EventSink | None) -> None:
        self._label = label
        self._emit = emit
        self._said: dict[str, float] = {}

    def report(self, message: str, now: float) -> None:
        """Emit ``EngineError(where="resolver")``. `message` may hold what the server said."""
        if self._emit is None or (message in self._said and now - self._said[message] < REPEAT_EVENT):
            return
        self._said = {said: at for said, at in self._said.items() if now - at < REPEAT_EVENT}
        if len(self._said) >= REPORTS_MOST:
            return
        self._said[message] = now
        shown = "".join(each if each.isprintable() else "?" for each in message[:REPORT_LONGEST])
        self._emit(EngineError(now, "resolver", f"{self._label}: {shown}"))


class TlsClient:
    """Dials TLS connections to one upstream: a `dns_channels.StreamDialer`."""

    def __init__(
        self,
        dialer: Dialer,
        trust: Trust,
        server_name: str,
        *,
        alpn: tuple[str, ...] = (),
        pins: tuple[bytes, ...] = (),
        label: str = "",
        emit: EventSink | None = None,
    ) -> None:
        """`server_name`: a host name or an address literal that the certificate must be for.

        `alpn`: offered, and when given one of them must be chosen. `pins`: SHA-256 of TBS certificates, one of which
        must be in the verified chain. `label` stands in events.
        """
        self._dialer = dialer
        self._trust = trust
        self.server_name = server_name
        self.alpn = alpn
        self.pins = pins
        self.reporter = Reporter(label or server_name, emit)
        self.session: ssl.SSLSession | None = None

    def dial_tcp(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None = None) -> TlsStream:
        """As `Dialer.dial_tcp`; the outcome, of TCP and TLS together, comes as writability."""
        context = self._trust.context(self.alpn)
        stream = TlsStream(self, context, owner)
        stream.attach(self._dialer.dial_tcp(destination, stream, flow))
        return stream


class TlsStream:
    """One connection: a `Stream` for its owner, a SocketOwner of the connection below."""

    __slots__ = ("_client", "_connected", "_end", "_error", "_incoming", "_open", "_out", "_outgoing", "_plain",
                 "_read_wanted", "_remembered", "_stream", "_tls", "_write_wanted", "last_heard", "owner")  # fmt: skip

    _stream: Stream

    def __init__(self, client: TlsClient, context: ssl.SSLContext, owner: SocketOwner) -> None:
        self.owner = owner
        self.last_heard = 0.0
        self._client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=client.server_name, session=client.session
        )
        self._out = bytearray()
        self._plain = bytearray()
        self._connected = self._open = self._end = self._remembered = False
        self._read_wanted = self._write_wanted = False
        self._error = 0

    def attach(self, stream: Stream) -> None:
        """The connection below, being made."""
        self._stream = stream
        stream.watch(readable=False, writable=True)

    # --- Stream, for the owner ---

    def watch(self, *, readable: bool, writable: bool) -> None:
        """As `Stream.watch`."""
        self._read_wanted, self._write_wanted = readable, writable
        self._watch()

    def _watch(self) -> None:
        if not self._connected:
            self._stream.watch(readable=False, writable=True)
        else:
            self._stream.watch(
                readable=self._read_wanted or not self._open,
                writable=bool(self._out) or (self._write_wanted and self._open),
            )

    def connect_error(self) -> int:
        """As `Stream.connect_error`; EPROTO when TLS failed."""
        return self._error

    @property
    def ended(self) -> bool:
        """As `Stream.ended`."""
        return self._end

    def recv(self, limit: int) -> bytes:
        """As `Stream.recv`."""
        plain = self._plain
        if plain:
            taken = bytes(plain[:limit])
            del plain[:limit]
            return taken
        if self._error:
            raise OSError(self._error, os.strerror(self._error))
        if self._end:
            return b""
        raise BlockingIOError

    def send(self, octets: Octets, *, flush: bool = True) -> int:
        """As `Stream.send`; at most one record's worth is taken at a time."""
        if self._error:
            raise OSError(self._error, os.strerror(self._error))
        if not self._open or len(self._out) >= OUTPUT_MOST:
            raise BlockingIOError
        try:
            taken = self._tls.write(octets)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLError as problem:
            raise OSError(errno.EPIPE, str(problem)) from None
        if flush:
            self._flush()
        return taken

    def sendmsg(self, buffers: list[Any]) -> int:
        """As `Stream.sendmsg`; each buffer becomes a record of its own, all go to the socket together."""
        taken = 0
        for octets in buffers:
            if taken and len(octets) > RECORD:
                break
            took = self.send(octets, flush=False)
            taken += took
            if took < len(octets):
                break
        self._flush()
        return taken

    def shutdown_write(self) -> None:
        """As `Stream.shutdown_write`: close_notify, then FIN."""
        self._say_goodbye()
        self._stream.shutdown_write()

    def close(self) -> None:
        """As `Stream.close`."""
        if self._open:
            self._remember()
            self._say_goodbye()
            self._open = False
        self._error = self._error or errno.EBADF
        self._stream.close()

    def abort(self) -> None:
        """As `Stream.abort`."""
        self._open = False
        self._error = self._error or errno.EBADF
        self._stream.abort()

    def is_alive(self) -> bool:
        """As `Stream.is_alive`."""
        return self._stream.is_alive()

    def alpn_protocol(self) -> str | None:
        """What was negotiated."""
        return self._tls.selected_alpn_protocol()

    def was_resumed(self) -> bool:
        """True when an earlier session was taken up."""
        return bool(self._tls.session_reused)

    # --- from the connection below ---

    def on_writable(self, socket: Stream, now: float) -> None:
        """Connected, or not, or room again."""
        if self._error:
            return
        if not self._connected:
            error = socket.connect_error()
            if error:
                self._fail(error, "", now)
                return
            self._connected = True
            self.last_heard = now
            self._shake(now)
            return
        self._flush()
        if self._open and self._write_wanted and not self._error:
            self.owner.on_writable(self, now)

    def on_readable(self, socket: Stream, now: float) -> None:
        """Records, or the end."""
        if self._error:
            return
        try:
            octets = socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as problem:
            self._fail(problem.errno or errno.ECONNRESET, "", now)
            return
        self.last_heard = now
        if octets:
            self._incoming.write(octets)
        else:
            self._incoming.write_eof()
        if not self._open:
            self._shake(now, ended=not octets)
            if not self._open:
                return
        self._decrypt(now, ended=not octets)
        while (self._plain or self._end or self._error) and self._read_wanted:
            before = len(self._plain)
            self.owner.on_readable(self, now)
            if not before or len(self._plain) == before:  # the end, which comes behind the octets, was told once
                break

    def _decrypt(self, now: float, ended: bool) -> None:
        read = self._tls.read
        plain = self._plain
        try:
            while True:
                octets = read(RECORD)
                if not octets:
                    self._end = True
                    break
                plain += octets
        except ssl.SSLWantReadError:
            self._end = self._end or ended
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._end = True
        except ssl.SSLError as problem:
            self._client.reporter.report(f"TLS broke: {_reason(problem)}", now)
            self._error = errno.ECONNRESET
        if plain and not self._remembered:
            self._remember()
        if self._outgoing.pending:
            self._flush()

    def _shake(self, now: float, ended: bool = False) -> None:
        """Go on with the handshake."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            self._watch()
            if ended:
                self._fail(errno.ECONNRESET, "", now)
            return
        except ssl.SSLCertVerificationError as problem:
            self._flush()  # the alert that says why
            self._fail(errno.EPROTO, f"the certificate was refused: {problem.verify_message}", now)
            return
        except (ssl.SSLError, ValueError) as problem:
            self._flush()
            if isinstance(problem, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
                self._fail(errno.ECONNRESET, "", now)
            else:
                self._fail(errno.EPROTO, f"the TLS handshake failed: {_reason(problem)}", now)
            return
        client = self._client
        if client.pins and not self._is_pinned():
            self._fail(errno.EPROTO, "the certificate was refused: none of the chain is one that the stamp names", now)
            return
        if client.alpn and self.alpn_protocol() not in client.alpn:
            self._fail(errno.EPROTO, f"the server does not speak {' or '.join(client.alpn)}", now)
            return
        self._open = True
        self._flush()
        self._watch()
        self.owner.on_writable(self, now)

    def _fail(self, error: int, message: str, now: float) -> None:
        self._error = error
        if error == errno.EPROTO:
            self._client.session = None
        if message:
            self._client.reporter.report(message, now)
        was_open, self._open = self._open, False
        self._stream.watch(readable=False, writable=False)
        if was_open:
            self.owner.on_readable(self, now)
        else:
            self.owner.on_writable(self, now)

    def _flush(self) -> None:
        """Hand to the socket what TLS made; what it does not take waits."""
        out = self._out
        if self._outgoing.pending:
            fresh = self._outgoing.read()
            if out:
                out += fresh
            else:
                sent = self._give(fresh)
                if sent < len(fresh):
                    out += fresh[sent:]
                    self._watch()
                return
        if out:
            del out[: self._give(out)]
            self._watch()

    def _give(self, octets: bytes | bytearray) -> int:
        try:
            return self._stream.send(octets)
        except BlockingIOError:
            return 0
        except OSError:  # the next read tells, with what had arrived before
            return len(octets)

    def _remember(self) -> None:
        """Keep the session: TLS 1.3 tickets come after the handshake, with the first answer at the latest."""
        session = self._tls.session
        if session is not None and session.has_ticket:
            self._client.session = session
            self._remembered = True

    def _say_goodbye(self) -> None:
        if self._open and not self._error:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, ValueError):  # it waits for the other side's, which nobody needs
                pass
            self._flush()

    def _is_pinned(self) -> bool:
        pins = self._client.pins
        return any(hashlib.sha256(tbs_of(der)).digest() in pins for der in _verified_chain(self._tls))


def _verified_chain(tls: ssl.SSLObject) -> list[bytes]:
    """The chain in DER; before Python 3.13 only the private object has it. Empty when it cannot be had."""
    chain = getattr(tls, "get_verified_chain", None) or getattr(
        getattr(tls, "_sslobj", None), "get_verified_chain", None
    )
    found: list[bytes] = []
    for each in (chain() or ()) if chain is not None else ():
        found.append(each if isinstance(each, bytes) else ssl.PEM_cert_to_DER_cert(each.public_bytes()))
    return found


def tbs_of(der: bytes) -> bytes:
    """The TBS part of a certificate in DER: the first element of the outer sequence (RFC 5280 4.1)."""
    start = _header(der, 0)[0]
    at, length = _header(der, start)
    return der[start : at + length]


def _header(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` starts, and its length."""
    length = der[at + 1]
    if length < 0x80:
        return at + 2, length
    count = length & 0x7F
    return at + 2 + count, int.from_bytes(der[at + 2 : at + 2 + count], "big")


def _reason(problem: Exception) -> str:
    reason = getattr(problem, "reason", None)
    return str(reason or problem).replace("_", " ").lower()
