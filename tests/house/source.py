"""What the house tests read: the project's own files, as git sees them.

Responsible for: listing files and parsing modules once. Refuses to know: any rule.
"""

from __future__ import annotations

import ast
import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "netstack"
MADE = {"build", "dist", "__pycache__", "_native.c"}
KEPT = {".ci", ".gitignore"}


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that git tracks or would track; in an export without git, every file outside build directories."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return tuple(path for path in walk(ROOT) if path.is_file())
    return tuple(path for name in names.split(b"\0") if name and (path := ROOT / os.fsdecode(name)).is_file())


def walk(directory: Path) -> list[Path]:
    """All paths below `directory` but what tools made: hidden directories (other than .ci) and build products."""
    return sorted(path for path in directory.rglob("*") if not any(map(is_made, path.relative_to(directory).parts)))


def is_made(part: str) -> bool:
    """True for a part of a path that no author wrote."""
    return part in MADE or part.endswith((".egg-info", ".so", ".o")) or (part[0] == "." and part not in KEPT)


@cache
def modules() -> tuple[Path, ...]:
    """Every Python file of the package, relative to the root."""
    return tuple(sorted(path.relative_to(ROOT) for path in project_files() if is_module(path)))


def is_module(path: Path) -> bool:
    """True for a Python file of the package."""
    return path.suffix == ".py" and PACKAGE in path.parents


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file given relative to the root."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imported_names(tree: ast.Module, package: str) -> list[tuple[str, int]]:
    """Absolute dotted names that a module of `package` imports anywhere, with their lines.

    ``from a import b`` gives ``a.b``, so that a sub-package imported by its parent's name is seen.
    """
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found
