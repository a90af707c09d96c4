"""What scripts make is what is committed."""

from __future__ import annotations

import pytest

from scripts.make_reference import pages
from tests.house.source import ROOT

MADE = pages()


@pytest.mark.parametrize("name", MADE)
def test_a_reference_page_follows_the_source(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == MADE[name], "run `make docs`"


def test_every_key_reason_and_event_is_explained() -> None:
    assert [line for line in "\n".join(MADE.values()).splitlines() if line.endswith("|  |")] == []


def test_the_example_capture_is_made_by_its_script() -> None:
    from scripts.make_example_capture import OUTPUT, capture

    assert OUTPUT.read_bytes() == capture()
