"""Making compiled lists."""

import mmap
import os
from pathlib import Path

import pytest

from netstack.dns.blocklist import BLOCKED, ListError, NameList, open_list
from netstack.dns.list_compile import compile_files, compile_names, load_list, write_list
from netstack.dns.list_text import SELF, SUFFIX


def test_several_files_become_one_list(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("0.0.0.0 a.test\n")
    (tmp_path / "domains").write_text("b.test\n/x/\n")
    data, text = compile_files([str(tmp_path / "hosts"), str(tmp_path / "domains")])
    names = NameList(data)
    assert len(names) == 2 and text.skipped == 1
    assert [names.blocks(name) for name in ("a.test", "x.a.test", "b.test", "x.b.test")] == [True, False, True, True]


def test_the_same_names_make_the_same_file() -> None:
    one = {b"a.test": SUFFIX, b"b.test": SELF}
    assert compile_names(one) == compile_names(dict(reversed(one.items())))


def test_what_is_no_list_is_refused_by_name(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html>\n<body class='x'>\n<p>not found</p>\n</body>\n</html>\n")
    with pytest.raises(ListError, match=r"page\.html: not a list of names"):
        compile_files([str(page)])
    with pytest.raises(ListError, match=r"none: cannot be read: No such file"):
        load_list(str(tmp_path / "none"))
    with pytest.raises(ListError, match=r"none: cannot be read"):
        compile_files([str(tmp_path / "none")])


def test_a_compiled_list_is_not_compiled_again(tmp_path: Path) -> None:
    write_list(compile_names({b"a.test": SUFFIX}), str(tmp_path / "c"))
    with pytest.raises(ListError, match="compiled already"):
        compile_files([str(tmp_path / "c")])


def test_writing_replaces_the_file_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "list")
    write_list(compile_names({b"a.test": SUFFIX}), path)
    old = open_list(path)
    write_list(compile_names({b"b.test": SUFFIX}), path)
    assert old.verify() and old.blocks("a.test") and not old.blocks("b.test")
    assert open_list(path).blocks("b.test")
    assert [each.name for each in tmp_path.iterdir()] == ["list"]
    with pytest.raises(ListError, match="cannot be written"):
        write_list(b"", str(tmp_path / "no" / "list"))


def test_load_takes_text_and_compiled_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a.test\n")
    write_list(compile_files([str(tmp_path / "text")])[0], str(tmp_path / "compiled"))
    for kind in ("text", "compiled"):
        assert load_list(str(tmp_path / kind)).match([b"x", b"a", b"test"]) == BLOCKED


def test_a_large_text_is_kept_in_a_file_and_without_a_place_for_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("\n".join(f"name-{number}.test" for number in range(40_000)))
    kept = load_list(str(tmp_path / "text"))
    assert isinstance(kept._data, mmap.mmap) and kept.blocks("name-7.test") and kept.verify()
    monkeypatch.setattr("netstack.dns.list_compile.nameless_file", (tmp_path / "no" / "place").open)
    kept = load_list(str(tmp_path / "text"))
    assert isinstance(kept._data, bytes) and kept.blocks("name-7.test")


def test_an_empty_list_blocks_nothing() -> None:
    names = NameList(compile_names({}))
    assert len(names) == 0 and not names.blocks("a.test") and not names.blocks(".")


def test_names_that_are_chosen_to_crowd_one_place_are_spread() -> None:
    names = {b"%04d.test" % number: SUFFIX for number in range(10_000)}
    names |= {b"a.%d.b-c.test" % number: SELF for number in range(3_000)}
    compiled = NameList(compile_names(names))
    assert all(compiled.match(name.split(b".")) == BLOCKED for name in names)
    assert compiled.octets < 15 * len(names)


def test_a_larger_text_is_compiled_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("\n".join(f"name-number-{number}.test" for number in range(60_000)))
    here = []

    def compile_here(paths):  # type: ignore[no-untyped-def]
        here.extend(paths)
        return compile_files(paths)

    monkeypatch.setattr("netstack.dns.list_compile.compile_files", compile_here)
    kept = load_list(str(tmp_path / "text"))
    assert here == [] and kept.blocks("name-number-59999.test") and kept.verify() and len(kept) == 60_000
    monkeypatch.setattr("sys.executable", "/usr/bin/some-app")
    assert load_list(str(tmp_path / "text")).blocks("name-number-7.test") and len(here) == 1


def test_what_is_wrong_with_a_larger_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("/no/list/at/all?\n" * 100_000)
    with pytest.raises(ListError, match="not a list of names"):
        load_list(str(tmp_path / "text"))


def test_a_compiled_list_whose_first_octet_is_damaged_does_not_pass_for_a_text(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    octets = compile_names({b"ads.test": SUFFIX})
    damaged.write_bytes(b"?" + octets[1:] + b"\na\n")  # in much of anything there are lines that look like a name
    with pytest.raises(ListError, match=f"^{damaged}: not a list: octets of zero in it"):
        load_list(str(damaged))


def test_what_is_not_a_file_is_not_replaced_by_one_and_a_link_stays_a_link(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ListError, match=f"^{pipe}: cannot be written: not a file"):
        write_list(compile_names({b"ads.test": SUFFIX}), str(pipe))
    assert pipe.is_fifo()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_list(compile_names({b"ads.test": SUFFIX}), str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink() and load_list(str(tmp_path / "file")).blocks("ads.test")
