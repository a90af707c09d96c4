"""Octets of one direction put in order."""

import hashlib
import itertools

import pytest

from netstack.capture.streams import StreamDigest, StreamOrder

DATA = bytes(range(200))


class Taken:
    def __init__(self):
        self.octets = b""
        self.gaps = []
        self.order = StreamOrder(self.take, self.gaps.append)

    def take(self, octets):
        self.octets += octets


@pytest.mark.parametrize("base", [1000, 2**32 - 100])
@pytest.mark.parametrize("arrival", list(itertools.permutations(range(4))))
def test_any_order_with_overlaps_gives_the_stream(base, arrival):
    taken = Taken()
    taken.order.segment(base - 1, b"", True)
    pieces = [(0, 60), (50, 120), (100, 150), (150, 200)]
    for index in arrival:
        start, end = pieces[index]
        taken.order.segment((base + start) % 2**32, DATA[start:end], False)
        taken.order.segment((base + start) % 2**32, DATA[start:end], False)
    assert taken.octets == DATA and taken.gaps == []


def test_what_came_first_stays():
    taken = Taken()
    taken.order.segment(0, b"abc", False)
    taken.order.segment(1, b"XYZW", False)
    assert taken.octets == b"abcZW"


def test_a_hole_waits_for_the_acknowledgement():
    taken = Taken()
    taken.order.segment(100, b"ab", False)
    taken.order.segment(110, b"cd", False)
    taken.order.acknowledged(102)
    assert taken.octets == b"ab"
    taken.order.acknowledged(112)
    assert (taken.octets, taken.gaps) == (b"abcd", [8])


def test_the_end_lets_go_of_what_is_held():
    taken = Taken()
    taken.order.segment(0, b"a", False)
    taken.order.segment(5, b"b", False)
    taken.order.segment(9, b"c", False)
    taken.order.finish()
    assert (taken.octets, taken.gaps) == (b"abc", [4, 3])


def test_data_on_the_syn_counts_behind_it():
    taken = Taken()
    taken.order.segment(7, b"early", True)
    taken.order.segment(13, b"late", False)
    assert taken.octets == b"earlylate"


def test_many_segments_behind_a_hole_cost_little():
    taken = Taken()
    taken.order.segment(0, b"", True)
    for at in range(20_000, 0, -1):
        taken.order.segment(1 + at, b"x", False)
        taken.order.acknowledged(1)
    assert taken.octets == b""
    taken.order.segment(1, b"y", False)
    assert taken.octets == b"y" + b"x" * 20_000


def test_digest():
    digest = StreamDigest()
    digest.add(b"ab")
    digest.add(b"c")
    assert (digest.hex, digest.length, digest.gaps) == (hashlib.sha256(b"abc").hexdigest(), 3, 0)
    digest.gap(4)
    assert digest.gaps == 1
