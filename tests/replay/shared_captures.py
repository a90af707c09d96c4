"""Where third-party captures and what is known of them are found; they are no part of this repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CAPTURES = Path(__file__).resolve().parents[2].parent / "shared" / "captures"
TRUTH = CAPTURES / "truth"
REASON = "third-party captures are not here (../shared/captures beside the repository)"


def capture_files(*folders: str) -> list[Any]:
    """Every capture of `folders` (real, malformed; both when not given) that has its truth, as parameters of a test.

    One skipped parameter when there are none.
    """
    found = sorted(path for folder in folders or ("real", "malformed") for path in (CAPTURES / folder).glob("*"))
    known = [pytest.param(path, id=path.name) for path in found if (TRUTH / f"{path.name}.json").is_file()]
    return known or [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=REASON))]


def truth_of(path: Path) -> dict[str, Any]:
    """What is known of a capture."""
    known: dict[str, Any] = json.loads((TRUTH / f"{path.name}.json").read_text(encoding="utf-8"))
    return known
