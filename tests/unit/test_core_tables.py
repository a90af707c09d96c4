"""Records of plain tables: what fits is taken, what does not is named."""

from __future__ import annotations

import pytest

from netstack.core.errors import ConfigError
from netstack.core.record import recordclass
from netstack.core.tables import build, merged


@recordclass(frozen=True, kw_only=True)
class Inner:
    name: str = "x"
    sizes: tuple[int, ...] = ()


@recordclass(frozen=True, kw_only=True)
class Outer:
    wait: float = 1.0
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()


def test_tables_become_records() -> None:
    table = {"wait": 2, "inner": {"sizes": [1, 2]}, "many": [{"name": "a"}, {}]}
    made = build(Outer, table, "")
    assert made == Outer(wait=2.0, inner=Inner(sizes=(1, 2)), many=(Inner(name="a"), Inner()))
    assert type(made.wait) is float


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"wiat": 1}, "wiat: no such setting; did you mean wait?"),
        ({"zzz": 1}, "zzz: no such setting$"),
        ({"inner": {"nam": "a"}}, "inner.nam: .* inner.name"),
        ({"inner": 5}, "inner: a table is wanted"),
        ({"inner": {"sizes": 5}}, "inner.sizes: a list is wanted, got 5"),
        ({"inner": {"sizes": ["a"]}}, "inner.sizes: int is wanted, got 'a'"),
        ({"many": [{}, {"name": 5}]}, r"many\[2\].name: str is wanted"),
        ({"many": [5]}, r"many\[1\]: a table"),
        ({"wait": True}, "wait: float is wanted, got True"),
    ],
)
def test_what_does_not_fit_is_named(table: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=words):
        build(Outer, table, "")


def test_one_table_over_another() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merged(base, {"a": {"y": 4}, "c": {"z": 5}}) == {"a": {"x": 1, "y": 4}, "b": 3, "c": {"z": 5}}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}
