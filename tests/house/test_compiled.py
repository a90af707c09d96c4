"""What is tested is what was asked for: this tree's sources, or with NETSTACK_EXPECT=compiled the compiled modules."""

import os

import pytest

from netstack import engine
from netstack.core import packet
from netstack.forward import tcp
from netstack.tcp import connection

SUFFIX = ".so" if os.environ.get("NETSTACK_EXPECT") == "compiled" else ".py"


@pytest.mark.parametrize("module", [packet, engine, tcp, connection])
def test_the_module_is_of_the_kind_that_was_asked_for(module: object) -> None:
    assert str(getattr(module, "__file__", "")).endswith(SUFFIX)
