"""TUN devices and namespaces of Linux.

Responsible for: creating or attaching a TUN device with the kernel's offloads where it grants them; bringing it up;
entering and leaving namespaces.
Refuses to know: who serves the device. Linux Documentation/networking/tuntap.rst; namespaces(7).

With IFF_VNET_HDR every packet carries a virtio-net header, and the kernel hands over (and takes) TCP super-segments
of up to 64 KiB whole. That is the single largest saving there is for a user-space stack.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from netstack.core.errors import NetstackError, PermissionProblem, UsageError
from netstack.core.record import recordclass
from netstack.link.netlink import Netlink

if TYPE_CHECKING:
    from pathlib import Path

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNSETVNETHDRSZ = 0x400454D8

_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFREQ = struct.Struct("16sH22x")

_CSUM, _TSO4, _TSO6 = 0x01, 0x02, 0x04
_TCP_OFFLOADS = _CSUM | _TSO4 | _TSO6
_UDP_OFFLOADS = 0x20 | 0x40  # USO for both versions; Linux 6.2 and later

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


@recordclass(frozen=True)
class TunDevice:
    """An attached TUN. `offload`: it has virtio-net headers, and the kernel's TCP offloads are on."""

    fd: int
    name: str
    offload: bool


def open_tun(name: str = "", *, offload: bool = True) -> TunDevice:
    """Create a TUN device, or attach to the existing one of that name; ``""`` lets the kernel choose.

    With `offload`, the kernel's TCP offloads are asked for and a plain device is the answer where they are refused.
    Raises PermissionProblem, UsageError (no such name is possible) or NetstackError (device busy, no TUN here).
    """
    if len(os.fsencode(name)) > 15 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise UsageError(f"{name!r} cannot be an interface name (at most 15 characters, no slash, colon or space)")
    if offload:
        device = _open_with_offloads(name)
        if device is not None:
            return device
    fd = _attach(name, 0)
    return TunDevice(fd, tun_name(fd), False)


def describe_tun(fd: int) -> TunDevice:
    """What an open descriptor of unknown origin is; where nothing may be asked (Android), a plain TUN with no name."""
    try:
        name, flags = _ask_tun(fd)
    except OSError:
        return TunDevice(fd, "", False)
    return TunDevice(fd, name, bool(flags & _IFF_VNET_HDR))


def tun_name(fd: int) -> str:
    """The interface's name. Raises OSError."""
    return _ask_tun(fd)[0]


def _ask_tun(fd: int) -> tuple[str, int]:
    name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    return os.fsdecode(name.split(b"\0", 1)[0]), flags


def _open_with_offloads(name: str) -> TunDevice | None:
    try:
        fd = _attach(name, _IFF_VNET_HDR)
    except NetstackError as problem:
        if isinstance(problem.__cause__, OSError) and problem.__cause__.errno == errno.EINVAL:
            return None  # no virtio-net headers on this kernel, or on this device: the plain attempt will say which
        raise
    try:
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", 10))
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _TCP_OFFLOADS | _UDP_OFFLOADS)
        except OSError:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _TCP_OFFLOADS)
    except OSError:
        os.close(fd)
        return None
    return TunDevice(fd, tun_name(fd), True)


def _attach(name: str, flags: int) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as problem:
        raise PermissionProblem("/dev/net/tun: permission denied; run as root or give access to it") from problem
    except OSError as problem:
        raise NetstackError(f"/dev/net/tun: {problem.strerror}; is the tun module there?") from problem
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(os.fsencode(name), _IFF_TUN | _IFF_NO_PI | flags))
    except OSError as problem:
        os.close(fd)
        raise _attach_problem(name or "tun", problem) from problem
    return fd


def _attach_problem(name: str, problem: OSError) -> NetstackError:
    if problem.errno in (errno.EPERM, errno.EACCES):
        return PermissionProblem(f"{name}: not permitted to make a TUN device; needs CAP_NET_ADMIN (run as root)")
    if problem.errno == errno.EBUSY:
        return PermissionProblem(f"{name}: the device is busy: another process serves it")
    if problem.errno == errno.EINVAL:
        return NetstackError(f"{name}: exists and is not a TUN device, or is of another kind")
    return NetstackError(f"{name}: cannot attach: {problem.strerror}")


def bring_up(name: str, *, mtu: int | None = None, queue: int | None = None) -> None:
    """Bring an interface of this namespace up. Raises OSError."""
    with Netlink() as netlink:
        netlink.set_up(name, mtu=mtu, queue=queue)


def configure(name: str, addresses: list[str], gateways: list[str], *, mtu: int, queue: int) -> None:
    """Up, with ``ADDRESS/PREFIX`` each, and a default route by way of each gateway. Raises OSError."""
    quiet_ipv6(name)
    with Netlink() as netlink:
        netlink.set_up(name, mtu=mtu, queue=queue)
        for address in addresses:
            netlink.add_address(name, address)
        for gateway in gateways:
            netlink.add_route(name, "::/0" if ":" in gateway else "0.0.0.0/0", gateway)


def quiet_ipv6(name: str) -> None:
    """No link-local address, hence no router solicitations, on a device that has no link. Best effort."""
    path = f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
        file.write("1")


# --- namespaces; the os module has these calls only from Python 3.12 on, and `run` needs no ctypes ---


def _call(function: str, *arguments: int | bytes | None) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _call("unshare", flags)


def enter_namespace(path: str | Path, kind: int = CLONE_NEWNET) -> None:
    """setns(2) into the namespace at `path` (``/run/netns/NAME``, ``/proc/PID/ns/net``). Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", fd, kind)
    finally:
        os.close(fd)


_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
_MS_NOSUID, _MS_NODEV = 0x2, 0x4


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [os.fsencode(source), os.fsencode(target), os.fsencode(kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{target}: {os.strerror(code)}")


def make_mounts_private() -> None:
    """From here on, mounts of this namespace are not seen in any other. Raises OSError."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def mount_tmpfs(target: str) -> None:
    """An empty file system in memory over a directory. Raises OSError."""
    _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")


def bind_mount(source: str, target: str) -> None:
    """One file over another. Raises OSError."""
    _mount(source, target, "", _MS_BIND)


def detach(target: str) -> None:
    """Take the topmost mount of a directory away, now; what is still used of it lives on. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(target), _MNT_DETACH) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{target}: {os.strerror(code)}")


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG: be killed when the thread that forked this process ends. Raises OSError."""
    _call("prctl", 1, 9, 0, 0, 0)
