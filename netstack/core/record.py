"""Records: classes whose annotations are their fields, for a tenth of what `dataclasses` costs at import.

Responsible for: constructor, equality, hash and text of such classes; a changed copy.
Refuses to know: what the fields mean.

`dataclasses` imports inspect, ast, dis and tokenize (1.4 MiB) and compiles up to eight functions for each class. Here
one constructor is compiled when the first instance is made, none for keyword-only records, and the rest is shared.
Who asks with the functions of `dataclasses` (fields, replace, asdict, is_dataclass) is answered as by one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")

_CLASS_LEVEL = "ClassVar"  # annotations may be text


class _Factory:
    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """A default that is made anew for each instance."""
    made: Any = _Factory(default_factory)
    return made  # type: ignore[no-any-return]


@dataclass_transform(field_specifiers=(field,))
def recordclass(*, frozen: bool = False, kw_only: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """Make a slotted record of a class; options as of `dataclasses.dataclass`.

    A class body may define `__post_init__`, which is called after the constructor. A class with bases that are records
    has their fields first.
    """

    def make(plain: type[T]) -> type[T]:
        body = dict(plain.__dict__)
        body.pop("__dict__", None)
        body.pop("__weakref__", None)
        own = [name for name, kind in plain.__annotations__.items() if _CLASS_LEVEL not in str(kind)]
        names: tuple[str, ...] = tuple(getattr(plain, "record_fields", ())) + tuple(own)
        defaults: dict[str, Any] = dict(getattr(plain, "record_defaults", {}))
        defaults.update({name: body.pop(name) for name in own if name in body})
        body.update(
            __slots__=tuple(own), __match_args__=() if kw_only else names, record_fields=names,
            record_defaults=defaults, record_kw_only=kw_only, __dataclass_fields__=_Described(),
            __init__=_init_by_name if kw_only else _first_init(frozen), __repr__=body.get("__repr__", _show),
        )  # fmt: skip
        if eq:
            body["_values"] = property(attrgetter(*names))
            body["__eq__"] = _equal
            body["__hash__"] = _hash if frozen else None
        if frozen:
            body["__setattr__"] = body["__delattr__"] = _refuse
            body["__setstate__"] = _restore
        kind: Any = type(plain)
        made: Any = kind(plain.__name__, plain.__bases__, body)
        made.__qualname__ = plain.__qualname__
        return made  # type: ignore[no-any-return]

    return make


def replace(record: T, **changes: Any) -> T:
    """A copy with other values for some fields."""
    names: tuple[str, ...] = record.record_fields  # type: ignore[attr-defined]
    return type(record)(**{name: getattr(record, name) for name in names} | changes)


def fields(record: Any) -> tuple[str, ...]:
    """The names of a record's fields, or of a class of records, in order."""
    names: tuple[str, ...] = record.record_fields
    return names


def is_record(kind: Any) -> bool:
    """True for a class of records."""
    return isinstance(kind, type) and hasattr(kind, "record_fields")


def _init_by_name(self: Any, **given: Any) -> None:
    """The constructor of keyword-only records: settings, of which few are made; compiling one takes 0.14 ms."""
    for name in self.record_fields:
        if name in given:
            value = given.pop(name)
        elif name in self.record_defaults:
            value = self.record_defaults[name]
            if isinstance(value, _Factory):
                value = value.make()
        else:
            raise TypeError(f"{type(self).__name__}: {name} is missing")
        object.__setattr__(self, name, value)
    if given:
        raise TypeError(f"{type(self).__name__}: {next(iter(given))} is none of its fields")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _first_init(frozen: bool) -> Callable[..., None]:
    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        cls: Any = next(each for each in type(self).__mro__ if each.__dict__.get("__init__") is __init__)
        cls.__init__ = _compiled_init(cls, frozen)
        cls.__init__(self, *arguments, **options)

    return __init__


def _compiled_init(cls: Any, frozen: bool) -> Any:
    """The constructor, compiled."""
    known: dict[str, Any] = {"_set": object.__setattr__}
    parameters, lines = [], []
    for name in cls.record_fields:
        value = name
        if name in cls.record_defaults:
            default = cls.record_defaults[name]
            known[f"_{name}"] = default.make if isinstance(default, _Factory) else default
            if isinstance(default, _Factory):
                parameters.append(f"{name}=_set")
                value = f"_{name}() if {name} is _set else {name}"
            else:
                parameters.append(f"{name}=_{name}")
        else:
            parameters.append(name)
        lines.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(f"def __init__({', '.join(['self', *parameters])}):\n " + "\n ".join(lines or ["pass"]), known)
    made = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _show(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.record_fields)
    return f"{type(self).__qualname__}({shown})"


def _equal(self: Any, other: Any) -> Any:
    return self._values == other._values if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(self._values)


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")


def _restore(self: Any, state: tuple[None, dict[str, Any]]) -> None:
    for name, value in state[1].items():  # copy and pickle, which else would set attributes
        object.__setattr__(self, name, value)


class _Described:
    """`__dataclass_fields__`, made when `dataclasses` asks for it."""

    def __get__(self, instance: object, cls: Any) -> Mapping[str, Any]:
        import dataclasses

        kinds: dict[str, Any] = {}
        for each in reversed(cls.__mro__):
            kinds.update(getattr(each, "__annotations__", {}))
        described = []
        for name in cls.record_fields:
            options: dict[str, Any] = {"kw_only": cls.record_kw_only}
            if name in cls.record_defaults:
                default = cls.record_defaults[name]
                made = isinstance(default, _Factory)
                options["default_factory" if made else "default"] = default.make if made else default
            described.append((name, kinds[name], dataclasses.field(**options)))
        stand_in: Any = dataclasses.make_dataclass(cls.__name__, described)
        known: Mapping[str, Any] = stand_in.__dataclass_fields__
        return known
