"""Sequence arithmetic across the wrap."""

from hypothesis import given
from hypothesis import strategies as st

from netstack.core.seq import seq_add, seq_diff, seq_le, seq_lt, seq_max

NUMBERS = st.integers(0, 2**32 - 1)
STEPS = st.integers(-(2**31) + 1, 2**31 - 1)


@given(NUMBERS, STEPS)
def test_difference_undoes_addition(number: int, step: int) -> None:
    assert seq_diff(seq_add(number, step), number) == step


@given(NUMBERS, st.integers(1, 2**31 - 1))
def test_later_is_greater_also_across_the_wrap(number: int, step: int) -> None:
    later = seq_add(number, step)
    assert seq_lt(number, later) and not seq_lt(later, number)
    assert seq_le(number, later) and seq_le(number, number)
    assert seq_max(number, later) == later == seq_max(later, number)


def test_wrap_by_example() -> None:
    assert seq_add(0xFFFFFFFF, 1) == 0
    assert seq_lt(0xFFFFFFF0, 0x10)
    assert seq_diff(0x10, 0xFFFFFFF0) == 0x20
