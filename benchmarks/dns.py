"""``python -m benchmarks.dns``: the resolver beside dnsmasq and unbound, in one run.

Responsible for: servers on loopback, load from dnsperf, latency, memory, a table and JSON.
Refuses to know: the rest of `make bench`.

All are forwarders before the same upstream, an unbound with local data, and are measured in turn, round by round; the
figures are medians. Nothing leaves the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("dnsperf", "dnsmasq", "unbound", "openssl")
HOST = "127.0.0.1"
NAME = "upstream.bench.test"
CACHED_NAMES = 1000
LIVES = 0.2  # seconds between looks for a server


def free_port() -> int:
    """A port that is free for UDP and TCP, and none that the system gives to clients: they come and go meanwhile."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind((HOST, port))
                udp.bind((HOST, port))
            except OSError:
                continue
        return port


class Place:
    """A directory, certificates, and the processes that run in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plain, self.tls, self.https = free_port(), free_port(), free_port()
        self.ca, self.key, self.certificate = (directory / name for name in ("ca.pem", "key.pem", "cert.pem"))

    def file(self, name: str, text: str) -> str:
        """Write a file; its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def make_certificates(self) -> None:
        """An authority and a certificate for NAME."""
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        ca_key, request = self.directory / "ca.key", self.directory / "request.pem"
        extension = self.file("extension", f"subjectAltName=DNS:{NAME}\n")
        quiet(*new, "-x509", "-days", "2", "-subj", "/CN=bench", "-keyout", ca_key, "-out", self.ca)
        quiet(*new, "-subj", f"/CN={NAME}", "-keyout", self.key, "-out", request)
        quiet("openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-days",
              "2", "-extfile", extension, "-out", self.certificate)  # fmt: skip

    def unbound(self, name: str, port: int, server: str, rest: str = "") -> list[str]:
        """The command of an unbound with further settings."""
        text = f"""
server:
  interface: {HOST}@{port}
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{self.directory}"
  num-threads: 1
  do-ip6: no
  module-config: "iterator"
{server}
remote-control:
  control-enable: no
{rest}
"""
        return ["unbound", "-d", "-c", self.file(f"{name}.conf", text)]

    def upstream(self) -> list[str]:
        """Answers everything below bench., over UDP, TCP, DoT and DoH."""
        return self.unbound(
            "upstream",
            self.plain,
            f"""  interface: {HOST}@{self.tls}
  interface: {HOST}@{self.https}
  tls-port: {self.tls}
  https-port: {self.https}
  tls-service-key: "{self.key}"
  tls-service-pem: "{self.certificate}"
  incoming-num-tcp: 100
  http-max-streams: 1000
  local-zone: "bench." redirect
  local-data: "bench. 300 IN A 192.0.2.1"
""",
        )

    def netstack(self, port: int, *options: str) -> list[str]:
        """`netstack dns` before the upstream."""
        return [sys.executable, "-m", "netstack", "dns", "--listen", f"{HOST}:{port}", *options]

    def dnsmasq(self, port: int) -> list[str]:
        """dnsmasq before the upstream."""
        return ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=",
                f"--user={os.environ.get('USER', 'root')}", f"--port={port}", f"--listen-address={HOST}",
                "--bind-interfaces", f"--server={HOST}#{self.plain}", "--cache-size=2000",
                "--dns-forward-max=1000"]  # fmt: skip

    def unbound_forwarder(self, port: int, *, tls: bool = False) -> list[str]:
        """unbound before the upstream."""
        server = f'  tls-cert-bundle: "{self.ca}"\n  outgoing-range: 4096\n  num-queries-per-thread: 2048\n'
        address = f"{HOST}@{self.tls}#{NAME}" if tls else f"{HOST}@{self.plain}"
        forward = f'forward-zone:\n  name: "."\n  forward-addr: {address}\n  forward-tls-upstream: {yes(tls)}\n'
        return self.unbound(f"forwarder-{port}", port, server, forward)


def yes(value: bool) -> str:
    """As unbound writes it."""
    return "yes" if value else "no"


