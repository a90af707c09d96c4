"""The lists in force: which files block, which allow, and how they are replaced while queries run.

Responsible for: allow before block, keeping the last good list when a file is damaged, opening only what changed.
Refuses to know: the files' formats (`blocklist`, `list_compile`), what is done with a blocked query (`rules`).

`Lists` is never changed once made. A reload makes another one, on any thread, and the owner then takes that in one
assignment: a query sees the old lists or the new ones, and none waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from netstack.core.record import recordclass
from netstack.dns.blocklist import ALLOWED, ListError, NameList, is_compiled
from netstack.dns.list_compile import load_list
from netstack.dns.ruleset import Step

Stamp = tuple[int, int, int, int]


@recordclass(frozen=True)
class Listed:
    """One list in force, and the state of its file when it was opened."""

    names: NameList
    stamp: Stamp
    compiled: bool  # a text may become anything, such a file stays one


@recordclass(frozen=True)
class Found:
    """A list decided: whether the name is allowed, and which file says so."""

    allowed: bool
    path: str


class Lists:
    """Block lists and allow lists together. Raises ListError naming the first file that cannot be used."""

    __slots__ = ("_allow", "_allow_lists", "_block", "_block_lists")

    def __init__(self, block: Iterable[str] = (), allow: Iterable[str] = ()) -> None:
        self._take([_open(path) for path in block], [_open(path) for path in allow])

    def _take(self, block: list[Listed], allow: list[Listed]) -> None:
        self._block, self._allow = block, allow
        self._block_lists = [each.names for each in block]
        self._allow_lists = [each.names for each in allow]

    def __bool__(self) -> bool:
        return bool(self._block or self._allow)

    def __len__(self) -> int:
        """Names in all lists."""
        return sum(len(each.names) for each in self._block + self._allow)

    def judge(self, labels: list[bytes]) -> Found | None:
        """What the lists say of a name, given as lower-case labels with the top level last. Allow wins."""
        for names in self._allow_lists:
            if names.match(labels):
                return Found(True, names.path)
        blocked = None
        for names in self._block_lists:
            said = names.match(labels)
            if said:
                if said & ALLOWED:
                    return Found(True, names.path)
                blocked = names
        return None if blocked is None else Found(False, blocked.path)

    def trace(self, labels: list[bytes], steps: list[Step]) -> Found | None:
        """As `judge`, with a step for each list."""
        for kind, lists in (("allow list", self._allow_lists), ("block list", self._block_lists)):
            for names in lists:
                said = names.match(labels)
                why = "exception" if said & ALLOWED and kind == "block list" else ""
                steps.append(Step(f"{kind} {names.path}", bool(said), why))
        return self.judge(labels)

    def following(self, block: Iterable[str], allow: Iterable[str]) -> tuple[Lists, list[str]]:
        """The lists of these files as they are now, and what is wrong with those whose last good content stays.

        Files that are in force already are opened again only where they changed. Raises ListError naming one that is
        not in force and cannot be used.
        """
        known = {each.names.path: each for each in (*self._block, *self._allow)}
        problems: list[str] = []

        def current(path: str) -> Listed:
            listed = known.get(path)
            return _open(path) if listed is None else _again(listed, problems)

        fresh = Lists()
        fresh._take([current(path) for path in block], [current(path) for path in allow])
        return fresh, problems

    def reloaded(self) -> tuple[Lists, list[str]]:
        """The lists as the files are now, and what is wrong with those whose last good content stays in force."""
        problems: list[str] = []
        fresh = Lists()
        fresh._take([_again(each, problems) for each in self._block], [_again(each, problems) for each in self._allow])
        return fresh, problems


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError as problem:
        raise ListError(f"{path}: cannot be read: {problem.strerror}") from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: str) -> Listed:
    stamp = _stamp(path)
    compiled = _is_compiled(path)
    names = load_list(path)
    if not compiled and not len(names) and _says_something(path):
        raise ListError(f"{path}: not a list: there is no name in it")
    return Listed(names, stamp, compiled)


def _is_compiled(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return is_compiled(file.read(16))
    except OSError as problem:
        raise ListError(f"{path}: cannot be read: {problem.strerror}") from None


def _says_something(path: str) -> bool:
    """True unless the file is empty but for comments: a damaged file must not pass for a list of nothing."""
    with open(path, "rb") as file:
        return any(line.strip() and line.lstrip()[:1] not in b"#![" for line in file.read(65_536).splitlines())


def _again(listed: Listed, problems: list[str]) -> Listed:
    try:
        stamp = _stamp(listed.names.path)
        if stamp == listed.stamp:
            return listed
        if listed.compiled and not _is_compiled(listed.names.path):
            raise ListError(f"{listed.names.path}: damaged list: it is no longer a compiled one")
        return _open(listed.names.path)
    except ListError as problem:
        problems.append(f"{problem} (the list of before stays in force)")
        return listed
