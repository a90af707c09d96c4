"""The documentation's own promises: its Python runs, its links lead somewhere, its settings exist."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from netstack.cli import COMMANDS, main
from netstack.config import make_config
from tests.house.source import ROOT, modules, parse, project_files

PAGES = [path for path in project_files() if path.suffix == ".md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


def fences(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


@pytest.mark.parametrize("example", fences(ROOT / "docs" / "testing.md", "python"))
def test_an_example_of_the_test_kit_runs(example: str) -> None:
    exec(compile(example, "docs/testing.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_python_and_toml_a_configuration(page: Path) -> None:
    for example in fences(page, "python"):
        compile(example, str(page), "exec")
    for example in fences(page, "toml"):
        make_config(tomllib.loads(example))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor[1:] in anchors(file), f"{page.name} links to {target}{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that a renderer makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    present = {path.stem for path in project_files() if path.parent == ROOT / "netstack" / "cli"}
    for command in COMMANDS:
        section = re.search(rf"^## {command}$(.*?)(?=^## |\Z)", page, re.M | re.S)
        assert (section is not None) == (command in present), command
        if section is not None:
            missing = options_of(command) - set(re.findall(r"--[a-z][a-z-]*", section[1] + shared_options(page)))
            assert not missing, f"{command}: {missing}"


def shared_options(page: str) -> str:
    """The section on options that several commands have."""
    return page.partition("## Options that several commands share")[2].partition("\n## ")[0]


def options_of(command: str) -> set[str]:
    """The long options of a command, from its help."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    importlib.import_module(f"netstack.cli.{command}").add_parser(subparsers)
    shown = subparsers.choices[command].format_help()
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]*)", shown, re.M)) - {"--help"}


def test_every_key_of_the_json_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert main(["replay", "--verify-streams", "--json", "-", str(ROOT / "examples" / "first-look.pcap")]) == 0
    assert keys_of(json.loads(capsys.readouterr().out)) - set(re.findall(r"\w+", page)) == set()


def keys_of(value: Any) -> set[str]:
    """Every key anywhere in plain JSON types; the keys of counters by name are documented elsewhere."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    inner = (keys_of(item) for key, item in value.items() if key != "drops")
    return set(value).union(*inner)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_method_that_is_named_exists(page: Path) -> None:
    known = members()
    for cls, name in re.findall(r"`(?:\w+\.)*([A-Z]\w+)\.([a-z_]\w*)\b", page.read_text(encoding="utf-8")):
        if cls in known:
            assert name in known[cls], f"{page.name}: {cls}.{name}"


@cache
def members() -> dict[str, set[str]]:
    """Class name -> its methods and attributes, those of its bases in the package included."""
    classes = [node for path in modules() for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
    own: dict[str, set[str]] = {}
    for cls in classes:
        names = own.setdefault(cls.name, set())
        names |= {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
        names |= {node.attr for node in ast.walk(cls) if isinstance(node, ast.Attribute)}
        names |= {
            node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
    for cls in classes:
        for base in cls.bases:
            own[cls.name] |= own.get(base.id, set()) if isinstance(base, ast.Name) else set()
    return own
