"""Throughput, connections, latency and datagrams through real devices, side by side with other engines.

Responsible for: the peers, interleaved rounds in alternating order, the measurements.
Refuses to know: how the figures are shown. `topology` has the namespaces, `load.c` makes the load.

Everything is interleaved: for each test, for each round, every peer in turn, the order reversed in every other
round, so that what disturbs the machine for a while disturbs all of them. Latency is measured with client, engine
and far end on one processor: where the scheduler wakes whom is a lottery otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.footprint import private_dirty_mib
from benchmarks.topology import DEVICE, FAR, Slot, Topology

HERE = Path(__file__).resolve().parent
COMPILED = HERE.parent / "build" / "compiled"  # the engine's modules ahead of time, with the native codec
GATEWAY = "10.0.0.1"
WARM_UP = 0.3  # seconds; the same as in load.c
HELD = 500  # flows while memory is looked at
Figures = dict[str, float]
Before = Callable[[], None] | None  # run in the client's process before it becomes the client


@dataclass
class Peer:
    """Something that carries packets. `command` None: the kernel does. `enters`: it makes its device in the app's
    namespace itself. `tests` None for all."""

    name: str
    mtu: int = 1500
    command: list[str] | None = None
    enters: bool = False
    offload: bool = True
    tests: tuple[str, ...] | None = None
    ours: bool = False
    missing: str = ""
    slot: Slot | None = None
    process: subprocess.Popen[Any] | None = None
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    problem: str = ""


BULK = ("up1", "up8", "down1", "down8")


def _ours(
    name: str, codec: str, offload: str, mtu: int, tests: tuple[str, ...] | None = None, *, compiled: bool = False
) -> Peer:
    # -P: the package comes from where it is said to be, whatever folder this was started in
    where = COMPILED if compiled else HERE.parent
    command = [
        "env", f"PYTHONPATH={where}", sys.executable, "-P", "-m", "netstack", "run", "--tun", DEVICE, "--mtu", str(mtu),
        "--enforcement", "off",
        "--codec", codec, "--offload", offload, "--dns", FAR,
    ]  # fmt: skip
    peer = Peer(name, mtu, command, ours=True, tests=tests)
    if compiled and not list(where.glob("netstack/engine.*.so")):
        peer.missing = "not built: `make compiled`"
    elif codec == "native":
        try:
            from netstack.codec import load

            load("native")
        except Exception as problem:
            peer.missing = str(problem)
    return peer


def peers(quick: bool = False) -> list[Peer]:
    """All that are known; `missing` says why one cannot take part."""
    enter = ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw", "--netns"]
    everyone = [
        Peer("kernel", tests=None),
        Peer("kernel, no offloads", offload=False, tests=BULK),
        Peer("pasta@65520", 65520, [
            "pasta", "-f", "-q", "--runas", "0", "--mtu", "65520", "--config-net", "--ns-ifname", DEVICE, *enter, "APP",
        ], enters=True),
        Peer("slirp4netns@65520", 65520, [
            "slirp4netns", "--configure", "--mtu=65520", "--disable-dns", "--netns-type=path", "APP", DEVICE,
        ], enters=True),
        Peer("sing-box@1500", 1500, ["sing-box", "run", "-c", "SINGBOX"]),
        _ours("compiled@1500", "native", "auto", 1500, compiled=True),
        _ours("compiled, plain TUN@1500", "native", "off", 1500, BULK, compiled=True),
        _ours("native@1500", "native", "auto", 1500),
        _ours("pure@1500", "pure", "auto", 1500),
        _ours("native, plain TUN@1500", "native", "off", 1500, BULK),
        _ours("pure, plain TUN@1500", "pure", "off", 1500, BULK),
        _ours("native, plain TUN@9000", "native", "off", 9000, BULK),
        _ours("native, plain TUN@65520", "native", "off", 65520, BULK),
        _ours("native@65520", "native", "auto", 65520, BULK),
    ]  # fmt: skip
    if quick:
        chosen = ("kernel", "pasta@65520", "compiled@1500", "native@1500", "native, plain TUN@1500")
        everyone = [peer for peer in everyone if peer.name in chosen]
    for peer in everyone:
        program = "ethtool" if not peer.offload else peer.command[0] if peer.command else "ip"
        if not peer.missing and shutil.which(program) is None:
            peer.missing = f"{program} is not installed"
    return everyone


def why_not() -> str:
    """What keeps the live part from running on this machine; empty when nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    for program in ("ip", "sysctl", "cc"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


class Bench:
    """The running part: one far end, and the peers behind it."""

    def __init__(self, topology: Topology, work: str, seconds: float) -> None:
        self.topology = topology
        self.seconds = seconds
        self.work = work
        self.load = f"{work}/load"
        subprocess.run(["cc", "-O2", "-o", self.load, str(HERE / "load.c")], check=True)
        self.far = topology.start(
            topology.far, [self.load, "serve", FAR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.far.stdout is not None
        if self.far.stdout.readline() != "ready\n":
            raise RuntimeError("the far end did not start")

    # --- peers ---

    def start(self, peer: Peer) -> None:
        """Bring a peer up; `problem` says why it is not."""
        try:
            slot = peer.slot = self.topology.add()
            if peer.command is None:
                slot.forward(offload=peer.offload)
            else:
                log = open(f"{self.work}/{slot.number}.log", "wb")  # noqa: SIM115
                with log:
                    peer.process = self.topology.start(
                        slot.engine, self._command(peer), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                        cwd=HERE.parent,
                    )  # fmt: skip
                if not slot.wait_for_device(slot.app if peer.enters else slot.engine, peer.process):
                    raise RuntimeError(f"no packet device: {self._last_words(peer)}")
                if peer.enters:
                    time.sleep(0.3)  # it configures the device after making it
                else:
                    slot.hand_over(peer.mtu)
            answer = self.run(peer, "rtt", 1, 0.1)
            if "error" in answer:
                raise RuntimeError(f"carries nothing: {answer['error']} {self._last_words(peer)}")
        except RuntimeError as problem:
            peer.problem = str(problem)

    def _command(self, peer: Peer) -> list[str]:
        assert peer.command is not None and peer.slot is not None
        settings = f"{self.work}/sing-box.json"
        if "SINGBOX" in peer.command:
            inbound = {
                "type": "tun", "interface_name": DEVICE, "address": ["172.19.0.1/30"], "mtu": peer.mtu,
                "auto_route": False, "stack": "gvisor",
            }  # fmt: skip
            told = {"log": {"level": "error"}, "inbounds": [inbound], "outbounds": [{"type": "direct"}]}
            Path(settings).write_text(json.dumps(told))
        words = {"APP": f"/run/netns/{peer.slot.app}", "SINGBOX": settings}
        return [words.get(word, word) for word in peer.command]

    def _last_words(self, peer: Peer) -> str:
        if peer.slot is None or peer.process is None:
            return ""
        said = Path(f"{self.work}/{peer.slot.number}.log").read_text(errors="replace").strip().splitlines()
        return said[-1] if said else ""

    # --- measuring ---

    def run(
        self, peer: Peer, what: str, number: int, seconds: float, *, to: str = FAR, before: Before = None
    ) -> dict[str, Any]:
        """One run of the client."""
        with self.client(peer, what, number, seconds, to, before) as client:
            assert client.stdout is not None
            text = client.stdout.read()
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            return {"error": f"{what}: {text!r}"}
        return found

    @contextlib.contextmanager
    def client(
        self, peer: Peer, what: str, number: int, seconds: float, to: str = FAR, before: Before = None
    ) -> Any:
        """The client while it runs."""
        assert peer.slot is not None
        process = self.topology.start(
            peer.slot.app, [self.load, what, to, str(number), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=before,
        )  # fmt: skip
        try:
            yield process
        finally:
            self.topology.end(process)

    def taken(self) -> tuple[int, int]:
        """The far end's nanoseconds and how many octets it took so far."""
        assert self.far.stdin is not None and self.far.stdout is not None
        self.far.stdin.write("?\n")
        at, octets = self.far.stdout.readline().split()
        return int(at), int(octets)

    def bulk(self, peer: Peer, way: str, streams: int) -> Figures:
        """Gbit/s as the receiver counts, and the engine's processor seconds for each GiB."""
        before = processor_seconds(peer)
        if way == "down":
            found = self.run(peer, "down", streams, self.seconds)
            if "error" in found:
                raise RuntimeError(found["error"])
            rate = found["mbit"] / 1e3
        else:
            with self.client(peer, "up", streams, self.seconds) as client:
                time.sleep(WARM_UP)
                begin, first = self.taken()
                time.sleep(self.seconds)
                end, last = self.taken()
                client.wait(15)
            rate = (last - first) * 8 / (end - begin)
        after = processor_seconds(peer)
        user, system = after[0] - before[0], after[1] - before[1]
        moved = rate * 1e9 / 8 * (self.seconds + WARM_UP) / 2**30
        used = user + system
        return {
            "gbit": rate,
            "cpu_s_per_gib": used / moved if moved > 0.01 else 0.0,
            "kernel_share": system / used if used else 0.0,
        }

    def rate(self, peer: Peer, what: str, number: int) -> Figures:
        """Transactions or datagrams a second."""
        found = self.run(peer, what, number, self.seconds, to=GATEWAY if what == "dns" and peer.ours else FAR)
        if "error" in found:
            raise RuntimeError(found["error"])
        return {key: float(value) for key, value in found.items()}

    def latency(self, peer: Peer, what: str) -> Figures:
        """Microseconds there and back, everything on one processor."""
        one = {max(os.sched_getaffinity(0))}
        pinned = [self.far.pid] + ([peer.process.pid] if peer.process else [])
        everywhere = os.sched_getaffinity(0)
        for pid in pinned:
            set_affinity(pid, one)
        try:
            found = self.run(peer, what, 1, self.seconds, before=lambda: os.sched_setaffinity(0, one))
        finally:
            for pid in pinned:
                set_affinity(pid, everywhere)
        if "error" in found:
            raise RuntimeError(found["error"])
        return {key: float(value) for key, value in found.items()}

    def memory(self, peer: Peer) -> Figures:
        """Private dirty MiB of the engine's process, idle and with `HELD` flows that each moved an octet."""
        assert peer.process is not None
        idle = private_dirty_mib(peer.process.pid)
        with self.client(peer, "hold", HELD, 1) as client:
            assert client.stdout is not None
            found = json.loads(client.stdout.readline() or '{"error": "the client ended"}')
            if "error" in found:
                raise RuntimeError(found["error"])
            held = private_dirty_mib(peer.process.pid)
        return {"idle_mib": idle, "flows_mib": held}


def set_affinity(pid: int, processors: set[int]) -> None:
    """Of all threads of a process."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), processors)


def processor_seconds(peer: Peer) -> tuple[float, float]:
    """User and system time of a peer's process; nothing for the kernel, whose work is nobody's."""
    if peer.process is None:
        return 0.0, 0.0
    try:
        fields = Path(f"/proc/{peer.process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


TESTS: dict[str, Callable[[Bench, Peer], Figures]] = {
    "memory": lambda bench, peer: bench.memory(peer),
    "up1": lambda bench, peer: bench.bulk(peer, "up", 1),
    "up8": lambda bench, peer: bench.bulk(peer, "up", 8),
    "down1": lambda bench, peer: bench.bulk(peer, "down", 1),
    "down8": lambda bench, peer: bench.bulk(peer, "down", 8),
    "rtt": lambda bench, peer: bench.latency(peer, "rtt"),
    "urtt": lambda bench, peer: bench.latency(peer, "urtt"),
    "uecho64": lambda bench, peer: bench.rate(peer, "uecho", 64),
    "uecho1200": lambda bench, peer: bench.rate(peer, "uecho", 1200),
    "dns": lambda bench, peer: bench.rate(peer, "dns", 32),
    "crr": lambda bench, peer: bench.rate(peer, "crr", 32),  # last: it leaves thousands of ended flows behind
}


def _takes_part(peer: Peer, test: str) -> bool:
    if peer.problem or (peer.tests is not None and test not in peer.tests):
        return False
    return test != "memory" or peer.process is not None


def measure(*, rounds: int, seconds: float, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """``{"peers": {name: {test: {figure: median}}}, "skipped": {name: why}}``."""
    skipped: dict[str, str] = {}
    taking = peers(quick)
    for peer in taking:
        if peer.missing:
            skipped[peer.name] = peer.missing
    taking = [peer for peer in taking if not peer.missing]
    with tempfile.TemporaryDirectory(prefix="nsbench-") as work, Topology() as topology:
        bench = Bench(topology, work, seconds)
        for peer in taking:
            bench.start(peer)
            if peer.problem:
                skipped[peer.name] = peer.problem
        for test, run in TESTS.items():
            for turn in range(1 if test == "memory" else rounds):
                for peer in taking if turn % 2 == 0 else reversed(taking):
                    if not _takes_part(peer, test):
                        continue
                    try:
                        peer.figures.setdefault(test, []).append(run(bench, peer))
                    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as problem:
                        skipped[f"{peer.name}: {test}"] = str(problem)
            say(f"live: {test}")
    return {"peers": {peer.name: medians(peer.figures) for peer in taking if peer.figures}, "skipped": skipped}


def medians(figures: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Of each figure over the rounds."""
    return {
        test: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for test, runs in figures.items()
    }
