"""Rules that hold for every file, whatever it does.

The words that are looked for are put together here, so that this file does not contain them itself.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house.source import ROOT, imported_names, modules, parse, project_files, walk

LONGEST = 600
REAL_TIME = {
    "tests/unit/test_runtime_asyncio_guest.py": "asyncio's own timers are what is tested",
    "tests/unit/test_runtime_live.py": "drives the wall-clock runtime itself",
}
"""Tests outside tests/interop that may wait, each with the reason."""

CODE = {".py", ".c", ".h", ".m", ".java", ".sh"}
TEXT = CODE | {".md", ".toml", ".xml", ".cfg", ".txt", ".yml", ".yaml", ".json", ".kv", ".spec", ".gradle", ""}

DIRECTORIES = ("wo" + "rk", "ro" + "ot", "op" + "t")
MACHINE_PATH = re.compile(rf"(?<![\w.\-/}}$*])/(?:{'|'.join(DIRECTORIES)})/|/ho" + r"me/\w")
REGISTRIES = tuple(
    f"{host}.{domain}"
    for host, domain in [
        ("py" + "pi", "org"),
        ("python" + "hosted", "org"),
        ("registry." + "npmjs", "org"),
        ("repo1." + "maven", "org"),
        ("repo." + "maven", "apache.org"),
        ("deb." + "debian", "org"),
        ("proxy." + "golang", "org"),
        ("crates", "io"),
        ("docker", "io"),
    ]
)
UNFINISHED = re.compile(
    "|".join([r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bX" + r"XX\b", "not imple" + "mented"]),
    re.I,
)


def text_files() -> list[Path]:
    return [path for path in project_files() if path.suffix in TEXT and path.name != "LICENSE"]


def lines_with(found: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if found.search(line)
    ]


def test_no_file_names_a_place_on_one_machine() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_no_file_names_a_package_registry() -> None:
    assert lines_with(re.compile("|".join(map(re.escape, REGISTRIES)))) == []


def test_nothing_is_left_unfinished() -> None:
    assert lines_with(UNFINISHED) == []


def test_no_code_file_is_too_long_to_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in project_files()
        if path.suffix in CODE
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


@pytest.mark.parametrize("path", modules(), ids=str)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(parse(path)) or ""
    if path.name in ("__init__.py", "__main__.py"):
        assert len(docstring) > 40
    else:
        assert "Responsible for" in docstring


@pytest.mark.parametrize("path", modules(), ids=str)
def test_the_library_does_not_print(path: Path) -> None:
    if path.parts[1] in ("cli", "__main__.py"):
        return
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [node.lineno for node in calls if node.func.id in ("print", "breakpoint", "input")] == []


def test_only_interop_tests_wait() -> None:
    tests = [path.relative_to(ROOT) for path in project_files() if ROOT / "tests" in path.parents]
    waiting = []
    for path in tests:
        if path.suffix == ".py" and path.parts[1] != "interop" and str(path) not in REAL_TIME:
            waiting += [f"{path}:{line}" for line in sleeps(parse(path))]
    assert waiting == []


def sleeps(tree: ast.Module) -> list[int]:
    """Lines that import or call a real `sleep`."""
    found = [line for name, line in imported_names(tree, "tests") if name in ("time.sleep", "asyncio.sleep")]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found += [
        func.lineno
        for func in calls
        if isinstance(func, ast.Attribute)
        and func.attr == "sleep"
        and isinstance(func.value, ast.Name)
        and func.value.id in ("time", "asyncio")
    ]
    return found


def test_the_patterns_find_what_they_look_for() -> None:
    for directory in DIRECTORIES:
        assert MACHINE_PATH.search(f'open("/{directory}/main/x")')
        assert not MACHINE_PATH.search(f"https://example.com/{directory}/x")
    assert UNFINISHED.search("# to" + "do: later")
    assert not UNFINISHED.search("photodocument")
    assert sleeps(ast.parse("import time\ntime.sleep(1)")) == [2]


def test_without_git_the_same_files_are_found(tmp_path: Path) -> None:
    for name in (
        "a.py",
        ".ci/run",
        ".venv/lib/b.py",
        ".hypothesis/c",
        "build/d.c",
        "x.egg-info/PKG-INFO",
        "n/__pycache__/e.pyc",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [str(path.relative_to(tmp_path)) for path in walk(tmp_path) if path.is_file()] == [".ci/run", "a.py"]
