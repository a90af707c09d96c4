"""The operating system's randomness, drawn in pieces."""

import pytest

from netstack.runtime.entropy import SystemEntropy


def test_octets_are_as_many_as_asked_and_never_the_same():
    entropy = SystemEntropy()
    drawn = [entropy.octets(16) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert {len(octets) for octets in drawn} == {16}
    assert len(entropy.octets(10_000)) == 10_000
    assert entropy.octets(0) == b""


@pytest.mark.parametrize("limit", [1, 2, 3, 255, 256, 257, 65_536])
def test_below_stays_below_and_reaches_everything_small(limit):
    entropy = SystemEntropy()
    numbers = {entropy.below(limit) for _ in range(4000)}
    assert min(numbers) >= 0 and max(numbers) < limit
    if limit <= 3:
        assert numbers == set(range(limit))


def test_initial_sequence_follows_the_clock_and_differs_by_flow_and_by_run():
    entropy = SystemEntropy()
    first = entropy.initial_sequence(b"flow" * 9, 10.0)
    assert (entropy.initial_sequence(b"flow" * 9, 10.5) - first) & 0xFFFFFFFF == 125_000
    assert entropy.initial_sequence(b"wolf" * 9, 10.0) != first
    assert SystemEntropy().initial_sequence(b"flow" * 9, 10.0) != first
