"""Imports go upwards in one list, and the sans-IO layers reach nothing of the outside world."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.source import ROOT, imported_names, modules, parse

LAYERS = ["core", "config", "wire", "codec", "tcp", "dns", "policy", "forward", "engine"]
LAYERS += ["link", "upstream", "capture", "runtime", "intercept", "controller", "cli", "testing"]
"""A layer imports from itself and from layers before it."""

FIRST_IO_LAYER = "link"

OUTSIDE_WORLD = {"socket", "select", "selectors", "time", "random", "secrets", "threading", "asyncio", "logging"}
"""Modules that a sans-IO layer must be handed instead: `now`, `Entropy`, `Stream`, `EventSink`."""

LIMITED = {
    "scapy": set(),
    "dpkt": set(),
    "dns": {"dns", "upstream", "cli"},
    "cffi": set(),
    "jnius": set(),
    "pyobjus": set(),
    "kivy": set(),
}
"""Heavy or foreign packages, and the layers that may import them."""


def layer_of(path: Path) -> str | None:
    """The layer of a module given relative to the root; None for the package's own ``__init__`` and ``__main__``."""
    parts = path.with_suffix("").parts
    name = parts[1]
    return {"__init__": None, "__main__": "cli"}.get(name, name)


def violations(path: Path, tree: ast.Module) -> list[str]:
    """What a module imports and should not."""
    layer = layer_of(path)
    package = ".".join(path.parent.parts)
    if layer is None:
        return [
            f"{path}: the package root imports {name}"
            for name, _ in imported_names(tree, package)
            if name.startswith("netstack")
        ]
    if layer not in LAYERS:
        return [f"{path}: {layer} is no layer"]
    rank = LAYERS.index(layer)
    pure = rank < LAYERS.index(FIRST_IO_LAYER)
    found = []
    for name, line in imported_names(tree, package):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "netstack" and other in LAYERS and LAYERS.index(other) > rank:
            found.append(f"{path}:{line}: {layer} imports {other}, which is below it")
        elif pure and top in OUTSIDE_WORLD:
            found.append(f"{path}:{line}: {layer} imports {top}, but is sans-IO")
        elif top in LIMITED and layer not in LIMITED[top]:
            found.append(f"{path}:{line}: {layer} imports {top}")
    return found


@pytest.mark.parametrize("path", modules(), ids=str)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    assert violations(path, parse(path)) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("netstack/tcp/x.py", "from netstack.forward import relay"),
        ("netstack/tcp/x.py", "import netstack.engine"),
        ("netstack/tcp/x.py", "from netstack import cli"),
        ("netstack/tcp/x.py", "from .. import engine"),
        ("netstack/dns/x.py", "from ..policy.tracker import IpTracker"),
        ("netstack/policy/x.py", "def f():\n    import time"),
        ("netstack/engine.py", "from threading import Lock"),
        ("netstack/runtime/x.py", "import scapy.all"),
        ("netstack/tcp/x.py", "import dns.message"),
        ("netstack/helpers/x.py", "import os"),
        ("netstack/__init__.py", "from netstack.engine import Engine"),
    ],
)
def test_a_forbidden_import_is_found(where: str, source: str) -> None:
    assert len(violations(Path(where), ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("netstack/tcp/x.py", "from netstack.core.flow import FiveTuple\nfrom .state import State"),
        ("netstack/link/x.py", "import socket, time"),
        ("netstack/upstream/x.py", "import dns.message"),
        ("netstack/testing/x.py", "from netstack.cli import main"),
        ("netstack/dns/x.py", "from netstack import dns"),
    ],
)
def test_an_allowed_import_is_let_pass(where: str, source: str) -> None:
    assert violations(Path(where), ast.parse(source)) == []


def test_the_architecture_page_lists_the_layers_in_this_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = [page.find(f"| `{layer}") for layer in LAYERS]
    assert -1 not in places, f"not in the table: {[x for x, at in zip(LAYERS, places, strict=True) if at < 0]}"
    assert places == sorted(places)
