"""The cells of `dns_matrix`: every transport against every kind of failure, through a live `netstack dns`."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

from tests.interop.dns_matrix import PROGRAMS, Cell, Matrix, cells

ABSENT = [program for program in PROGRAMS if shutil.which(program) is None]
NEEDS = {"https": "h2", "quic": "aioquic"}

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(ABSENT) or find_spec("cryptography") is None, reason=f"needs {ABSENT or 'cryptography'}"),
]


def possible(cell: Cell) -> bool:
    package = NEEDS.get(cell.transport)
    return package is None or find_spec(package) is not None


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Cell]:
    """The cells that are asked for, run side by side: nearly all of their time is waiting."""
    wanted = {item.callspec.params["name"] for item in request.session.items if item.path == request.path}  # type: ignore[attr-defined]
    chosen = [cell for cell in cells() if cell.name in wanted and possible(cell)]
    matrix = Matrix(tmp_path_factory.mktemp("matrix"))
    try:
        matrix.run(chosen)
    finally:
        matrix.stop()
    return {cell.name: cell for cell in chosen}


@pytest.mark.parametrize("name", [cell.name for cell in cells()])
def test_a_client_is_told_what_there_is_to_tell_in_time(filled: dict[str, Cell], name: str) -> None:
    if name not in filled:
        pytest.skip(f"needs {NEEDS[name.partition('-')[0]]}")
    assert filled[name].faults() == []
