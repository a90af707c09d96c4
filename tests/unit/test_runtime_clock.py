"""A clock that moves when told."""

from netstack.runtime.clock import VirtualClock


def test_it_never_goes_back():
    clock = VirtualClock(5.0)
    assert clock.now() == 5.0
    assert clock.advance(7.5) == 7.5
    assert clock.advance(6.0) == 7.5
    assert clock.now() == 7.5
