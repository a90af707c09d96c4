"""What a query waits while `netstack dns` reads a large text list again on SIGHUP.

Responsible for: making the list, asking all the time, the longest and the usual wait before and during the reload.
Refuses to know: how a list is read.

    python -m benchmarks.reload [--names 1000000]

Every query is for another listed name, so none is answered from what is remembered.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUIET, MOST = 2.0, 60.0  # seconds asked before; seconds until the reload must be over


class Asker:
    """A client that counts what each answer took, in milliseconds."""

    def __init__(self, port: int, names: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(6.0)
        self._port = port
        self._names = names
        self._asked = 0
        self.waits: list[float] = []

    def ask(self, name: str) -> int:
        """The response code."""
        self._asked += 1
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        query = struct.pack("!HHHHHH", self._asked & 0xFFFF, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
        begin = time.perf_counter()
        self._socket.sendto(query, ("127.0.0.1", self._port))
        answer = self._socket.recv(2048)
        self.waits.append((time.perf_counter() - begin) * 1e3)
        return answer[3] & 15

    def ask_listed(self) -> None:
        """One more name of the list."""
        number = self._asked * 7919 % self._names
        assert self.ask(f"n{number}.list{number % 997}.example") == 3
        time.sleep(0.002)

    def shown(self) -> dict[str, float]:
        """Figures of all waits since the last call."""
        waits, self.waits = sorted(self.waits), []
        return {
            "queries": len(waits), "p50_ms": round(waits[len(waits) // 2], 3),
            "p99_ms": round(waits[len(waits) * 99 // 100], 3), "max_ms": round(waits[-1], 3),
        }  # fmt: skip


def measure(names: int, folder: Path) -> dict[str, object]:
    """Figures before and during the reload, and how long that took."""
    path = folder / "names.txt"
    path.write_text("".join(f"n{number}.list{number % 997}.example\n" for number in range(names)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "netstack", "dns", "--listen", f"127.0.0.1:{port}", "--upstream",
               "udp://127.0.0.1:9", "--block", str(path)]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        asker = Asker(port, names)
        end = time.monotonic() + QUIET
        while time.monotonic() < end:
            asker.ask_listed()
        before = asker.shown()
        with path.open("a") as file:
            file.write("new.test\n")
        begin = time.monotonic()
        process.send_signal(signal.SIGHUP)
        while time.monotonic() - begin < MOST:
            for _ in range(20):
                asker.ask_listed()
            waits, asker.waits = asker.waits, []
            found = asker.ask("new.test") == 3
            asker.waits = waits
            if found:
                break
        return {"names": names, "quiet": before, "reload": asker.shown(), "reload_s": time.monotonic() - begin}
    finally:
        process.terminate()
        process.wait(10)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(parser.parse_args().names, Path(folder))))


if __name__ == "__main__":
    main()
