"""Records made of plain tables, as a TOML file gives them.

Responsible for: fields, types and nested tables; errors that name the key and the nearest valid one.
Refuses to know: what any key means.
"""

from __future__ import annotations

from typing import Any, get_type_hints

from netstack.core.errors import ConfigError
from netstack.core.record import is_record


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says over it, one table deep."""
    both = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in over.items():
        both[key] = {**both.get(key, {}), **value} if isinstance(value, dict) else value
    return both


def build(cls: Any, table: Any, prefix: str) -> Any:
    """A record of class `cls`; `prefix` is what stands before its keys, with a dot. Raises ConfigError."""
    if not isinstance(table, dict):
        raise ConfigError(f"{prefix.rstrip('.')}: a table is wanted here")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            import difflib

            near = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"{prefix}{key}: no such setting{hint}")
        values[key] = _value(hints[key], value, f"{prefix}{key}")
    return cls(**values)


def _value(wanted: Any, value: Any, name: str) -> Any:
    if is_record(wanted):
        return build(wanted, value, f"{name}.")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if getattr(wanted, "__origin__", None) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name}: a list is wanted, got {value!r}")
        kind = wanted.__args__[0]
        if is_record(kind):
            return tuple(_value(kind, item, f"{name}[{number}]") for number, item in enumerate(value, 1))
        return tuple(_value(kind, item, name) for item in value)
    if type(value) is not wanted:
        raise ConfigError(f"{name}: {wanted.__name__} is wanted, got {value!r}")
    return value
