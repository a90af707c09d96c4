"""The conformance rows under pytest: each check of `conformance` is one test.

Responsible for: running the selected rows once per module, side by side where they allow it, and reporting each under
its own name.
Refuses to know: what the rows look at (see conformance/__init__.py).

The rows run when the first of them is asked for; a run of everything takes about a minute. What this machine cannot
do is skipped, saying why.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from conformance import smoke
from conformance.bench import Bench
from conformance.namespaces import unavailable
from conformance.registry import CHECKS
from conformance.runner import Result, run_group

pytestmark = pytest.mark.interop
_PROBLEM = unavailable() or (None if shutil.which("nft") else "needs nft")
needs_namespaces = pytest.mark.skipif(_PROBLEM is not None, reason=_PROBLEM or "")


def _selected(request: pytest.FixtureRequest, group: str) -> list[str]:
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if getattr(item, "callspec", None) and "name" in item.callspec.params
    ]
    return [name for name in names if name in CHECKS and CHECKS[name].group == group]


@pytest.fixture(scope="module")
def wire_results(request: pytest.FixtureRequest) -> dict[str, Result]:
    return {result.name: result for result in run_group("wire", _selected(request, "wire"))}


@pytest.fixture(scope="module")
def dns_results(request: pytest.FixtureRequest) -> dict[str, Result]:
    return {result.name: result for result in run_group("dns", _selected(request, "dns"))}


def _judge(result: Result) -> None:
    if result.outcome == "skip":
        pytest.skip(result.reason)
    assert result.outcome == "pass", result.reason


@needs_namespaces
@pytest.mark.parametrize("name", [name for name, one in CHECKS.items() if one.group == "wire"])
def test_wire(name: str, wire_results: dict[str, Result]) -> None:
    _judge(wire_results[name])


@needs_namespaces
@pytest.mark.parametrize("name", [name for name, one in CHECKS.items() if one.group == "dns"])
def test_dns(name: str, dns_results: dict[str, Result]) -> None:
    _judge(dns_results[name])


@pytest.fixture(scope="module", params=["auto", "off"])
def desktop(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An engine whose app is a real kernel."""
    with Bench(offload=request.param, real_app=True) as bench:
        yield bench


@needs_namespaces
@pytest.mark.parametrize("step", list(smoke.STEPS))
def test_real_kernel_as_the_app(step: str, desktop: Bench) -> None:
    smoke.STEPS[step](desktop)


def test_every_row_has_its_check() -> None:
    assert sum(one.group == "wire" for one in CHECKS.values()) == 72
    assert sum(one.group == "dns" for one in CHECKS.values()) == 18
