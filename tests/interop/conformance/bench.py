"""The little world around one engine process (or around the Linux kernel in its place).

Responsible for: namespaces, links and routes; the server process and its control socket; starting, watching and
ending the engine; addresses that no two checks share.
Refuses to know: checks, packets.

    app side (raw)  --TUN--  engine namespace  --veth--  server namespace: 45.0.0.0/8 and 2a45::/32 are all local
there
    kernel mode:    the harness holds a TUN of the server namespace itself
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from . import upstream
from .namespaces import Namespace, open_packet_socket, open_tun
from .wire import Wire

DEFAULT_ENGINE = "{python} -m netstack run --tun {tun} --offload {offload} --enforcement {enforcement} --dns {dns}"
REPOSITORY = Path(__file__).resolve().parents[3]
RESOLVER = "45.255.0.53"
ASSIGNED6 = socket.inet_pton(socket.AF_INET6, "2a45:0:ffff::1")
"""An address that the server really has: Linux sends ICMPv6 errors from no other kind."""
_runs = itertools.count()
_QUIET: dict[str, str | int] = {
    "net__ipv6__conf__all__accept_dad": 0,
    "net__ipv6__conf__default__accept_dad": 0,
    "net__ipv6__conf__all__router_solicitations": 0,
    "net__ipv4__conf__all__rp_filter": 0,
    "net__ipv4__conf__default__rp_filter": 0,
    "net__ipv4__ping_group_range": "0 2147483647",
    "net__ipv4__icmp_ratelimit": 0,
    "net__ipv6__icmp__ratelimit": 0,
    "net__ipv4__icmp_msgs_per_sec": 1000000,
    "net__ipv4__icmp_msgs_burst": 1000000,
}


class Bench:
    """One engine under test. A context manager: what it made is gone afterwards, also after a failure."""

    def __init__(
        self,
        *,
        engine: str = DEFAULT_ENGINE,
        kernel: bool = False,
        enforcement: str = "off",
        offload: str = "off",
        real_app: bool = False,
    ) -> None:
        self.kernel, self.enforcement, self.offload, self.real_app = kernel, enforcement, offload, real_app
        self._template = engine
        self._prefix = f"ncf{os.getpid()}x{next(_runs)}"
        self.tun = f"t{os.getpid() % 1000000}x{next(_runs)}"[:15]
        self._made: list[Namespace] = []
        self._directory = tempfile.TemporaryDirectory(prefix="conformance-")
        self._control_path = os.path.join(self._directory.name, "control")
        self._local = threading.local()
        self._clients, self._servers = itertools.count(2), itertools.count(1)
        self._numbers = threading.Lock()
        self._server_process: subprocess.Popen[bytes] | None = None
        self.engine_process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.wire: Wire
        self.app: Namespace
        self.deaths: list[str] = []
        self._revive = threading.Lock()

    def __enter__(self) -> Bench:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _namespace(self, role: str) -> Namespace:
        made = Namespace(f"{self._prefix}-{role}")
        self._made.append(made)
        made.sysctl(**_QUIET)
        return made

    def _build(self) -> None:
        self.server = self._namespace("srv")
        self.server.sysctl(
            net__ipv6__ip_nonlocal_bind=1, net__ipv4__tcp_congestion_control="reno", net__ipv4__tcp_no_metrics_save=1
        )
        self.server.ip("route", "add", "local", "45.0.0.0/8", "dev", "lo")
        self.server.ip("-6", "route", "add", "local", "2a45::/32", "dev", "lo")
        self.server.ip("-6", "addr", "add", "2a45:0:ffff::1/128", "dev", "lo", "nodad")
        rules = (
            f"add table inet judge\nadd chain inet judge hole {{ type filter hook input priority 0; }}\n"
            f"add rule inet judge hole tcp dport {upstream.BLACKHOLE} drop\n"
            f"add rule inet judge hole udp dport {upstream.BLACKHOLE} drop\n"
        )
        subprocess.run(self.server.command(["nft", "-f", "-"]), input=rules.encode(), check=True, capture_output=True)
        self._start_servers()
        if self.kernel:
            descriptor = self.server.inside(lambda: open_tun(self.tun))
            self.server.sysctl(**{f"net__ipv6__conf__{self.tun}__addr_gen_mode": 1})
            self.server.ip("link", "set", self.tun, "txqueuelen", "20000", "mtu", "1500", "up")
            self.server.ip("addr", "add", "10.92.255.254/16", "dev", self.tun)
            self.server.ip("-6", "addr", "add", "fd92::ffff/64", "dev", self.tun, "nodad")
            self.wire = Wire(descriptor)
            return
        self.app, self.engine = self._namespace("app"), self._namespace("eng")
        if not self.real_app:
            self.app.sysctl(net__ipv6__conf__all__disable_ipv6=1, net__ipv6__conf__default__disable_ipv6=1)
        self.engine.ip("link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", self.server.name)
        for side, link, end, other in ((self.engine, "up0", 2, 1), (self.server, "down0", 1, 2)):
            side.ip("addr", "add", f"100.64.0.{end}/24", "dev", link)
            side.ip("-6", "addr", "add", f"fd64::{end}/64", "dev", link, "nodad")
            side.ip("link", "set", link, "up")
            if side is self.engine:
                side.ip("route", "add", "default", "via", f"100.64.0.{other}")
                side.ip("-6", "route", "add", "default", "via", f"fd64::{other}")
        self.start_engine()

    def start_engine(self) -> None:
        """Start the engine, wait for its device, take the device to the app's side."""
        words = self._template.format(
            python=sys.executable, tun=self.tun, dns=RESOLVER, enforcement=self.enforcement, offload=self.offload
        )
        self._log = open(os.path.join(self._directory.name, "engine.log"), "ab")  # noqa: SIM115
        self.engine_process = subprocess.Popen(
            self.engine.command(shlex.split(words)),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=REPOSITORY,
        )
        deadline = time.monotonic() + 15
        while not self.engine.has_link(self.tun):
            if self.engine_process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the engine made no device {self.tun}: {self.engine_log()}")
            time.sleep(0.05)
        time.sleep(0.4)  # let it finish what it does with the device before that goes away
        self.engine.ip("link", "set", self.tun, "netns", self.app.name)
        if self.real_app:
            self.app.ip("addr", "add", "10.92.0.2/16", "dev", self.tun)
            self.app.ip("link", "set", self.tun, "mtu", "1500", "up")
            self.app.ip("-6", "addr", "add", "fd92::2/64", "dev", self.tun, "nodad")
            self.app.ip("route", "add", "default", "dev", self.tun)
            self.app.ip("-6", "route", "add", "default", "dev", self.tun)
            return
        self.app.ip("link", "set", self.tun, "arp", "off", "mtu", "1500", "txqueuelen", "1000", "up")
        self.wire = Wire(self.app.inside(lambda: open_packet_socket(self.tun)))
        time.sleep(0.3)

    def engine_log(self) -> str:
        if self._log is None:
            return ""
        return Path(self._log.name).read_text(errors="replace")[-1500:].strip()

    def alive(self) -> bool:
        return self.engine_process is None or self.engine_process.poll() is None

    def ensure_alive(self) -> str | None:
        """Start a dead engine again, so that the other rows are still judged. Returns how it had died."""
        with self._revive:
            if self.alive():
                return None
            assert self.engine_process is not None
            death = f"the engine ended with {self.engine_process.returncode}: {self.engine_log()[-400:]}"
            self.deaths.append(death)
            with contextlib.suppress(Exception):
                self.wire.close()
            self.tun = f"r{os.getpid() % 1000000}x{next(_runs)}"[:15]
            self.start_engine()
            return death

    def resident(self) -> int:
        """The engine's RSS in octets (0 for the kernel)."""
        if self.engine_process is None:
            return 0
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.engine_process.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return 0

    def cpu_seconds(self) -> float:
        if self.engine_process is None:
            return 0.0
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.engine_process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def client(self, v6: bool = False) -> bytes:
        with self._numbers:
            number = next(self._clients)
        return (
            socket.inet_pton(socket.AF_INET6, f"fd92::{number:x}")
            if v6
            else bytes((10, 92, number >> 8 & 255, number & 255))
        )

    def destination(self, v6: bool = False) -> bytes:
        with self._numbers:
            number = next(self._servers)
        # Steps of 32, so that 25 consecutive addresses belong to one check.
        if v6:
            return socket.inet_pton(socket.AF_INET6, f"2a45::{number:x}:20")
        return bytes((45, 1 + (number * 32 >> 16 & 127), number * 32 >> 8 & 255, number * 32 & 255))

    def control(self, **order: Any) -> Any:
        """One order to the server process, one answer."""
        if isinstance(order.get("address"), bytes):
            raw = order["address"]
            order["address"] = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
        file = getattr(self._local, "file", None)
        if file is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._control_path)
            file = self._local.file = sock.makefile("rwb")
            sock.close()
        file.write(json.dumps(order).encode() + b"\n")
        file.flush()
        return json.loads(file.readline())

    def _start_servers(self) -> None:
        package = Path(__file__).resolve().parent
        words = self.server.command([sys.executable, "-m", f"{package.name}.upstream", self._control_path])
        self._server_process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=package.parent
        )
        assert self._server_process.stdout is not None
        if self._server_process.stdout.readline() != b"ready\n":
            raise RuntimeError("the server process did not start")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.wire.close()
        for process in (self.engine_process, self._server_process):
            if process is None:
                continue
            if process.stdin is not None:
                process.stdin.close()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(4)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for made in reversed(self._made):
            made.delete()
        self._made.clear()
        if self._log is not None:
            self._log.close()
        self._directory.cleanup()
