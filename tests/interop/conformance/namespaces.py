"""Network namespaces made for one run, and always deleted again.

Responsible for: creating namespaces with unique names, running commands in them, opening a descriptor in one without
moving the process.
Refuses to know: what they are for.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


class Namespace:
    """One named network namespace with loopback up and the chatter of IPv6 autoconfiguration off."""

    def __init__(self, name: str) -> None:
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        done = subprocess.run(["ip", "-n", self.name, *words], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ip -n {self.name} {' '.join(words)}: {done.stderr.strip()}")

    def sysctl(self, **values: str | int) -> None:
        """Set what exists (names with ``__`` for dots); a kernel without one of them is no error."""
        words = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
        subprocess.run(["ip", "netns", "exec", self.name, "sysctl", "-qw", *words], capture_output=True)

    def has_link(self, name: str) -> bool:
        return subprocess.run(["ip", "-n", self.name, "link", "show", name], capture_output=True).returncode == 0

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs `words` in here; it becomes that program, so the process id is the program's."""
        return ["ip", "netns", "exec", self.name, *words]

    def inside(self, action: Callable[[], T]) -> T:
        """Run `action` on a thread of its own that has entered the namespace (setns is per thread)."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self.name}") as file:
                    if _libc.setns(file.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(action())
            except BaseException as problem:
                errors.append(problem)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def open_tun(name: str) -> int:
    """A TUN descriptor without packet information and without offloads, in the current namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


def open_packet_socket(name: str) -> socket.socket:
    """An AF_PACKET socket on a device in the current namespace: sends out by the device, reads what came in by it."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: the judge must not lose packets
    sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
    sock.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
    sock.bind((name, 0x0003))
    return sock


def unavailable() -> str | None:
    """Why this machine cannot run the bench, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    if subprocess.run(["sh", "-c", "command -v ip"], capture_output=True).returncode:
        return "needs iproute2"
    name = f"nsprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"cannot make a network namespace: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return None
