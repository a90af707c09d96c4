"""Drop reasons agree with the C header."""

import re
from pathlib import Path

from netstack.core.drops import DropReason

HEADER = Path(__file__).parents[2] / "native" / "include" / "netstack.h"


def test_codec_reasons_have_the_numbers_of_the_header() -> None:
    numbers = {name: int(value) for name, value in re.findall(r"#define NETSTACK_DROP_(\w+) (\d+)", HEADER.read_text())}
    assert numbers, "the header lists no reasons"
    for name, value in numbers.items():
        assert DropReason[name] == value
    assert {reason.name for reason in DropReason if reason < 32} == set(numbers)
