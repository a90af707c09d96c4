"""A process in namespaces of its own, with a TUN device as its only network.

Responsible for: user, network and mount namespaces; the device and its addresses; resolv.conf; starting the program
and telling how it ended.
Refuses to know: who serves the device. namespaces(7), user_namespaces(7), resolv.conf(5).

Everything lives in the namespaces of the child process, so it vanishes with it; the child is killed when its parent
ends in any way. The one file that is needed, resolv.conf, is in a file system in memory that only the child's mount
namespace has.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from netstack.cli.serving import device_queue
from netstack.config import Config
from netstack.core.errors import NetstackError, PermissionProblem
from netstack.link import linux
from netstack.link.linux import TunDevice

INTERFACE = "tun0"
_RESOLV_CONF = "/etc/resolv.conf"
# glibc asks these daemons before it reads resolv.conf; they would answer from outside the sandbox.
_OTHER_RESOLVERS = ("/run/systemd/resolve", "/run/nscd", "/var/run/nscd")
_LEAST_MTU6 = 1280  # RFC 8200 section 5
_SCRATCH = "/tmp"  # only hidden for a moment, and only in the child's mount namespace

_NO_USER_NAMESPACES = (
    "unprivileged user namespaces are not allowed here; run as root, or allow them "
    "(sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0)"
)


class Sandbox:
    """One program. ``start``, ``take_device``, ``go`` (when the device is served), ``wait``, in this order."""

    def __init__(self, config: Config, *, offload: bool = True) -> None:
        self._config = config
        self._offload = offload
        self._pid = 0
        self._status: int | None = None
        self._channel: socket.socket | None = None
        self._end = -1

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The program is killed when it still runs."""
        if self._pid and self._status is None:
            self.signal(signal.SIGKILL)
            self._reap()
        if self._channel is not None:
            self._channel.close()
        if self._end >= 0:
            os.close(self._end)

    def start(self, command: Sequence[str]) -> None:
        """Fork; the child makes its namespaces and device, and waits for `go`. Raises OSError."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            _Child(self._config, self._offload, theirs).run(parent, command)
        theirs.close()
        self._end = os.pidfd_open(self._pid)

    def take_device(self) -> TunDevice:
        """The child's device. Raises PermissionProblem or NetstackError with what the child could not do."""
        assert self._channel is not None
        message, descriptors, _, _ = socket.recv_fds(self._channel, 65_536, 1)
        if not message:
            raise NetstackError("the sandbox ended before it was ready")
        told = json.loads(message)
        if "error" in told:
            raise (PermissionProblem if told["permission"] else NetstackError)(told["error"])
        if told.get("warning"):
            print(f"netstack: {told['warning']}", file=sys.stderr)
        return TunDevice(descriptors[0], told["name"], told["offload"])

    def go(self) -> None:
        """Let the program start."""
        assert self._channel is not None
        with contextlib.suppress(OSError):
            self._channel.send(b"go")

    @property
    def end_descriptor(self) -> int:
        """Polls readable once the program ended."""
        return self._end

    def signal(self, number: int) -> None:
        """Send the program a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def has_ended(self, timeout: float) -> bool:
        """Whether the program ended within so many seconds."""
        return bool(select.select([self._end], [], [], timeout)[0])

    def wait(self) -> int:
        """The program's exit status, 128 + signal; says so when it could not be started."""
        self._reap()
        assert self._channel is not None and self._status is not None
        failure = b""
        with contextlib.suppress(OSError):
            failure = self._channel.recv(65_536, socket.MSG_DONTWAIT)
        if failure:
            print(f"netstack: {failure.decode(errors='replace')}", file=sys.stderr)
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code

    def _reap(self) -> None:
        if self._status is None:
            self._status = os.waitpid(self._pid, 0)[1]


