"""The virtio-net header's layout."""

from __future__ import annotations

import sys

from netstack.codec.base import VNET_HEADER
from netstack.wire import vnet


def test_the_header_is_that_of_linux() -> None:
    assert vnet.HEADER.size == VNET_HEADER == 10
    octets = vnet.HEADER.pack(vnet.NEEDS_CSUM, vnet.GSO_TCP4, 0x0102, 0x0304, 0x0506, 0x0708)
    words = "02010403" if sys.byteorder == "little" else "01020304"
    assert octets[:6].hex() == "0101" + words
