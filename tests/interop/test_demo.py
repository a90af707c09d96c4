"""`make demo`, as a newcomer sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import demo

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def shown() -> str:
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_replay_shows_each_kind_of_verdict(shown: str) -> None:
    replay = shown.partition("Live.")[0]
    for word in ("lease", "unresolved", "quic", "expired"):
        assert word in replay.lower()


def test_programs_run_behind_the_engine(shown: str) -> None:
    reason = demo.why_not_live()
    if reason:
        pytest.skip(f"the live part cannot run: {reason}")
    live = shown.partition("Live.")[2]
    assert "hello from example.com, through the engine" in live
    assert "BLOCKED hardcoded IP: 10.0.0.2:" in live
    assert "Connection refused" in live


def test_the_host_is_left_alone() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/demo.py", "--inside", demo.network_namespace()],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "not to be touched" in done.stderr
