"""A real kernel as the app: the engine with its offloads on, ordinary sockets on the app's side.

Responsible for: bulk transfers both ways with digests, parallel streams, UDP and ping, through the engine as a
desktop would use it.
Refuses to know: packets.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .app import require
from .bench import DEFAULT_ENGINE, Bench
from .upstream import DIGEST, ECHO, SOURCE, UDP_ECHO, pattern

BULK = 50_000_000
STREAMS, EACH = 8, 8_000_000


def _open(bench: Bench, kind: int, v6: bool, port: int) -> socket.socket:
    """A connected socket in the app's namespace."""
    family = socket.AF_INET6 if v6 else socket.AF_INET
    sock = bench.app.inside(lambda: socket.socket(family, kind))
    sock.settimeout(30)
    sock.connect((socket.inet_ntop(family, bench.destination(v6)), port))
    return sock


def upload(bench: Bench, count: int, v6: bool = False) -> None:
    data = pattern(count)
    with _open(bench, socket.SOCK_STREAM, v6, DIGEST) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(4096):
            answer += part
    require(
        answer == f"{count} {hashlib.sha256(data).hexdigest()}\n".encode(),
        f"the server counted {answer[:40]!r} of {count} octets",
    )


def download(bench: Bench, count: int, v6: bool = False) -> None:
    digest, got = hashlib.sha256(), 0
    with _open(bench, socket.SOCK_STREAM, v6, SOURCE) as sock:
        sock.sendall(b"%d\n" % count)
        while part := sock.recv(1 << 18):
            digest.update(part)
            got += len(part)
    require(
        got == count and digest.digest() == hashlib.sha256(pattern(count)).digest(),
        f"{got} of {count} octets came, or not the right ones",
    )


def parallel(bench: Bench) -> None:
    pattern(EACH)
    with ThreadPoolExecutor(STREAMS) as pool:
        work = [
            pool.submit(download if number % 2 else upload, bench, EACH, number % 4 == 3) for number in range(STREAMS)
        ]
        for one in work:
            one.result()


def datagrams(bench: Bench) -> None:
    for v6 in (False, True):
        with _open(bench, socket.SOCK_DGRAM, v6, UDP_ECHO) as sock:
            for size in range(0, 1400, 50):
                sock.send(pattern(size))
                require(sock.recv(65535) == pattern(size), f"UDP echo of {size} octets")
            sock.send(pattern(5000))  # fragments in both directions
            require(sock.recv(65535) == pattern(5000), "UDP echo of 5,000 octets")


def ping(bench: Bench) -> None:
    for address in ("45.0.0.7", "2a45::7"):
        done = subprocess.run(
            bench.app.command(["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", address]),
            capture_output=True,
            text=True,
        )
        require(
            done.returncode == 0 and " 0% packet loss" in done.stdout, f"ping {address}: {done.stdout.strip()[-120:]}"
        )


def refused(bench: Bench) -> None:
    try:
        _open(bench, socket.SOCK_STREAM, False, 1).close()
    except ConnectionRefusedError:
        return
    require(False, "a closed port accepts connections")


def echo(bench: Bench) -> None:
    for number in range(200):
        with _open(bench, socket.SOCK_STREAM, bool(number % 2), ECHO) as sock:
            sock.sendall(b"hello")
            require(sock.recv(5) == b"hello", "echo on a short connection")


STEPS: dict[str, Callable[[Bench], None]] = {
    "ping": ping,
    "udp": datagrams,
    "refused": refused,
    "short_connections": echo,
    "bulk_up": lambda bench: upload(bench, BULK),
    "bulk_down": lambda bench: download(bench, BULK),
    "bulk_up_ipv6": lambda bench: upload(bench, BULK, True),
    "bulk_down_ipv6": lambda bench: download(bench, BULK, True),
    "eight_streams": parallel,
}


def main(engine: str = DEFAULT_ENGINE) -> int:
    failed = 0
    for offload in ("auto", "off"):
        with Bench(engine=engine, offload=offload, real_app=True) as bench:
            for name, step in STEPS.items():
                start, reason = time.monotonic(), ""
                try:
                    step(bench)
                except Exception as problem:
                    reason = f"{type(problem).__name__}: {problem}"
                    failed += 1
                print(
                    f"{'FAIL' if reason else 'PASS'}  offload {offload:4}  {name:20} "
                    f"{time.monotonic() - start:6.1f} s  {reason}",
                    flush=True,
                )
            print(f"engine RSS {bench.resident() / 1048576:.0f} MiB")
    return 1 if failed else 0
