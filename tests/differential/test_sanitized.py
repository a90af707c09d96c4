"""The C sources under AddressSanitizer and UndefinedBehaviorSanitizer, fed with malformed captures."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.differential.both import CAPTURES, mutate, random_packets
from tests.differential.captured import packets

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "native" / "tests" / "run_sanitized.sh"
NO_SANITIZERS = 77
SECONDS = 3


def corpus() -> list[bytes]:
    """Packets of the malformed captures, and some of our own."""
    chance = random.Random(7)
    found = [mutate(chance, packet) for packet in random_packets(chance, 200)]
    for path in sorted((CAPTURES / "malformed").glob("*")):
        found += list(packets(path))[:200]
    return [packet[:4095] for packet in found]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_hostile_packets_under_sanitizers(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    file = tmp_path / "corpus"
    file.write_bytes(b"".join(struct.pack("!I", len(packet)) + packet for packet in corpus()))
    done = subprocess.run(
        [SCRIPT, str(SECONDS), file], env={"CC": compiler, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    if done.returncode == NO_SANITIZERS:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-4000:]
    assert "clean" in done.stdout
