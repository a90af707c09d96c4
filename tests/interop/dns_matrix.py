"""Every transport against every kind of failure, as a client of ``netstack dns`` sees it.

    python -m tests.interop.dns_matrix            the table
    python -m tests.interop.dns_matrix --write    into docs/dns.md

Each cell is a `netstack dns` of its own before a server that fails (`hostile_dns`): alone, and with a healthy unbound
as the second upstream. `dig` asks twice each time; cells run side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.dns_servers import Unbound, free_port
from tests.interop.hostile_dns import DEAD_AFTER, KINDS, TRANSPORTS, HostileServers, Site

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("dig", "unbound")
SIDE_BY_SIDE = 16
MARKS = ("<!-- matrix: python -m tests.interop.dns_matrix --write -->", "<!-- end of matrix -->")

CERTIFICATES = ("wrong name", "expired", "unknown authority")
PASSES = ("REFUSED",)  # an answer like any other
ANSWERED = (
    "well", "dribble", "2 s late", "cut once", "half-open", "idle close", "one each", "no FIN",
    "one stream", "Age", "GOAWAY, then answer",
)  # fmt: skip


@dataclass
class Probe:
    """What one dig saw."""

    code: str  # NOERROR, SERVFAIL ...; "nothing" when no answer came
    seconds: float
    address: str = ""
    ttl: int = 0

    def __str__(self) -> str:
        return f"{self.code} {self.seconds:.2f}"


@dataclass
class Cell:
    """One transport and kind: what is to be seen, and what was."""

    transport: str
    kind: str
    alone: list[Probe] = field(default_factory=list)
    beside: list[Probe] = field(default_factory=list)
    said: str = ""  # standard error
    status: int | None = None
    grown: int = 0  # KiB
    connections: int = 0
    queries: int = 0

    @property
    def name(self) -> str:
        """For tests."""
        return f"{self.transport}-{self.kind}"

    @property
    def code(self) -> str:
        """What a client of the failing server alone must be told."""
        kind, transport = self.kind, self.transport
        if kind in PASSES:
            return "REFUSED"
        if kind in ANSWERED or kind == "truncated" or (kind == "forged" and transport in ("udp", "tcp", "tls")):
            return "NOERROR"
        return "SERVFAIL"

    @property
    def limit(self) -> float:
        """Seconds within which it must be told."""
        if self.kind in ("black hole", "6 s late", "half-open", "2 s late"):
            return {"half-open": 3.0, "2 s late": 2.5}.get(self.kind, 5.0)
        if self.kind in ("dribble",):
            return 3.0
        silent = (
            (self.kind in ("garbage", "cut") and self.transport in ("udp",))
            or (self.kind == "garbage" and self.transport in ("tcp", "quic"))
            or (self.kind == "garbage inside" and self.transport in ("udp", "tcp", "tls"))
            or (self.kind == "zero length" and self.transport in ("tcp", "tls"))
            or self.kind == "stop sending"
        )
        return 5.0 if silent else 1.5

    def faults(self) -> list[str]:
        """What is wrong with what was seen."""
        found = []
        for number, probe in enumerate(self.alone, 1):
            if probe.code != self.code:
                found.append(f"alone, query {number}: {probe}, not {self.code}")
            if probe.seconds > self.limit:
                found.append(f"alone, query {number}: {probe}, later than {self.limit}")
        for number, probe in enumerate(self.beside, 1):
            if probe.code != ("REFUSED" if self.kind in PASSES else "NOERROR"):
                found.append(f"beside a healthy one, query {number}: {probe}")
            if probe.seconds > 1.6:
                found.append(f"beside a healthy one, query {number}: {probe} is late")
        if self.kind == "Age" and any(not 38 <= probe.ttl <= 40 for probe in self.alone):
            found.append(f"TTL {self.alone[0].ttl}, not 40")
        if self.kind in CERTIFICATES:
            if "certificate was refused" not in self.said:
                found.append("no event about the certificate")
            if self.queries:
                found.append("a query was sent to a server that nobody trusts")
        if "Traceback" in self.said or "internal error" in self.said:
            found.append(self.said)
        if self.status != 0:
            found.append(f"ended with {self.status}")
        if self.grown > 4096:
            found.append(f"grew by {self.grown} KiB")
        return found


def cells() -> list[Cell]:
    """All that make sense."""
    return [Cell(transport, kind) for kind, (where, _) in KINDS.items() for transport in where]


def dig(port: int, name: str, *words: str) -> Probe:
    """One query, one try."""
    started = time.monotonic()
    shown = subprocess.run(
        ["dig", "@127.0.0.1", "-p", str(port), "+time=7", "+tries=1", name, "A", *words],
        capture_output=True, text=True, timeout=30, check=False,
    ).stdout  # fmt: skip
    code = re.search(r"status: (\w+)", shown)
    took = re.search(r"Query time: (\d+) msec", shown)
    record = re.search(r"\s(\d+)\s+IN\s+A\s+([\d.]+)", shown)
    return Probe(
        code[1] if code else "nothing",
        int(took[1]) / 1000 if took else time.monotonic() - started,
        record[2] if record else "",
        int(record[1]) if record else 0,
    )


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A `netstack dns` that said ready, and its port."""
    for _ in range(20):
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "netstack", "dns", "--listen", f"127.0.0.1:{port}", *options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() == "ready\n":
            break
        said = process.communicate()[1]
        assert "Address already in use" in said, said
    try:
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def resident(pid: int) -> int:
    """KiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


class Matrix:
    """Servers that the cells share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hostile = HostileServers(folder)
        self.unbound = Unbound(folder, self.hostile.authority.issue("dns.test", "127.0.0.1"))
        self.unbound.start()

    def stop(self) -> None:
        """End them."""
        self.hostile.stop()
        self.unbound.stop()

    def run(self, chosen: list[Cell]) -> None:
        """All cells, side by side; the slow ones first."""
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for _ in pool.map(self.fill, sorted(chosen, key=lambda cell: -cell.limit)):
                pass

    def fill(self, cell: Cell) -> None:
        """Run one cell."""
        site = self.hostile.site(cell.transport, cell.kind)
        healthy = f"udp://127.0.0.1:{self.unbound.plain}"
        if cell.transport == "udp":  # each its own command line: these take another way through the resolver
            self._ask(cell, site, ["--upstream", site.url()], alone=True, beside=False)
            options = ["--upstream", site.url(), "--upstream", healthy]
            self._ask(cell, site, options, alone=False, beside=True)
        else:
            config = self.folder / f"{cell.name.replace(' ', '-').replace('/', '-')}.toml"
            config.write_text(
                f'[dns]\nupstreams = ["{site.url()}"]\nca_file = "{self.hostile.ca_file}"\n'
                f'[[split]]\nupstreams = ["{site.url()}", "{healthy}"]\nsuffixes = ["dns.test"]\n'
            )
            self._ask(cell, site, ["--config", str(config)], alone=True, beside=True)
        cell.connections, cell.queries = site.connections, site.queries

    def _ask(self, cell: Cell, site: Site, options: list[str], *, alone: bool, beside: bool) -> None:
        pause = 2 * DEAD_AFTER if cell.kind in ("half-open", "idle close") else 0.02
        with serving("--cache", "off", *options) as (process, port):
            if alone:
                cell.alone.append(dig(port, "one.example"))
                before = resident(process.pid)
                time.sleep(pause)
                cell.alone.append(dig(port, "two.example"))
            else:
                before = resident(process.pid)
            if beside:
                cell.beside.append(dig(port, "three.dns.test"))
                time.sleep(pause)
                cell.beside.append(dig(port, "four.dns.test"))
            if process.poll() is None:
                cell.grown = max(cell.grown, resident(process.pid) - before)
        cell.said += process.stderr.read() if process.stderr else ""
        cell.status = process.returncode or cell.status or 0


