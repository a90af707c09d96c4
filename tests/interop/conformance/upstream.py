"""The servers that the engine dials, and what they saw: one process in the server namespace, driven over a Unix
socket.

Responsible for: TCP services (echo, sink, source, digest, stall, reset, early FIN, puppet), UDP services, the lying
resolver; a record of each connection and datagram under the server
address it came to. Any address answers, so each check (and each connection) uses an address of its own and finds its
own record.
Refuses to know: packets, checks, the engine.

Run as a program: ``python -m conformance.upstream CONTROL_SOCKET``; it prints ``ready`` when everything listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from . import resolver

ECHO, SINK, SOURCE, DIGEST, STALL, RESET_AT_ONCE, RESET_ON_DATA, EARLY_FIN, PUPPET = (
    7,
    9,
    19,
    1001,
    1002,
    1003,
    1004,
    1005,
    2000,
)
UDP_ECHO, UDP_MULTI, UDP_BIG = 7, 8, 10
BLACKHOLE, CLOSED = 6666, 1
BANNER = b"the server ends first\n"
KEPT = 1 << 20

_cache: dict[int, bytes] = {}


def pattern(count: int, seed: int = 1) -> bytes:
    """Octets that tell any loss, repetition or reordering."""
    if seed not in _cache or len(_cache[seed]) < count:
        _cache[seed] = random.Random(seed).randbytes(max(count, 65536))
    return _cache[seed][:count]


class Connection:
    """One accepted connection and its record."""

    def __init__(self, sock: socket.socket, port: int) -> None:
        self.sock, self.port, self.loop = sock, port, asyncio.get_running_loop()
        self.count, self.kept, self.digest = 0, bytearray(), hashlib.sha256()
        self.eof = self.reset = self.closed = False
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def read(self) -> bytes:
        await self.open_gate.wait()
        try:
            data = await self.loop.sock_recv(self.sock, 65536)
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            self.reset = True
            raise
        if not data:
            self.eof = True
        self.count += len(data)
        self.kept += data[: KEPT - len(self.kept)]
        self.digest.update(data)
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self.loop.sock_sendall(self.sock, data)
        except (ConnectionResetError, BrokenPipeError):
            self.reset = True
            raise

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self, *, abort: bool = False) -> None:
        if not self.closed:
            self.closed = True
            self.loop.remove_reader(self.sock)  # else asyncio keeps the number of a descriptor that is gone
            self.loop.remove_writer(self.sock)
            if abort:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    def state(self) -> dict[str, Any]:
        return {
            "port": self.port,
            "count": self.count,
            "head": self.kept[:4096].hex(),
            "digest": self.digest.hexdigest(),
            "eof": self.eof,
            "reset": self.reset,
            "closed": self.closed,
        }


async def echo(c: Connection) -> None:
    while data := await c.read():
        await c.write(data)


async def sink(c: Connection) -> None:
    while await c.read():
        pass


async def source(c: Connection) -> None:
    line = b""
    while not line.endswith(b"\n"):
        line += await c.read()
    await c.write(pattern(int(line)))
    c.end()
    await sink(c)


async def digest(c: Connection) -> None:
    await sink(c)
    await c.write(f"{c.count} {c.digest.hexdigest()}\n".encode())


async def early_fin(c: Connection) -> None:
    await c.write(BANNER)
    c.end()
    await sink(c)


async def reset_at_once(c: Connection) -> None:
    c.close(abort=True)


async def reset_on_data(c: Connection) -> None:
    await c.read()
    c.close(abort=True)


async def stall(c: Connection) -> None:
    c.open_gate.clear()
    await sink(c)
    await c.write(f"{c.count} {c.digest.hexdigest()}\n".encode())


async def puppet(c: Connection) -> None:
    """Only reads; the harness tells it what to do."""
    with contextlib.suppress(OSError):
        await sink(c)
    while not c.closed:
        await asyncio.sleep(3600)


SERVICES: dict[int, Callable[[Connection], Awaitable[None]]] = {
    ECHO: echo,
    SINK: sink,
    SOURCE: source,
    DIGEST: digest,
    STALL: stall,
    RESET_AT_ONCE: reset_at_once,
    RESET_ON_DATA: reset_on_data,
    EARLY_FIN: early_fin,
    PUPPET: puppet,
}


class Upstream:
    """All services and the record of what they saw, by server address."""

    def __init__(self) -> None:
        self.connections: dict[str, list[Connection]] = {}
        self.datagrams: dict[str, list[tuple[int, bytes]]] = {}
        self.questions: dict[str, int] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def start(self, control: str) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            for port, service in SERVICES.items():
                self.spawn(self.accept(_listener(family, port), port, service))
            self.spawn(self.accept(_listener(family, 53), 53, self.resolve_stream))
            for port in (UDP_ECHO, UDP_MULTI, UDP_BIG, 53, 80, 443):
                self.attach_datagrams(family, port)
        await asyncio.start_unix_server(self.serve_control, control)

    async def accept(
        self, listener: socket.socket, port: int, service: Callable[[Connection], Awaitable[None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            address = sock.getsockname()[0]
            connection = Connection(sock, port)
            self.connections.setdefault(address, []).append(connection)
            self.spawn(self.run(connection, service))

    async def run(self, connection: Connection, service: Callable[[Connection], Awaitable[None]]) -> None:
        with contextlib.suppress(OSError, ValueError):
            await service(connection)
        connection.close()

    async def resolve_stream(self, c: Connection) -> None:
        data = b""
        while part := await c.read():
            data += part
            while len(data) >= 2 and len(data) >= 2 + (size := int.from_bytes(data[:2], "big")):
                message, data = data[2 : 2 + size], data[2 + size :]
                for delay, answer in resolver.respond(message, over_tcp=True):
                    await asyncio.sleep(delay)
                    await c.write(struct.pack("!H", len(answer)) + answer)

    def attach_datagrams(self, family: int, port: int) -> None:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: the reply leaves from the address that was asked
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
        sock.bind(("" if family == socket.AF_INET else "::", port))
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, self.on_datagrams, sock, family, port)

    def on_datagrams(self, sock: socket.socket, family: int, port: int) -> None:
        for _ in range(64):
            try:
                data, ancillary, _, sender = sock.recvmsg(65535, 256)
            except OSError:
                return
            info = next(
                (item for level, _, item in ancillary if level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6)), b""
            )
            local = info[8:12] if family == socket.AF_INET else info[:16]
            self.datagrams.setdefault(socket.inet_ntop(family, local), []).append((port, data))
            if family == socket.AF_INET:
                reply_info = [(socket.IPPROTO_IP, 8, struct.pack("@I4s4s", 0, local, local))]
            else:
                reply_info = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + struct.pack("@I", 0))]
            self.answer(sock, port, data, reply_info, sender)

    def answer(self, sock: socket.socket, port: int, data: bytes, info: Any, sender: Any) -> None:
        loop = asyncio.get_running_loop()

        def send(reply: bytes) -> None:
            with contextlib.suppress(OSError):
                sock.sendmsg([reply], info, 0, sender)

        if port == UDP_ECHO:
            send(data)
        elif port == UDP_MULTI:
            for number in range(3):
                loop.call_later(0.02 * number, send, b"%d:" % number + data)
        elif port == UDP_BIG:
            send(pattern(int(data)))
        elif port == 53:
            self.count_question(data)
            for delay, reply in resolver.respond(data):
                loop.call_later(delay, send, reply) if delay else send(reply)

    def count_question(self, data: bytes) -> None:
        with contextlib.suppress(ValueError, IndexError):
            name, _ = resolver.read_name(data, 12)
            self.questions[name] = self.questions.get(name, 0) + 1

    async def serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                writer.write(json.dumps(self.control(json.loads(line))).encode() + b"\n")
                await writer.drain()

    def control(self, order: dict[str, Any]) -> Any:
        address = order.get("address", "")
        connections = self.connections.get(address, [])
        match order["do"]:
            case "state":
                return [c.state() for c in connections]
            case "datagrams":
                return [[port, data.hex()] for port, data in self.datagrams.get(address, [])]
            case "questions":
                return self.questions.get(order["name"], 0)
        if not connections:
            return False
        return self.drive(connections[-1], order)

    def drive(self, c: Connection, order: dict[str, Any]) -> bool:
        match order["do"]:
            case "send":
                self.spawn(
                    _quietly(c.write(bytes.fromhex(order["data"]) if "data" in order else pattern(order["count"])))
                )
            case "shutdown":
                c.end()
            case "close":
                c.close()
            case "reset":
                c.close(abort=True)
            case "pause":
                c.open_gate.clear()
            case "resume":
                c.open_gate.set()
            case _:
                return False
        return True


async def _quietly(work: Awaitable[None]) -> None:
    with contextlib.suppress(OSError):
        await work


def _listener(family: int, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if port == STALL:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("" if family == socket.AF_INET else "::", port))
    listener.listen(4096)
    listener.setblocking(False)
    return listener


async def main(control: str) -> None:
    upstream = Upstream()
    await upstream.start(control)
    print("ready", flush=True)
    # The harness holds our standard input: when it is gone, so are we.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
