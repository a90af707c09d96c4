"""DNS servers that fail in every way that is known, on loopback: one site for each transport and kind of failure.

All sites of a `HostileServers` live on one asyncio loop in a thread of their own. UDP sites serve TCP on the same port
too. What a kind does is in its line of `KINDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.certificates import Authority
from tests.interop.dns_servers import answer_to, free_port

TRANSPORTS = ("udp", "tcp", "tls", "https", "quic")
STREAMS = ("tcp", "tls", "https", "quic")
ENCRYPTED = ("tls", "https", "quic")

KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "well": (TRANSPORTS, "answers"),
    "refused": (TRANSPORTS, "nobody listens"),
    "black hole": (TRANSPORTS, "takes everything, says nothing"),
    "garbage": (TRANSPORTS, "octets that are not of this protocol"),
    "garbage inside": (TRANSPORTS, "the protocol is right, the DNS message is not"),
    "wrong name": (ENCRYPTED, "a certificate for another name"),
    "expired": (ENCRYPTED, "a certificate of the past"),
    "unknown authority": (ENCRYPTED, "a certificate that nobody trusts"),
    "dribble": (("tcp", "tls", "https", "quic"), "one octet every 20 ms"),
    "2 s late": (TRANSPORTS, "answers after 2 s"),
    "6 s late": (TRANSPORTS, "answers after 6 s"),
    "truncated": (TRANSPORTS, "TC over UDP, whole over TCP; on connections TC as well"),
    "truncated, no TCP": (("udp",), "TC over UDP, nobody listens on TCP"),
    "cut": (TRANSPORTS, "half of the answer, then the end"),
    "cut once": (STREAMS, "the first connection ends in the middle of its answer"),
    "half-open": (STREAMS, "a connection idle for 0.3 s is dead, and nobody is told"),
    "idle close": (STREAMS, "a connection idle for 0.3 s is closed"),
    "one each": (STREAMS, "a connection ends after one answer"),
    "forged": (TRANSPORTS, "answers to other questions and ids first; DoH, DoQ: instead"),
    "SERVFAIL": (TRANSPORTS, "SERVFAIL for everything"),
    "REFUSED": (TRANSPORTS, "REFUSED for everything"),
    "404": (("https",), "status 404"),
    "503": (("https",), "status 503"),
    "redirect": (("https",), "status 302 to a server that answers"),
    "content type": (("https",), "text/html"),
    "oversized": (("https", "quic"), "70,000 octets"),
    "empty": (("https", "quic"), "no octet"),
    "HTTP/1.1": (("https",), "no HTTP/2"),
    "no ALPN": (("https", "quic"), "HTTP/2 without having agreed on it; QUIC for something else"),
    "GOAWAY at once": (("https",), "GOAWAY as the first thing"),
    "GOAWAY, then answer": (("https",), "GOAWAY names the stream as its last, the answer comes 0.2 s later"),
    "one stream": (("https",), "takes one request at a time"),
    "refused stream": (("https",), "RST_STREAM with REFUSED_STREAM"),
    "reset stream": (("https", "quic"), "resets each stream"),
    "no status": (("https",), "headers without a status"),
    "Age": (("https",), "Age: 20 for a TTL of 60"),
    "zero length": (("tcp", "tls", "quic"), "a message of length 0"),
    "stop sending": (("quic",), "STOP_SENDING, then nothing"),
    "no FIN": (("quic",), "the answer, and the stream stays open"),
    "protocol error": (("quic",), "closes with DOQ_PROTOCOL_ERROR"),
    "excessive load": (("quic",), "closes with DOQ_EXCESSIVE_LOAD"),
    "unspecified error": (("quic",), "closes with DOQ_UNSPECIFIED_ERROR"),
}

OTHER = "other.example"
DEAD_AFTER = 0.3
STEP = 0.02


def with_rcode(query: bytes, code: int) -> bytes:
    """An answer without records."""
    import dns.message
    import dns.rcode

    made = dns.message.make_response(dns.message.from_wire(query))
    made.set_rcode(dns.rcode.Rcode(code))
    return made.to_wire()


def of_another(query: bytes) -> bytes:
    """An answer with the id of `query` to a question that nobody asked."""
    import dns.message

    return answer_to(dns.message.make_query(OTHER, "A", id=query[0] << 8 | query[1]).to_wire())


def truncated(query: bytes) -> bytes:
    """No records and TC."""
    answer = bytearray(with_rcode(query, 0))
    answer[2] |= 0x02
    return bytes(answer)


class Site:
    """One server: what it does, and what it has seen."""

    def __init__(self, transport: str, kind: str) -> None:
        self.transport, self.kind = transport, kind
        self.port = free_port()
        self.connections = 0
        self.queries = 0
        self.ended: list[float] = []  # monotonic times at which a client closed its connection
        self.swallows = False  # takes queries and does nothing with them
        self.twist: Callable[[bytes], bytes] | None = None  # from a query to what is said instead of the kind's answer

    def url(self, name: str = "") -> str:
        """As an upstream; verified for the address unless `name` is given."""
        return f"{self.transport}://127.0.0.1:{self.port}" + (f"#{name}" if name else "")

    def messages(self, query: bytes, over_udp: bool = False) -> list[tuple[float, bytes]]:
        """Seconds to wait, and what is then said."""
        self.queries += 1
        kind = self.kind
        if self.swallows:
            return []
        if self.twist is not None:
            return [(0, self.twist(query))]
        if kind == "2 s late":
            return [(2.0, answer_to(query))]
        if kind == "6 s late":
            return [(6.0, answer_to(query))]
        if kind == "garbage inside":
            return [(0, query[:2] + os.urandom(40))]
        if kind == "SERVFAIL":
            return [(0, with_rcode(query, 2))]
        if kind == "REFUSED":
            return [(0, with_rcode(query, 5))]
        if kind.startswith("truncated") and (over_udp or self.transport != "udp"):
            return [(0, truncated(query))]
        if kind == "forged":
            if self.transport in ("https", "quic"):
                return [(0, of_another(query))]
            wrong = bytes([query[0] ^ 0x55, query[1]])
            return [(0, of_another(query)), (0, wrong + answer_to(query)[2:]), (0.05, answer_to(query))]
        if kind == "zero length":
            return [(0, b"")]
        return [(0, answer_to(query))]


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, site: Site) -> None:
        self.site = site

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, octets: bytes, sender: Any) -> None:
        site = self.site
        if site.kind == "garbage" or site.transport == "quic":
            site.queries += 1
            self.transport.sendto(octets[:2] + os.urandom(60), sender)
            self.transport.sendto(os.urandom(5), sender)
            return
        for delay, message in site.messages(octets, over_udp=True):
            if site.kind == "cut":
                message = message[: len(message) // 2]
            if delay:
                asyncio.get_running_loop().call_later(delay, self.transport.sendto, message, sender)
            else:
                self.transport.sendto(message, sender)


class HostileServers:
    """Makes sites; `stop` ends them all."""

    def __init__(self, folder: Path) -> None:
        (folder / "other").mkdir(parents=True, exist_ok=True)
        self.authority = Authority(folder)
        self.ca_file = str(self.authority.ca_file)
        self._certificates = {
            "": self.authority.issue("127.0.0.1", "dns.test"),
            "wrong name": self.authority.issue("wrong.test"),
            "expired": self.authority.issue("127.0.0.1", days=-1),
            "unknown authority": Authority(folder / "other").issue("127.0.0.1"),
        }
        self.certificate = self._certificates[""][0]
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: None)  # clients leave at any time
        self._held: list[Any] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def _call(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def stop(self) -> None:
        """End everything at once."""

        async def end() -> None:
            for held in self._held:
                with contextlib.suppress(Exception):
                    held.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def site(self, transport: str, kind: str) -> Site:
        """A server for this cell, which listens when this returns."""
        assert transport in KINDS[kind][0], (transport, kind)
        for _ in range(20):  # a port may be taken between looking and binding
            with contextlib.suppress(OSError):
                return self._open(Site(transport, kind))
        raise AssertionError("no port is free")

    def _open(self, site: Site) -> Site:
        kind = site.kind
        if kind == "refused":
            return site
        if kind == "black hole":
            datagrams, streams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
            datagrams.bind(("127.0.0.1", site.port))
            streams.bind(("127.0.0.1", site.port))
            streams.listen(1000)
            self._held += (datagrams, streams)
            return site
        self._call(self._start(site))
        return site

    def _context(self, kind: str, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._certificates.get(kind, self._certificates[""]))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    async def _start(self, site: Site) -> None:
        loop = asyncio.get_running_loop()
        address = ("127.0.0.1", site.port)
        if site.transport == "udp" or (site.transport == "quic" and site.kind == "garbage"):
            self._held.append((await loop.create_datagram_endpoint(lambda: _Udp(site), address))[0])
            if site.kind == "truncated, no TCP" or site.transport == "quic":
                return
        if site.transport == "quic":
            self._held.append(await _serve_quic(site, self._certificates.get(site.kind, self._certificates[""])))
            return
        context = None
        if site.kind != "garbage" and site.transport == "tls":
            context = self._context(site.kind)
        elif site.kind != "garbage" and site.transport == "https":
            alpn = {"HTTP/1.1": ("http/1.1",), "no ALPN": ()}.get(site.kind, ("h2",))
            context = self._context(site.kind, *alpn)

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site.connections += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
                if site.kind == "garbage":
                    writer.write(b"220 mail.example ESMTP\r\n" * 10)
                    await writer.drain()
                    await asyncio.sleep(20)
                elif site.transport == "https":
                    await _Http(site, reader, writer).talk()
                else:
                    await _talk_frames(site, reader, writer)
            writer.close()

        self._held.append(await asyncio.start_server(talk, *address, ssl=context, backlog=1000))


async def _talk_frames(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    first = site.connections == 1
    heard = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    while True:
        reading = reader.readexactly(2)
        try:
            head = await (asyncio.wait_for(reading, DEAD_AFTER) if site.kind == "idle close" else reading)
        except asyncio.IncompleteReadError:
            site.ended.append(time.monotonic())
            return
        except TimeoutError:
            return
        query = await reader.readexactly(int.from_bytes(head, "big"))
        if site.kind == "half-open" and time.monotonic() - heard > DEAD_AFTER:
            await asyncio.sleep(60)
        heard = time.monotonic()
        if site.kind == "cut" or (site.kind == "cut once" and first):
            framed = frame(site.messages(query)[0][1])
            writer.write(framed[: len(framed) // 2])
            await writer.drain()
            return
        task = asyncio.create_task(_say_frames(site, site.messages(query), writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if site.kind == "one each":
            await task
            return


async def _say_frames(site: Site, messages: list[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    for delay, message in messages:
        if delay:
            await asyncio.sleep(delay)
        framed = frame(message)
        if site.kind == "dribble":
            for octet in framed:
                writer.write(bytes([octet]))
                await asyncio.sleep(STEP)
        else:
            writer.write(framed)


def frame(message: bytes) -> bytes:
    """RFC 7766 8."""
    return len(message).to_bytes(2, "big") + message


class _Http:
    """One HTTP/2 connection, on h2."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self.site, self.reader, self.writer = site, reader, writer
        checked = site.kind != "no status"
        self.h2 = H2Connection(
            H2Configuration(
                client_side=False, header_encoding=None, validate_outbound_headers=checked,
                normalize_outbound_headers=checked,
            )
        )  # fmt: skip
        self.bodies: dict[int, bytes] = {}
        self.heard = time.monotonic()
        self.first = site.connections == 1
        self.tasks: set[asyncio.Task[None]] = set()
        self.closing = False

    async def talk(self) -> None:
        """To the end of the connection."""
        import h2.events
        import h2.settings

        if self.site.kind == "HTTP/1.1":
            while await self.reader.read(65536):
                self.writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return
        if self.site.kind == "one stream":
            self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        self.h2.initiate_connection()
        if self.site.kind == "GOAWAY at once":
            self.h2.close_connection(last_stream_id=0)
            self.flush()
            return
        self.flush()
        while not self.closing:
            reading = self.reader.read(65536)
            try:
                octets = await (asyncio.wait_for(reading, DEAD_AFTER) if self.site.kind == "idle close" else reading)
            except TimeoutError:
                self.h2.close_connection()
                self.flush()
                return
            if not octets:
                self.site.ended.append(time.monotonic())
                return
            for event in self.h2.receive_data(octets):
                if isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    await self.on_query(event.stream_id, self.bodies.pop(event.stream_id, b""))
            self.flush()

    def flush(self) -> None:
        """Send what h2 made."""
        self.writer.write(self.h2.data_to_send())

    async def on_query(self, stream_id: int, query: bytes) -> None:
        """A whole request."""
        from h2.errors import ErrorCodes

        site, kind = self.site, self.site.kind
        if kind == "half-open" and time.monotonic() - self.heard > DEAD_AFTER:
            await asyncio.sleep(60)
        self.heard = time.monotonic()
        if kind in ("refused stream", "reset stream"):
            site.queries += 1
            self.h2.reset_stream(
                stream_id, ErrorCodes.REFUSED_STREAM if kind == "refused stream" else ErrorCodes.INTERNAL_ERROR
            )
            return
        if kind == "GOAWAY, then answer":
            site.queries += 1
            goaway = (stream_id).to_bytes(4, "big") + bytes(4)
            self.flush()
            self.writer.write(len(goaway).to_bytes(3, "big") + b"\x07\0\0\0\0\0" + goaway)
            await asyncio.sleep(0.2)
            self.respond(stream_id, answer_to(query))
            await asyncio.sleep(0.05)
            self.closing = True
            return
        if kind == "cut" or (kind == "cut once" and self.first):
            answer = site.messages(query)[0][1]
            self.respond(stream_id, answer[: len(answer) // 2], size=len(answer), end=False)
            self.closing = True
            return
        task = asyncio.create_task(self.say(stream_id, query))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        if kind == "one each":
            await task
            self.h2.close_connection()
            self.flush()
            self.closing = True

    async def say(self, stream_id: int, query: bytes) -> None:
        """What there is to say to one query."""
        messages = self.site.messages(query)
        if not messages:
            return
        delay, message = messages[-1]
        if delay:
            await asyncio.sleep(delay)
        if self.site.kind == "dribble":
            self.respond(stream_id, b"", size=len(message), end=False)
            for at in range(len(message)):
                await asyncio.sleep(STEP)
                self.h2.send_data(stream_id, message[at : at + 1], end_stream=at + 1 == len(message))
                self.flush()
        elif self.site.kind == "oversized":
            self.respond(stream_id, message[:100], size=70_000, end=False)
            for _ in range(8):
                self.h2.send_data(stream_id, bytes(8_700))
                self.flush()
                await asyncio.sleep(0.01)
        else:
            self.respond(stream_id, b"" if self.site.kind == "empty" else message)

    def respond(self, stream_id: int, body: bytes, *, size: int | None = None, end: bool = True) -> None:
        """Headers as the kind wants them, and `body`."""
        kind = self.site.kind
        status = {"404": b"404", "503": b"503", "redirect": b"302"}.get(kind, b"200")
        media = b"text/html" if kind == "content type" else b"application/dns-message"
        headers = [
            (b":status", status), (b"content-type", media),
            (b"content-length", str(len(body) if size is None else size).encode()), (b"cache-control", b"max-age=60"),
        ]  # fmt: skip
        if kind == "Age":
            headers.append((b"age", b"20"))
        if kind == "redirect":
            headers.append((b"location", b"https://127.0.0.1/dns-query"))
        if kind == "no status":
            del headers[0]
        self.h2.send_headers(stream_id, headers, end_stream=False)
        if body or end:
            self.h2.send_data(stream_id, body, end_stream=end)
        self.flush()


for _name in ("quic", "asyncio"):  # what they say is that clients leave
    logging.getLogger(_name).setLevel(logging.CRITICAL)


async def _serve_quic(site: Site, certificate: tuple[Path, Path]) -> Any:
    from aioquic.asyncio import QuicConnectionProtocol, serve
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived

    class Protocol(QuicConnectionProtocol):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.streams: dict[int, bytes] = {}
            self.heard = time.monotonic()
            self.number = 0
            self.dead = False

        def datagram_received(self, octets: Any, sender: Any) -> None:
            if self.number and site.kind == "half-open" and time.monotonic() - self.heard > DEAD_AFTER:
                self.dead = True
            if not self.dead:
                super().datagram_received(octets, sender)

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, HandshakeCompleted):
                site.connections += 1
                self.number = site.connections
            elif isinstance(event, ConnectionTerminated):
                site.ended.append(time.monotonic())
            elif isinstance(event, StreamDataReceived):
                octets = self.streams.pop(event.stream_id, b"") + event.data
                if not event.end_stream:
                    self.streams[event.stream_id] = octets
                    return
                self.heard = time.monotonic()
                self.say(event.stream_id, octets[2:])
                self.transmit()

        def close_soon(self, code: int = 0, delay: float = 0.0) -> None:
            def work() -> None:
                self._quic.close(error_code=code)
                self.transmit()

            asyncio.get_running_loop().call_later(delay, work)

        def say(self, stream_id: int, query: bytes) -> None:
            quic, kind = self._quic, site.kind
            codes = {"protocol error": 2, "excessive load": 4, "unspecified error": 5}
            if kind in codes:
                site.queries += 1
                quic.close(error_code=codes[kind])
                return
            if kind == "reset stream":
                site.queries += 1
                quic.reset_stream(stream_id, 1)
                return
            if kind == "stop sending":
                site.queries += 1
                quic.stop_stream(stream_id, 1)
                return
            if kind == "empty":
                site.queries += 1
                quic.send_stream_data(stream_id, b"", end_stream=True)
                return
            if kind == "oversized":
                site.queries += 1
                quic.send_stream_data(stream_id, b"\xff\xff" + bytes(70_000), end_stream=True)
                return
            messages = site.messages(query)
            if not messages:
                return
            delay, message = messages[-1]
            framed = frame(message)
            if kind == "cut" or (kind == "cut once" and self.number == 1):
                quic.send_stream_data(stream_id, framed[: len(framed) // 2], end_stream=False)
                self.close_soon(delay=0.01)
            elif kind == "dribble":
                asyncio.get_running_loop().create_task(self.dribble(stream_id, framed))
            elif delay:
                asyncio.get_running_loop().call_later(delay, self.later, stream_id, framed)
            else:
                quic.send_stream_data(stream_id, framed, end_stream=kind != "no FIN")
                if kind == "one each":
                    self.close_soon(delay=0.005)

        def later(self, stream_id: int, framed: bytes) -> None:
            self._quic.send_stream_data(stream_id, framed, end_stream=True)
            self.transmit()

        async def dribble(self, stream_id: int, framed: bytes) -> None:
            for at in range(len(framed)):
                await asyncio.sleep(STEP)
                self._quic.send_stream_data(stream_id, framed[at : at + 1], end_stream=at + 1 == len(framed))
                self.transmit()

    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["h3" if site.kind == "no ALPN" else "doq"],
        idle_timeout=DEAD_AFTER if site.kind == "idle close" else 60.0,
    )  # fmt: skip
    configuration.load_cert_chain(*certificate)
    return await serve("127.0.0.1", site.port, configuration=configuration, create_protocol=Protocol)


