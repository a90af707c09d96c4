"""Compiled lists, opened and asked."""

import gc
from pathlib import Path

import pytest

from netstack.dns.blocklist import (
    ALLOWED,
    BLOCKED,
    HEADER,
    MAGIC,
    ListError,
    NameList,
    is_compiled,
    label_bits,
    label_number,
    labels_of,
    multiplier,
    open_list,
)
from netstack.dns.list_compile import compile_files, compile_names, write_list
from netstack.dns.list_text import EXCEPTION, SELF, SUFFIX, UNDER

NAMES = {b"ads.example.com": SUFFIX, b"host.example.com": SELF, b"under.test": UNDER, b"ok.ads.example.com": EXCEPTION}


def match(name: str, names: dict[bytes, int] = NAMES) -> int:
    return NameList(compile_names(names)).match(name.encode().split(b"."))


def test_a_domain_covers_what_is_below_it_and_a_host_does_not() -> None:
    assert match("ads.example.com") == match("x.y.ads.example.com") == BLOCKED
    assert match("host.example.com") == BLOCKED and match("x.host.example.com") == 0
    assert match("under.test") == 0 and match("x.under.test") == match("y.x.under.test") == BLOCKED
    assert match("example.com") == match("com") == match("badads.example.com") == match("ads.example.org") == 0


def test_an_exception_shows_beside_the_block() -> None:
    assert match("ok.ads.example.com") == match("x.ok.ads.example.com") == BLOCKED | ALLOWED
    names = NameList(compile_names(NAMES))
    assert names.has_exceptions and not names.blocks("ok.ads.example.com") and names.blocks("Ads.Example.Com.")


@pytest.mark.parametrize("label", [b"a_b", b"ab", b"a-b", b"a b", b"ab ", b"\xffab", b"ab\0", b"1", b"0", b"00", b"-0"])
def test_no_label_is_taken_for_another(label: bytes) -> None:
    others = [b"a_b", b"ab", b"a-b", b"aab", b"1", b"01", b"0", b"00", b"000", b"-", b"_", b"-0", b"0-"]
    for other in others:
        assert bool(match_labels([label, b"test"], {other + b".test": SELF})) == (label == other)


def match_labels(labels: list[bytes], names: dict[bytes, int]) -> int:
    return NameList(compile_names(names)).match(labels)


def test_text_that_is_no_name_is_not_blocked() -> None:
    names = NameList(compile_names({b"aaaaaa.test": SUFFIX}))
    assert names.blocks("aaaaaa.test.")
    for text in ("", ".", "..", "a" * 70 + ".test", "aaaaaa..test", ".aaaaaa.test"):
        assert not names.blocks(text)


def test_a_number_is_a_label_and_fits_its_bits() -> None:
    seen = {}
    for label in (b"a", b"z" * 63, b"0", b"a-", b"_" * 63, b"-" * 5, b"\xff" * 63, b"a b"):
        alphabet, number = label_number(label)
        assert number < 1 << label_bits(alphabet, len(label))
        assert seen.setdefault((alphabet, len(label), number), label) == label


@pytest.mark.parametrize("bits", [1, 2, 5, 40, 64, 400])
def test_a_multiplier_is_odd_and_fits(bits: int) -> None:
    factors = [multiplier(bits, seed) for seed in range(8)]
    assert all(factor & 1 and factor < 1 << bits for factor in factors)
    assert bits < 20 or len(set(factors)) == 8


def refused(data: bytes) -> str:
    with pytest.raises(ListError) as problem:
        NameList(data, "some/list")
    assert str(problem.value).startswith("some/list: ")
    return str(problem.value)


def test_another_version_is_refused_by_name() -> None:
    data = bytearray(compile_names(NAMES))
    data[len(MAGIC)] = 0
    assert "compiled list of version 0, 1 is wanted" in refused(bytes(data))


def test_what_is_damaged_is_refused_by_name() -> None:
    data = compile_names(NAMES)
    assert "not a compiled list" in refused(b"")
    assert "not a compiled list" in refused(b"0.0.0.0 ads.example.com\n" * 10)
    assert "octets" in refused(data[:-1]) and "octets" in refused(data + b"\0")
    assert "wrong checksum of the header" in refused(data[: HEADER.size] + b"\xff" + data[HEADER.size + 1 :])
    assert "wrong checksum" in refused(data[:-1] + bytes([data[-1] ^ 1]))


def test_the_body_may_be_checked_later() -> None:
    data = compile_names(NAMES)
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    assert NameList(data, verify=False).verify()
    assert not NameList(damaged, verify=False).verify()


def test_a_file_is_mapped_and_can_be_given_back(tmp_path: Path) -> None:
    path = str(tmp_path / "list")
    write_list(compile_names(NAMES), path)
    names = open_list(path)
    assert names.blocks("ads.example.com") and names.path == path and names.octets == (tmp_path / "list").stat().st_size
    names.close()
    for wrong in (tmp_path / "empty", tmp_path / "none"):
        if wrong.name == "empty":
            wrong.touch()
        with pytest.raises(ListError, match=f"{wrong.name}: cannot be read"):
            open_list(str(wrong))


def test_no_object_for_each_name(tmp_path: Path) -> None:
    write_list(compile_names({b"n%d.test" % number: SUFFIX for number in range(20_000)}), str(tmp_path / "list"))
    gc.collect()
    before = len(gc.get_objects())
    names = open_list(str(tmp_path / "list"))
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert names.blocks("n7.test")


def test_labels_and_files_are_recognised() -> None:
    assert labels_of(b"\x03www\x01a\0") == [b"www", b"a"] and labels_of(b"\0") == []
    assert is_compiled(compile_names({})) and not is_compiled(b"# hosts")


@pytest.mark.parametrize("damage", ["cut", "overwritten", "emptied"])
def test_what_is_written_into_a_file_in_force_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "names.nsl"
    text = tmp_path / "names.txt"
    text.write_text("".join(f"host{number}.example\n" for number in range(20_000)))
    write_list(compile_files([str(text)])[0], str(path))
    names = open_list(str(path))
    with path.open("r+b") as file:
        if damage == "overwritten":
            file.write(b"\xff" * path.stat().st_size)
        else:
            file.truncate(4096 if damage == "cut" else 0)
    assert all(names.blocks(f"host{number}.example") for number in range(0, 20_000, 97))
    assert not names.blocks("another.example")


def test_without_a_place_for_a_copy_the_file_itself_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "names.nsl"
    text = tmp_path / "names.txt"
    text.write_text("one.example\n")
    write_list(compile_files([str(text)])[0], str(path))

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("netstack.dns.blocklist.nameless_file", full)
    assert open_list(str(path)).blocks("one.example")
