"""Several lists in force together, and their replacement."""

from pathlib import Path

import pytest

from netstack.dns.blocklist import ListError
from netstack.dns.list_compile import compile_files, write_list
from netstack.dns.lists import Found, Lists
from netstack.dns.ruleset import Step


def said(lists: Lists, name: str) -> bool | None:
    """True allowed, False blocked, None nothing."""
    found = lists.judge(name.encode().split(b"."))
    return None if found is None else found.allowed


def write(path: Path, text: str, *, compiled: bool = False) -> str:
    path.write_text(text)
    if compiled:
        write_list(compile_files([str(path)])[0], str(path))
    return str(path)


def test_allow_wins_over_block_and_an_exception_over_every_list(tmp_path: Path) -> None:
    block = write(tmp_path / "b", "ads.test\n")
    other = write(tmp_path / "o", "||ads.test^\n@@||fine.ads.test^\n", compiled=True)
    allow = write(tmp_path / "a", "0.0.0.0 good.ads.test\n")
    lists = Lists([block, other], [allow])
    assert said(lists, "ads.test") is said(lists, "x.ads.test") is False
    assert said(lists, "good.ads.test") is said(lists, "fine.ads.test") is True
    assert said(lists, "x.good.ads.test") is False and said(lists, "test") is None
    assert lists.judge([b"good", b"ads", b"test"]) == Found(True, allow)
    assert len(lists) == 4 and lists and not Lists()


def test_a_trace_names_every_list(tmp_path: Path) -> None:
    block, allow = write(tmp_path / "b", "ads.test\n@@||x.ads.test^\n"), write(tmp_path / "a", "good.test\n")
    steps: list[Step] = []
    assert Lists([block], [allow]).trace([b"x", b"ads", b"test"], steps) == Found(True, block)
    assert [str(step) for step in steps] == [f"- allow list {allow}", f"+ block list {block}: exception"]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_damaged_file_is_refused_by_name_and_the_last_good_one_stays(tmp_path: Path, compiled: bool) -> None:
    path = tmp_path / "list"
    write(path, "one.test\n", compiled=compiled)
    lists = Lists([str(path)])
    damaged = tmp_path / "damaged"
    write(damaged, "two.test\n", compiled=True)
    octets = bytearray(damaged.read_bytes())
    octets[-1] ^= 0xFF
    damaged.write_bytes(octets)
    damaged.replace(path)
    same, problems = lists.reloaded()
    assert len(problems) == 1 and problems[0].startswith(f"{path}: damaged list") and "stays in force" in problems[0]
    assert said(same, "one.test") is False and said(same, "two.test") is None
    path.unlink()
    same, problems = same.reloaded()
    assert "cannot be read" in problems[0] and said(same, "one.test") is False
    write(path, "three.test\n", compiled=compiled)
    fresh, problems = same.reloaded()
    assert problems == [] and said(fresh, "three.test") is False and said(fresh, "one.test") is None
    assert said(lists, "one.test") is False, "who holds the old lists is not disturbed"
    with pytest.raises(ListError, match="none: cannot be read"):
        Lists([str(tmp_path / "none")])


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    lists = Lists([write(tmp_path / "b", "a.test\n")])
    again, problems = lists.reloaded()
    assert problems == [] and again._block[0] is lists._block[0]


def test_a_compiled_list_that_is_no_octet_long_now_is_damaged_and_an_emptied_text_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write(path, "one.test\n", compiled=True)
    lists = Lists([str(path)])
    (tmp_path / "empty").touch()
    (tmp_path / "empty").replace(path)
    same, problems = lists.reloaded()
    assert problems == [f"{path}: damaged list: it is no longer a compiled one (the list of before stays in force)"]
    assert said(same, "one.test") is False
    write(path, "one.test\n")
    text = Lists([str(path)])
    path.write_bytes(b"")
    nothing, problems = text.reloaded()
    assert not problems and said(nothing, "one.test") is None


def test_a_list_of_nothing_is_one_in_either_form(tmp_path: Path) -> None:
    for compiled in (False, True):
        path = write(tmp_path / "list", "# nothing yet\n", compiled=compiled)
        assert said(Lists([path]), "one.test") is None


def test_a_compiled_list_that_became_a_text_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write(path, "one.test\n", compiled=True)
    lists = Lists([str(path)])
    path.write_text("junk\n")
    same, problems = lists.reloaded()
    assert len(problems) == 1 and "no longer a compiled one" in problems[0]
    assert said(same, "one.test") is False and said(same, "junk") is None
