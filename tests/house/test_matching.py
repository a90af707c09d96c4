"""Every source module has a unit test file of its own name, and every unit test file a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.source import ROOT, modules

UNIT = ROOT / "tests" / "unit"

WITHOUT_UNIT_TEST: dict[str, str] = {
    "netstack/core/ports.py": "Protocols only; held to by mypy and by everything that implements them",
    "netstack/codec/base.py": "the interface; tests/differential runs it over both codecs",
}
"""Modules without a test file of their own, each with the reason."""


def expected_test(path: Path) -> str:
    """``netstack/tcp/state.py`` -> ``test_tcp_state.py``."""
    return "_".join(["test", *path.with_suffix("").parts[1:]]) + ".py"


def wanted() -> list[Path]:
    return [path for path in modules() if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", [path for path in wanted() if str(path) not in WITHOUT_UNIT_TEST], ids=str)
def test_a_module_has_its_unit_test(path: Path) -> None:
    assert (UNIT / expected_test(path)).is_file()


def test_an_exception_is_still_needed() -> None:
    sources = {str(path) for path in wanted()}
    for name, reason in WITHOUT_UNIT_TEST.items():
        assert name in sources, f"{name} is gone: take it out of the list"
        assert not (UNIT / expected_test(Path(name))).exists(), f"{name} has a test now: take it out of the list"
        assert len(reason) > 20


def test_a_unit_test_file_belongs_to_a_module() -> None:
    names = {expected_test(path) for path in modules()}
    packages = {f"test_{path.parent.name}.py" for path in modules() if path.name == "__init__.py"}
    packages |= {f"test_{path.parent.name}_init.py" for path in modules() if path.name == "__init__.py"}
    orphans = [path.name for path in UNIT.glob("test_*.py") if path.name not in names | packages]
    assert orphans == []
