"""Records behave as slotted dataclasses do; `dataclasses` itself is the other voice."""

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import ClassVar

import pytest

from netstack.core.record import field, fields, is_record, recordclass, replace


def bodies(make, default):
    """The same classes, made by one or the other."""

    @make()
    class Base:
        at: float
        kind: ClassVar[str] = "base"

    @make()
    class Derived(Base):
        name: str
        many: list = default(list)
        count: int = 3

    @make(frozen=True, kw_only=True)
    class Frozen:
        first: int = 1
        second: tuple = (1, 2)
        third: list = default(list)

    @make(eq=False)
    class Plain:
        value: int

    @make(frozen=True)
    class One:
        value: str

    return Base, Derived, Frozen, Plain, One


def _dataclass(**options):
    return dataclasses.dataclass(slots=True, **options)


OURS = bodies(recordclass, lambda make: field(default_factory=make))
THEIRS = bodies(_dataclass, lambda make: dataclasses.field(default_factory=make))
BOTH = pytest.mark.parametrize("made", [OURS, THEIRS], ids=["record", "dataclass"])


@recordclass(frozen=True)
class Kept:
    name: str
    values: tuple = ()


@BOTH
def test_constructor(made):
    _, derived, frozen, _, _ = made
    one = derived(1.5, "x")
    assert (one.at, one.name, one.many, one.count, one.kind) == (1.5, "x", [], 3, "base")
    assert derived(1.5, name="x", count=7).count == 7
    assert derived(1, "x").many is not derived(1, "x").many
    assert derived(1, "x", None).many is None
    assert frozen(second=()).second == ()
    for wrong in (
        lambda: derived(1.5),
        lambda: frozen(1),
        lambda: derived(1, "x", other=2),
        lambda: derived(1, 2, 3, 4, 5),
    ):
        with pytest.raises(TypeError):
            wrong()


@BOTH
def test_text(made):
    _, derived, _, plain, _ = made
    assert repr(derived(1.0, "x")).endswith("Derived(at=1.0, name='x', many=[], count=3)")
    assert repr(plain(2)).endswith("Plain(value=2)")


@BOTH
def test_equality_and_hash(made):
    base, derived, frozen, plain, one = made
    assert derived(1, "x") == derived(1, "x")
    assert derived(1, "x") != derived(2, "x")
    assert base(1) != derived(1, "x")
    assert base(1) != 1
    assert plain(1) != plain(1)
    assert len({plain(1), plain(1)}) == 2
    with pytest.raises(TypeError):
        hash(derived(1, "x"))
    assert hash(one("a")) == hash(one("a"))
    assert len({one("a"), one("a"), one("b")}) == 2
    assert frozen() == frozen(first=1)


@BOTH
def test_slots_and_frozen_fields(made):
    _, derived, frozen, _, _ = made
    one = derived(1, "x")
    one.count = 4
    assert one.count == 4
    with pytest.raises(AttributeError):
        one.other = 1
    with pytest.raises(AttributeError):
        frozen().first = 2
    with pytest.raises(AttributeError):
        del frozen().first
    assert not hasattr(one, "__dict__")


@BOTH
def test_what_dataclasses_asks_of_it(made):
    _, derived, frozen, _, _ = made
    assert dataclasses.is_dataclass(derived)
    assert dataclasses.is_dataclass(derived(1, "x"))
    assert [each.name for each in dataclasses.fields(derived)] == ["at", "name", "many", "count"]
    assert dataclasses.fields(derived)[3].default == 3
    assert dataclasses.fields(frozen)[2].default_factory is list
    assert dataclasses.fields(frozen)[0].kw_only
    assert dataclasses.replace(frozen(), first=5) == frozen(first=5)
    assert dataclasses.asdict(derived(1, "x")) == {"at": 1, "name": "x", "many": [], "count": 3}
    assert [each.type for each in dataclasses.fields(frozen)] == [int, tuple, list]
    match derived(1, "x"):
        case derived(at, name):
            assert (at, name) == (1, "x")


@BOTH
def test_copies(made):
    _, derived, frozen, _, _ = made
    for each in (derived(1, "x", [1]), frozen(third=[1])):
        assert copy.copy(each) == each
        deep = copy.deepcopy(each)
        assert deep == each
        assert deep is not each
    kept = Kept("x", (1,))
    assert pickle.loads(pickle.dumps(kept)) == kept


def test_replace_and_fields():
    _, derived, frozen, _, _ = OURS
    changed = replace(frozen(first=2), second=(9,))
    assert (changed.first, changed.second) == (2, (9,))
    with pytest.raises(TypeError):
        replace(frozen(), no=1)
    assert fields(derived) == fields(derived(1, "x")) == ("at", "name", "many", "count")
    assert is_record(derived)
    assert not is_record(int)
    assert not is_record(derived(1, "x"))


def test_post_init_may_check_and_refuse():
    @recordclass(frozen=True)
    class Checked:
        value: int

        def __post_init__(self):
            if self.value < 0:
                raise ValueError("below zero")

    assert Checked(1).value == 1
    with pytest.raises(ValueError, match="below zero"):
        Checked(-1)
    with pytest.raises(ValueError, match="below zero"):
        replace(Checked(1), value=-2)


def test_signature_is_that_of_the_fields_once_one_was_made():
    _, derived, _, _, _ = OURS
    derived(1, "x")
    assert list(inspect.signature(derived).parameters) == ["at", "name", "many", "count"]


def test_it_does_not_import_what_it_stands_for():
    code = "import sys, netstack.core.record; print({'dataclasses', 'inspect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