def quiet(*command: Any) -> None:
    """Run something that must work."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """The process of `command`, once it answers on `port`; it is ended afterwards."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        end = time.monotonic() + 10
        while exchange(port, "ready.bench", 0.2) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} does not answer on port {port}")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def query(name: str, ident: int) -> bytes:
    """A query for an A record."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + wire + b"\0\x01\0\x01"


def exchange(port: int, name: str, patience: float) -> bytes | None:
    """One query over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(patience)
        client.connect((HOST, port))
        try:
            client.send(query(name, 1))
            return client.recv(4096)
        except OSError:
            time.sleep(LIVES / 10)
            return None


def latency(port: int, count: int, tag: str) -> float:
    """The median microseconds of one uncached query after the other."""
    taken = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((HOST, port))
        for number in range(count):
            message = query(f"{tag}{number}.bench", number & 0xFFFF)
            started = time.perf_counter()
            client.send(message)
            answer = client.recv(4096)
            taken.append(time.perf_counter() - started)
            if answer[3] & 0xF or not answer[7]:
                raise RuntimeError(f"port {port} answered {answer!r}")
    return statistics.median(taken) * 1e6


def dnsperf(host: str, port: int, seconds: float, names: str, *rest: str) -> list[str]:
    """The command of the load."""
    return ["dnsperf", "-s", host, "-p", str(port), "-d", names, "-c", "4", "-q", "100", "-l", str(seconds), *rest]


def rate(port: int, names: str, seconds: float, *, once: bool = False) -> float:
    """Queries a second by dnsperf; a lost query is an error."""
    return perf(dnsperf(HOST, port, seconds, names, *(["-n", "1"] if once else [])))


def perf(command: list[str]) -> float:
    """Queries a second that a command with dnsperf reports."""
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    lost = re.search(r"Queries lost:\s+(\d+)", shown)
    codes = re.search(r"Response codes:\s+(.*)", shown)
    found = re.search(r"Queries per second:\s+([\d.]+)", shown)
    if found is None or lost is None or int(lost[1]) or codes is None or "NOERROR" not in codes[1] or "," in codes[1]:
        raise RuntimeError(f"{' '.join(command[:4])} ...: {shown[-600:]}")
    return float(found[1])


def why_no_tunnel() -> str:
    """Why `netstack exec` cannot run here; empty when it can."""
    tried = subprocess.run(
        [sys.executable, "-m", "netstack", "exec", "--", "true"], capture_output=True, text=True, cwd=ROOT
    )
    return tried.stderr.strip().rpartition("\n")[2] if tried.returncode else ""