SHORT = {"NOERROR": "answer", "nothing": "nothing"}


def seen(cell: Cell) -> str:
    """One cell of the table: the code and the slower of two queries, alone and beside a healthy upstream."""
    codes = sorted({SHORT.get(probe.code, probe.code) for probe in cell.alone})
    alone = "/".join(codes) + f" {max(probe.seconds for probe in cell.alone):.2f}"
    event = " (E)" if "certificate was refused" in cell.said else ""
    beside = max(probe.seconds for probe in cell.beside)
    codes = sorted({SHORT.get(probe.code, probe.code) for probe in cell.beside} - {"answer"})
    wrong = " **wrong**" if cell.faults() else ""
    return f"{alone}{event}; {' '.join((*codes, f'{beside:.2f}'))}{wrong}"


def table(filled: list[Cell]) -> str:
    """Markdown: a line for each kind, a column for each transport."""
    lines = ["| server | " + " | ".join(TRANSPORTS) + " |", "|---" * (1 + len(TRANSPORTS)) + "|"]
    by_place = {(cell.kind, cell.transport): cell for cell in filled}
    for kind, (_, what) in KINDS.items():
        found = [by_place.get((kind, transport)) for transport in TRANSPORTS]
        if any(found):
            shown = [seen(cell) if cell is not None else "-" for cell in found]
            lines.append(f"| {kind}: {what} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run, print, write; 1 when a cell is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the table in docs/dns.md")
    parser.add_argument("--only", metavar="TEXT", default="", help="cells whose name holds TEXT")
    options = parser.parse_args()
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        print(f"needs {', '.join(absent)}", file=sys.stderr)
        return 2
    chosen = [cell for cell in cells() if options.only in cell.name]
    with tempfile.TemporaryDirectory(prefix="netstack-matrix-") as folder:
        matrix = Matrix(Path(folder))
        try:
            matrix.run(chosen)
        finally:
            matrix.stop()
    print(table(chosen))
    wrong = [(cell, fault) for cell in chosen for fault in cell.faults()]
    for cell, fault in wrong:
        print(f"{cell.name}: {fault}", file=sys.stderr)
    if options.write:
        page = ROOT / "docs" / "dns.md"
        text = page.read_text()
        start, end = (text.index(mark) for mark in MARKS)
        page.write_text(text[: start + len(MARKS[0])] + "\n\n" + table(chosen) + "\n\n" + text[end:])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
