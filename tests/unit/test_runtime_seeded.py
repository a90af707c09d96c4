"""Entropy from a seed."""

from netstack.runtime.seeded import SeededEntropy


def draw(entropy):
    return entropy.octets(8), entropy.below(1000), entropy.octets(3), entropy.initial_sequence(b"key", 1.0)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    assert draw(SeededEntropy(3)) == draw(SeededEntropy(3))
    assert draw(SeededEntropy(3)) != draw(SeededEntropy(4))


def test_it_does_not_repeat_itself():
    entropy = SeededEntropy()
    assert len({entropy.octets(8) for _ in range(100)}) == 100
    assert {entropy.below(3) for _ in range(50)} == {0, 1, 2}


def test_captured_sequence_numbers_come_first():
    entropy = SeededEntropy(0, {b"known": 42}.get)
    assert entropy.initial_sequence(b"known", 0.0) == 42
    assert entropy.initial_sequence(b"other", 0.0) == SeededEntropy(0).initial_sequence(b"other", 9.0)
