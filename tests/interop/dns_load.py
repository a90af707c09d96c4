"""A client that asks at a steady rate and writes down what became of each query."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

HEADER = struct.Struct("!HHHHHH")


@dataclass
class Asked:
    """One query. Times are `time.monotonic()`; `answered` is 0 while there is no answer."""

    name: str
    sent: float
    answered: float = 0.0
    code: int = -1

    @property
    def took(self) -> float:
        """Seconds; the time until now when nothing came."""
        return (self.answered or time.monotonic()) - self.sent


def query(name: str, ident: int) -> bytes:
    """A query for an A record."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return HEADER.pack(ident, 0x0100, 1, 0, 0, 0) + wire + b"\0\1\0\1"


class Load:
    """Asks for names of its own below `suffix`, `rate` a second, from the start until `stop`."""

    def __init__(self, port: int, suffix: str, *, rate: float = 200.0, namespace: str = "") -> None:
        """`namespace`: the name of a network namespace to ask in."""
        self._namespace = namespace
        self.asked: list[Asked] = []
        self._address = ("127.0.0.1", port)
        self._suffix = suffix
        self._gap = 1 / rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, patience: float = 6.0) -> list[Asked]:
        """End asking; wait for what is open, `patience` seconds at most."""
        self._stopping.set()
        self._patience = patience
        self._thread.join(patience + 10)
        return self.asked

    def _run(self) -> None:
        waiting: dict[int, Asked] = {}
        if self._namespace:
            enter(self._namespace)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            client.connect(self._address)
            client.setblocking(False)
            at = time.monotonic()
            end: float | None = None
            while end is None or (waiting and time.monotonic() < end):
                now = time.monotonic()
                if self._stopping.is_set() and end is None:
                    end = now + self._patience
                while end is None and at <= now:
                    ident = len(self.asked) & 0xFFFF
                    one = Asked(f"q{len(self.asked)}.{self._suffix}", now)
                    self.asked.append(one)
                    waiting[ident] = one
                    with contextlib.suppress(OSError):
                        client.send(query(one.name, ident))
                    at += self._gap
                select.select([client], [], [], max(0.0, min(at - now, 0.01)) if end is None else 0.05)
                with contextlib.suppress(OSError):
                    while True:
                        answer = client.recv(4096)
                        found = waiting.pop(answer[0] << 8 | answer[1], None)
                        if found is not None:
                            found.answered, found.code = time.monotonic(), answer[3] & 0xF


def enter(namespace: str) -> None:
    """Move the calling thread to a network namespace (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, 0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


def burst(port: int, names: list[str], patience: float) -> list[Asked]:
    """Ask for all at once; wait for the answers."""
    asked = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        client.connect(("127.0.0.1", port))
        for ident, name in enumerate(names):
            asked.append(Asked(name, time.monotonic()))
            client.send(query(name, ident))
            if ident % 50 == 49:
                time.sleep(0.002)
        open_, end = len(names), time.monotonic() + patience
        while open_ and (left := end - time.monotonic()) > 0:
            client.settimeout(left)
            with contextlib.suppress(OSError):
                answer = client.recv(4096)
                one = asked[answer[0] << 8 | answer[1]]
                if not one.answered:
                    one.answered, one.code = time.monotonic(), answer[3] & 0xF
                    open_ -= 1
    return asked