class _Child:
    """What happens in the child, up to the program itself. Leaves only by exec or _exit."""

    def __init__(self, config: Config, offload: bool, channel: socket.socket) -> None:
        self._config = config
        self._offload = offload
        self._channel = channel

    def run(self, parent: int, command: Sequence[str]) -> NoReturn:
        try:
            linux.die_with_parent()
            if os.getppid() != parent:  # it ended before we asked
                os._exit(1)
            device, warning = self._prepare()
            told: dict[str, Any] = {"name": device.name, "offload": device.offload, "warning": warning}
            socket.send_fds(self._channel, [json.dumps(told).encode()], [device.fd])
            os.close(device.fd)
        except BaseException as problem:
            self._report(problem)
            os._exit(1)
        try:
            if self._channel.recv(16) != b"go":
                os._exit(1)
            _execute(command)
        except OSError as problem:
            self._channel.send(f"{command[0]}: {os.strerror(problem.errno or 0)}".encode())
            os._exit(127 if problem.errno == errno.ENOENT else 126)
        except BaseException:
            os._exit(126)

    def _report(self, problem: BaseException) -> None:
        permission = isinstance(problem, (PermissionProblem, PermissionError))
        text = str(problem) if isinstance(problem, NetstackError) else f"cannot make the sandbox: {problem}"
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"error": text, "permission": permission}).encode())

    def _prepare(self) -> tuple[TunDevice, str]:
        _unshare()
        linux.make_mounts_private()
        tunnel = self._config.tunnel
        device = linux.open_tun(INTERFACE, offload=self._offload)
        linux.bring_up("lo")
        size = {"mtu": tunnel.mtu, "queue": device_queue(self._config)}
        linux.configure(device.name, [f"{tunnel.device_address}/24"], [tunnel.address], **size)
        if tunnel.address6 and tunnel.mtu >= _LEAST_MTU6:
            with contextlib.suppress(OSError):  # a host that has IPv6 switched off gives its sandboxes none
                linux.configure(device.name, [f"{_neighbour(tunnel.address6)}/64"], [tunnel.address6], **size)
        _allow_ping()
        return device, _replace_resolv_conf(_resolv_conf(tunnel.address))


def _neighbour(address6: str) -> str:
    """The device's own IPv6 address: the one after the gateway's."""
    packed = bytearray(socket.inet_pton(socket.AF_INET6, address6))
    packed[15] = packed[15] + 1 if packed[15] < 255 else 1
    return socket.inet_ntop(socket.AF_INET6, bytes(packed))


def _unshare() -> None:
    """New namespaces; with a user namespace where we may not have the others without."""
    others = linux.CLONE_NEWNET | linux.CLONE_NEWNS
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        try:
            linux.unshare(others)
            return
        except PermissionError:  # root of a container
            pass
    try:
        linux.unshare(linux.CLONE_NEWUSER | others)
    except OSError as problem:
        raise PermissionProblem(_NO_USER_NAMESPACES) from problem
    # Everyone stays who they are: the program sees its own files as its own.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    try:
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError as problem:
        raise PermissionProblem(_NO_USER_NAMESPACES) from problem


def _allow_ping() -> None:
    """Unprivileged ping in the sandbox, whatever its default. Best effort: a group map may not hold all groups."""
    for groups in ("0 2147483647", f"{os.getegid()} {os.getegid()}"):
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4/ping_group_range").write_text(groups)
            return


def _resolv_conf(server: str) -> str:
    """The host's resolv.conf(5) with the engine as the only server; search list and options stay."""
    kept = []
    with contextlib.suppress(OSError):
        for line in Path(_RESOLV_CONF).read_text(errors="replace").splitlines():
            if line.split()[:1] and line.split()[0] in ("search", "domain", "options"):
                kept.append(line + "\n")
    return "".join([f"nameserver {server}\n", *kept])


def _replace_resolv_conf(text: str) -> str:
    """Put `text` over resolv.conf in this mount namespace. Returns a warning when it could not be."""
    target = os.path.realpath(_RESOLV_CONF)
    hidden = _hide_other_resolvers()
    try:
        if os.path.dirname(target) in hidden:  # our own empty directory is there now, not the host's
            Path(target).write_text(text)
            return ""
        linux.mount_tmpfs(_SCRATCH)
        try:
            source = Path(_SCRATCH, "resolv.conf")
            source.write_text(text)
            linux.bind_mount(str(source), target)
        finally:
            linux.detach(_SCRATCH)
    except OSError as problem:
        return f"{_RESOLV_CONF} could not be replaced ({problem}): the program may not find its resolver"
    return ""


def _hide_other_resolvers() -> set[str]:
    hidden = set()
    for directory in {os.path.realpath(name) for name in _OTHER_RESOLVERS if os.path.isdir(name)}:
        with contextlib.suppress(OSError):
            linux.mount_tmpfs(directory)
            hidden.add(directory)
    return hidden


def _execute(command: Sequence[str]) -> NoReturn:
    """Become the program, with signals as a shell would leave them."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(command[0], list(command))
