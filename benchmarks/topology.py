"""Network namespaces for the live benchmarks: one far end, and an app and an engine namespace for each peer.

    app [client] --packet device-- engine process --veth(1500, offloads on)-- far end [10.99.0.1]

Responsible for: making them, running programs in them, always taking them away again; those that a killed run left
behind are taken away by the next.
Refuses to know: what runs in them. Nothing outside the namespaces is changed; every address is inside them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PREFIX = "nsbench"
FAR = "10.99.0.1"
DEVICE = "tun0"
QUEUE = 1000  # packets that a device queues towards the engine, for every peer alike

_SYSCTLS = (
    "net.ipv4.tcp_congestion_control=cubic",  # bbr paces a link that has no bottleneck but the processor
    "net.ipv4.ip_local_port_range=1024 65000",
    "net.ipv4.tcp_tw_reuse=1",
    "net.core.somaxconn=4096",
    "net.ipv4.tcp_max_syn_backlog=8192",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.ping_group_range=0 2147483647",
)


def ip(words: str, *, check: bool = True) -> None:
    """One call of ip(8)."""
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"ip {words}: {done.stderr.strip()}")


def leftovers(names: list[str], alive: Any = None) -> list[str]:
    """Those of the namespaces that belong to a run of this benchmark whose process is gone."""
    alive = alive if alive is not None else lambda pid: Path(f"/proc/{pid}").exists()
    found = []
    for name in names:
        head, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if head == PREFIX and pid.isdigit() and not alive(int(pid)):
            found.append(name)
    return found


class Topology:
    """A context: the far end's namespace, and a pair for each `add`."""

    def __init__(self) -> None:
        self._stem = f"{PREFIX}-{os.getpid()}"
        self.far = f"{self._stem}-far"
        self._names: list[str] = []
        self._processes: list[subprocess.Popen[Any]] = []
        self._slots = 0

    def __enter__(self) -> Topology:
        there = Path("/run/netns")
        for name in leftovers(os.listdir(there) if there.is_dir() else []):
            ip(f"netns del {name}", check=False)
        try:
            self._make(self.far)
            ip(f"-n {self.far} addr add {FAR}/32 dev lo")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for process in reversed(self._processes):
            self.end(process)
        for name in reversed(self._names):
            ip(f"netns del {name}", check=False)
        self._names.clear()

    def _make(self, name: str) -> None:
        self._names.append(name)
        ip(f"netns add {name}")
        for setting in _SYSCTLS:
            subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", setting], stderr=subprocess.DEVNULL)
        ip(f"-n {name} link set lo up")

    def add(self) -> Slot:
        """An app's and an engine's namespace; the engine's reaches the far end."""
        self._slots += 1
        slot = Slot(self, self._slots, f"{self._stem}-app{self._slots}", f"{self._stem}-eng{self._slots}")
        self._make(slot.app)
        self._make(slot.engine)
        n = slot.number
        ip(f"-n {slot.engine} link add up0 type veth peer name pn{n} netns {self.far}")
        ip(f"-n {slot.engine} addr add 10.91.{n}.2/24 dev up0")
        ip(f"-n {self.far} addr add 10.91.{n}.1/24 dev pn{n}")
        ip(f"-n {slot.engine} link set up0 up")
        ip(f"-n {self.far} link set pn{n} up")
        ip(f"-n {slot.engine} route add default via 10.91.{n}.1")
        return slot

    def start(self, namespace: str, command: list[str], **settings: Any) -> subprocess.Popen[Any]:
        """A program in a namespace; ended with the topology at the latest. Its process is the program's own."""
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], **settings)
        self._processes.append(process)
        return process

    def end(self, process: subprocess.Popen[Any]) -> None:
        """Ask it to end, then make it."""
        if process in self._processes:
            self._processes.remove(process)
        for file in (process.stdin, process.stdout):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


class Slot:
    """A pair of namespaces."""

    def __init__(self, topology: Topology, number: int, app: str, engine: str) -> None:
        self.topology = topology
        self.number = number
        self.app = app
        self.engine = engine

    def wait_for_device(self, namespace: str, process: subprocess.Popen[Any], seconds: float = 8.0) -> bool:
        """Until the packet device is there, or the process ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            if not subprocess.run(["ip", "-n", namespace, "link", "show", DEVICE], capture_output=True).returncode:
                return True
            time.sleep(0.03)
        return False

    def hand_over(self, mtu: int) -> None:
        """Move the engine's TUN device to the app: an attached descriptor stays attached."""
        ip(f"-n {self.engine} link set {DEVICE} netns {self.app}")
        ip(f"-n {self.app} addr flush dev {DEVICE}")
        ip(f"-n {self.app} addr add 10.92.{self.number}.2/24 dev {DEVICE}")
        ip(f"-n {self.app} link set {DEVICE} mtu {mtu} txqueuelen {QUEUE} up")
        ip(f"-n {self.app} route add default dev {DEVICE}")

    def forward(self, *, offload: bool) -> None:
        """No engine: a second veth pair, and the kernel forwards."""
        n = self.number
        ip(f"-n {self.app} link add {DEVICE} type veth peer name dn0 netns {self.engine}")
        ip(f"-n {self.app} addr add 10.92.{n}.2/24 dev {DEVICE}")
        ip(f"-n {self.engine} addr add 10.92.{n}.1/24 dev dn0")
        ip(f"-n {self.app} link set {DEVICE} up")
        ip(f"-n {self.engine} link set dn0 up")
        ip(f"-n {self.app} route add default via 10.92.{n}.1")
        ip(f"-n {self.topology.far} route add 10.92.{n}.0/24 via 10.91.{n}.2")
        subprocess.run(["ip", "netns", "exec", self.engine, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        if not offload:
            places = ((self.app, DEVICE), (self.engine, "dn0"), (self.engine, "up0"), (self.topology.far, f"pn{n}"))
            for namespace, device in places:
                words = f"ip netns exec {namespace} ethtool -K {device} tso off gso off gro off"
                subprocess.run(words.split(), check=True, capture_output=True)
