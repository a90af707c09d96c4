"""The example capture's verdict table, to the letter. `python -m tests.replay.test_golden` writes it anew."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
CAPTURE = "examples/first-look.pcap"


def table(*arguments):
    command = [sys.executable, "-m", "netstack", "replay", CAPTURE, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def test_the_verdicts_of_the_example():
    assert table("--verify-streams") == (GOLDEN / "first-look.txt").read_text(encoding="utf-8")


def test_its_events():
    assert table("--events", "-") == (GOLDEN / "first-look.ndjson").read_text(encoding="utf-8")


if __name__ == "__main__":
    (GOLDEN / "first-look.txt").write_text(table("--verify-streams"), encoding="utf-8")
    (GOLDEN / "first-look.ndjson").write_text(table("--events", "-"), encoding="utf-8")