def memory(pid: int) -> float:
    """Resident MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class Run:
    """All rounds of all forwarders."""

    def __init__(self, place: Place, seconds: float, rounds: int) -> None:
        self.place = place
        self.seconds = seconds
        self.rounds = rounds
        self.found: dict[str, dict[str, list[float]]] = {}
        few = "".join(f"n{number}.bench A\n" for number in range(CACHED_NAMES))
        self.few = place.file("few", few)

    def fresh(self, tag: str) -> str:
        """Names that nobody has asked for yet, more than can be asked in the time."""
        most = int(80_000 * self.seconds)
        return self.place.file("fresh", "".join(f"{tag}x{number}.bench A\n" for number in range(most)))

    def keep(self, who: str, what: str, value: float) -> None:
        """One figure of one round."""
        self.found.setdefault(who, {}).setdefault(what, []).append(value)

    def plain(self) -> None:
        """The forwarders over plain UDP."""
        place = self.place
        ports = {name: free_port() for name in ("netstack", "dnsmasq", "unbound")}
        commands = {
            "netstack": place.netstack(ports["netstack"], "--upstream", f"udp://{HOST}:{place.plain}"),
            "dnsmasq": place.dnsmasq(ports["dnsmasq"]),
            "unbound": place.unbound_forwarder(ports["unbound"]),
        }
        for number in range(self.rounds):
            self.keep("upstream itself", "latency", latency(place.plain, 500, f"d{number}"))
            for name, command in commands.items():
                with running(command, ports[name]) as pid:
                    self.keep(name, "latency", latency(ports[name], 500, f"l{number}"))
                    rate(ports[name], self.few, 0.5)
                    self.keep(name, "cached", rate(ports[name], self.few, self.seconds))
                    self.keep(name, "uncached", rate(ports[name], self.fresh(f"u{number}"), self.seconds, once=True))
                    self.keep(name, "memory", memory(pid))

    def encrypted(self) -> None:
        """Upstreams by DoT, and DoH for us."""
        place = self.place
        trust = ["--ca-file", str(place.ca), "--upstream"]
        port = free_port()
        commands = {
            "netstack, DoT": place.netstack(port, *trust, f"tls://{HOST}:{place.tls}#{NAME}"),
            "unbound, DoT": place.unbound_forwarder(port, tls=True),
            "netstack, DoH": place.netstack(port, *trust, f"https://{HOST}:{place.https}/dns-query#{NAME}"),
        }
        for number in range(self.rounds):
            for name, command in commands.items():
                with running(command, port) as pid:
                    self.keep(name, "latency", latency(port, 500, f"l{number}"))
                    self.keep(name, "uncached", rate(port, self.fresh(f"e{number}"), self.seconds, once=True))
                    self.keep(name, "memory", memory(pid))

    def tunnel(self) -> None:
        """`netstack exec` with dnsperf behind it: every query a packet, every answer's addresses leased first."""
        for number in range(self.rounds):
            upstream = f"udp://{HOST}:{self.place.plain}"
            for what, options, load in (
                ("cached", ["--cache", "on"], [self.few]),
                ("uncached", ["--cache", "off"], [self.fresh(f"t{number}"), "-n", "1"]),
            ):
                command = [sys.executable, "-m", "netstack", "exec", "--upstream", upstream, *options, "--"]
                self.keep("netstack exec", what, perf([*command, *dnsperf("10.0.0.1", 53, self.seconds, *load)]))

    def medians(self) -> dict[str, dict[str, float]]:
        """Forwarder -> figure -> median of the rounds."""
        return {
            who: {what: statistics.median(all_) for what, all_ in found.items()} for who, found in self.found.items()
        }


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the targets are about."""
    ours, direct = found["netstack"], found["upstream itself"]["latency"]
    shown = {
        "cached / dnsmasq": ours["cached"] / found["dnsmasq"]["cached"],
        "cached / unbound": ours["cached"] / found["unbound"]["cached"],
        "uncached / dnsmasq": ours["uncached"] / found["dnsmasq"]["uncached"],
        "uncached / unbound": ours["uncached"] / found["unbound"]["uncached"],
        "added p50, ms": (ours["latency"] - direct) / 1000,
        "added p50 of dnsmasq, ms": (found["dnsmasq"]["latency"] - direct) / 1000,
    }
    if "netstack, DoT" in found:
        dot = found["netstack, DoT"]["uncached"]
        shown["DoT / unbound's DoT"] = dot / found["unbound, DoT"]["uncached"]
        shown["DoT / DoH"] = dot / found["netstack, DoH"]["uncached"]
    if "netstack exec" in found:
        for what in ("cached", "uncached"):
            shown[f"{what} through a packet device / on loopback"] = found["netstack exec"][what] / ours[what]
    return shown


def table(found: dict[str, dict[str, float]]) -> str:
    """One row for each forwarder."""
    columns = {"cached": "cached/s", "uncached": "uncached/s", "latency": "p50, us", "memory": "MiB"}
    rows = [["forwarder", *columns.values()]]
    for who, figures in found.items():
        cells = [f"{figures[what]:,.{1 if what == 'memory' else 0}f}" if what in figures else "-" for what in columns]
        rows.append([who, *cells])
    return report.table(rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dns", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="of all forwarders (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--plain-only", action="store_true", help="leave DoT, DoH and the packet device out")
    options = parser.parse_args()
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"needs {', '.join(missing)}", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        place = Place(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netstack-dns-"))))
        place.make_certificates()
        stack.enter_context(running(place.upstream(), place.plain))
        run = Run(place, options.seconds, options.rounds)
        run.plain()
        if not options.plain_only:
            run.encrypted()
            if not why_no_tunnel():
                run.tunnel()
    found = run.medians()
    print(table(found))
    print()
    print(report.table([["ratio", "value"], *([name, f"{value:.2f}"] for name, value in ratios(found).items())]))
    if options.json:
        Path(options.json).write_text(json.dumps({"figures": found, "ratios": ratios(found)}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
