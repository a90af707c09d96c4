from __future__ import annotations

import pytest

from netstack.tcp import events


@pytest.mark.parametrize("name", ["Established", "EndOfStream", "SendSpace", "Reset", "TimedOut", "Closed"])
def test_events_are_small_and_of_one_family(name: str) -> None:
    event = getattr(events, name)()
    assert isinstance(event, events.TcpEvent)
    assert not hasattr(event, "__dict__")


def test_data_carries_its_payload() -> None:
    assert events.Data(memoryview(b"abc")).payload == b"abc"


def test_two_data_events_are_never_equal() -> None:
    assert events.Data(b"abc") != events.Data(b"abc")
