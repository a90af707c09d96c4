"""Two streams compared as they grow."""

import pytest

from netstack.capture.compare import StreamComparison

DATA = bytes(range(256)) * 4


@pytest.mark.parametrize("steps", [(1, 1), (7, 100), (100, 7), (1024, 1)])
def test_equal_streams_match_however_they_are_cut(steps):
    comparison = StreamComparison()
    expected = got = 0
    while expected < len(DATA) or got < len(DATA):
        comparison.expect(DATA[expected : expected + steps[0]])
        expected += steps[0]
        comparison.got(DATA[got : got + steps[1]])
        got += steps[1]
    assert comparison.as_dict() == {"result": "match", "captured": 1024, "sent": 1024}


def test_less_is_partial():
    comparison = StreamComparison()
    comparison.expect(b"abcdef")
    comparison.got(b"abc")
    assert comparison.result == "partial"


def test_the_first_difference_is_found():
    comparison = StreamComparison()
    comparison.got(b"abcd")
    comparison.expect(b"ab")
    comparison.expect(b"cX")
    assert comparison.as_dict() == {"result": "differs", "captured": 4, "sent": 4, "differs_at": 3}


def test_a_hole_in_the_capture_is_never_a_match():
    comparison = StreamComparison()
    comparison.gap()
    assert comparison.result == "partial"
