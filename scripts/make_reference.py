"""Writes the reference pages that follow from the source: docs/configuration.md, docs/events.md, docs/drops.md.

Responsible for: turning the docstrings of `netstack/config.py` and `netstack/core/` into tables.
Refuses to know: anything that is not written there.

A test compares the pages with what this script makes, so they cannot fall behind.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from netstack import config  # noqa: E402
from netstack.core import events  # noqa: E402

CONFIG_HEAD = """\
# Configuration

A configuration is a TOML file whose tables are the headings below. Everything has a default, so an empty file is a
complete configuration, and `netstack` runs without one. An unknown key, a value of the wrong type or a value out of
range is an error that names the key:

```
$ netstack replay --config wrong.toml examples/first-look.pcap
{error}
```

A larger example:

```toml
mode = "firewall"

[dns]
servers = ["192.0.2.53", "[2001:db8::53]:5353"]

[policy]
enforcement = "audit"
quic = "allow"
```

`profile = "seed"` at the top of a file starts from these values instead of the defaults; what the file sets itself
still wins:

```toml
{profile}
```

From Python: `netstack.config.load_config(path)`, `netstack.config.make_config({{"policy": {{"quic": "allow"}}}})`, or
the frozen classes themselves, of which `dataclasses.replace` makes changed copies. Units are seconds and octets
unless a line says otherwise.

This page is made from `netstack/config.py` by `make docs`.
"""

EVENTS_HEAD = """\
# Events

The engine tells its host what happens as typed events, `netstack.core.events`. The command line shows them;
`event.as_dict()` is the form in NDJSON, `event.line()` the form in a log. Every event has `at`, the engine's clock in
seconds.

In the dictionary form a flow is `{"protocol": 6, "source": "10.0.0.2:40001", "destination": "203.0.113.9:443"}` and a
verdict is `{"action": "allow" or "block", "reason": ..., "evidence": ...}`, with `rule` and `would_block` where they
apply. The reasons of a verdict:

"""

DROPS_HEAD = """\
# Drop reasons

A packet that does not go on is counted under one of these names in `stats.drops`; none is dropped in silence. The
numbers 1 to 31 belong to the codec and are the same in `native/include/netstack.h`.

| number | name | meaning |
|---|---|---|
"""


def toml(value: Any) -> str:
    """A default as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "\n".join(f"{key} = {toml(item)}" for key, item in value.items())
    return f'"{value}"' if isinstance(value, str) else str(value)


def one_line(text: str) -> str:
    """A docstring as a table cell."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("``", "`")


def attribute_docs(module: ast.Module) -> dict[str, dict[str, str]]:
    """Class name -> field name -> the string that follows the field."""
    found: dict[str, dict[str, str]] = {}
    for cls in (node for node in module.body if isinstance(node, ast.ClassDef)):
        docs = found.setdefault(cls.name, {})
        for field, after in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                docs[field.target.id] = one_line(str(ast.literal_eval(after.value)))
    return found


def trailing_comments(path: Path, cls: str) -> list[tuple[str, str, str]]:
    """Name, value and trailing comment of each member of an enumeration."""
    text = path.read_text(encoding="utf-8").partition(f"class {cls}(")[2]
    body = re.split(r"\n(?=\S)", text)[0]
    pattern = re.compile(r"^    ([A-Z][A-Z0-9_]+) = (\S+)(?:  # (.*))?$", re.M)
    return [(name, value.strip('"'), one_line(comment or "")) for name, value, comment in pattern.findall(body)]


def type_name(hint: Any) -> str:
    """A type as a reader of TOML or JSON would say it."""
    plain = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if getattr(hint, "__origin__", None) is tuple:
        return f"list of {type_name(hint.__args__[0])}s"
    return plain.get(hint) or getattr(hint, "__name__", str(hint))


def configuration() -> str:
    """docs/configuration.md."""
    docs = attribute_docs(ast.parse((ROOT / "netstack" / "config.py").read_text(encoding="utf-8")))
    error = "netstack: wrong.toml: " + wrong_key()
    profile = "\n\n".join(f"[{table}]\n{toml(values)}" for table, values in config.SEED_PROFILE.items())
    parts = [CONFIG_HEAD.format(error=error, profile=profile)]
    parts.append(table_of("Top level", config.Config, docs["Config"], ""))
    for item in dataclasses.fields(config.Config):
        cls = get_type_hints(config.Config)[item.name]
        heading = f"[{item.name}]"
        if getattr(cls, "__origin__", None) is tuple and dataclasses.is_dataclass(cls.__args__[0]):
            cls, heading = cls.__args__[0], f"[[{item.name}]]"
        if dataclasses.is_dataclass(cls):
            parts.append(table_of(heading, cls, docs[cls.__name__], (cls.__doc__ or "").strip()))
    return "\n".join(parts)


def wrong_key() -> str:
    """What a misspelt key is answered."""
    try:
        config.make_config({"tcp": {"windw": 1}})
    except config.ConfigError as problem:
        return str(problem)
    raise AssertionError("a wrong key was accepted")


def table_of(title: str, cls: Any, docs: dict[str, str], intro: str) -> str:
    """One heading with its keys."""
    hints = get_type_hints(cls)
    rows = [f"## {title}", ""]
    if intro:
        rows += [one_line(intro), ""]
    rows += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for item in dataclasses.fields(cls):
        inner = getattr(hints[item.name], "__args__", [hints[item.name]])[0]
        if not dataclasses.is_dataclass(inner):
            cells = [f"`{item.name}`", type_name(hints[item.name]), f"`{toml(item.default)}`", docs.get(item.name, "")]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


def event_page() -> str:
    """docs/events.md."""
    parts = [EVENTS_HEAD + "| reason | meaning |\n|---|---|"]
    reasons = trailing_comments(ROOT / "netstack" / "core" / "verdict.py", "Reason")
    parts += [f"| `{value}` | {comment} |" for _, value, comment in reasons]
    for cls in kinds():
        parts += ["", f"## {cls.kind}", "", one_line(cls.__doc__ or ""), "", "| field | type |", "|---|---|"]
        parts += [f"| `{item.name}` | {shown(item.type)} |" for item in dataclasses.fields(cls)]
    return "\n".join(
        [*parts, "", "This page is made from `netstack/core/events.py` and `verdict.py` by `make docs`.", ""]
    )


def kinds() -> list[type[events.Event]]:
    """The event classes in the order of the module."""
    found = [value for value in vars(events).values() if isinstance(value, type)]
    return [cls for cls in found if issubclass(cls, events.Event) and cls is not events.Event]


def shown(annotation: Any) -> str:
    """An annotation, without the dots of its ellipsis."""
    return str(annotation).replace("|", "\\|").replace("tuple[str, ...]", "list of str")


def drops() -> str:
    """docs/drops.md."""
    members = trailing_comments(ROOT / "netstack" / "core" / "drops.py", "DropReason")
    rows = [f"| {value} | `{name.lower()}` | {comment} |" for name, value, comment in members]
    return DROPS_HEAD + "\n".join([*rows, "", "This page is made from `netstack/core/drops.py` by `make docs`.", ""])


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"configuration.md": configuration(), "events.md": event_page(), "drops.md": drops()}


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
