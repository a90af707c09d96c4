"""The native codec's binding: the layout check, the header's numbers, and life without it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from netstack.codec import base as interface
from netstack.codec import load
from netstack.core.drops import DropReason
from netstack.core.errors import CodecError

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "native" / "include" / "netstack.h").read_text()

try:
    native: Any = importlib.import_module("netstack.codec.native")
except ImportError:
    native = None
needs_native = pytest.mark.skipif(native is None, reason="the native codec is not built here")


def defined(prefix: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(rf"#define {prefix}(\w+) (\d+)", HEADER)}


def test_the_header_has_the_numbers_of_the_drop_reasons() -> None:
    assert defined("NETSTACK_DROP_") == {reason.name: reason.value for reason in DropReason if reason < 32}


def test_the_header_has_the_numbers_of_the_interface() -> None:
    kinds = {name: value for name, value in vars(interface).items() if name.startswith("KIND_")}
    assert {f"KIND_{name}": value for name, value in defined("NETSTACK_KIND_").items()} == kinds
    others = defined("NETSTACK_")
    assert others["HAS_TS"] == interface.HAS_TS
    assert others["LAYOUT_VERSION"] == interface.LAYOUT_VERSION
    assert others["MAX_DATAGRAMS"] == interface.MAX_DATAGRAMS


def fake(version: int | None = None, size: int | None = None, shift: int = 0) -> SimpleNamespace:
    """A library that says of itself what it is told to."""

    def number_fields(record: Any) -> None:
        native.lib.netstack_number_fields(record)
        record.window += shift

    return SimpleNamespace(
        netstack_layout_version=lambda: interface.LAYOUT_VERSION if version is None else version,
        netstack_descriptor_size=lambda: interface.DESCRIPTOR_SIZE if size is None else size,
        netstack_number_fields=number_fields,
    )


@needs_native
def test_a_library_of_this_layout_is_taken() -> None:
    native.check_layout(fake())


@needs_native
@pytest.mark.parametrize("wrong", [{"version": 99}, {"size": 96}, {"shift": 1}], ids=str)
def test_a_library_of_another_layout_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CodecError):
        native.check_layout(fake(**wrong))


def test_without_the_library_auto_is_pure_and_native_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netstack.codec.native", None)  # what an import of a missing module meets
    assert load("auto").name == "pure"
    with pytest.raises(CodecError, match="not usable"):
        load("native")


@needs_native
def test_load_gives_it_by_name() -> None:
    assert load("native").name == load("auto").name == "native"


@needs_native
def test_the_memory_of_a_batch_is_pinned_once() -> None:
    codec, batch = load("native"), interface.PacketBatch()
    codec.parse_batch([], batch)
    pinned = batch.pinned
    codec.parse_batch([b"x"], batch)
    assert batch.pinned is pinned
    with pytest.raises(BufferError):
        batch.arena.resize(1)
