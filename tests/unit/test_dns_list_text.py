"""Lines of lists as people write them."""

import pytest

from netstack.dns.list_text import ALLOW, EXCEPTION, SELF, SUFFIX, UNDER, ListText


def read(text: str) -> ListText:
    lists = ListText()
    lists.read(text.encode(), source="x")
    return lists


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("ads.example.com", {"ads.example.com": SUFFIX}),
        ("ADS.Example.COM.", {"ads.example.com": SUFFIX}),
        ("  ads.example.com   # why", {"ads.example.com": SUFFIX}),
        ("*.example.com", {"example.com": UNDER}),
        (".example.com", {"example.com": SUFFIX}),
        ("0.0.0.0 ads.example.com", {"ads.example.com": SELF}),
        ("127.0.0.1\tads.example.com # x", {"ads.example.com": SELF}),
        (":: a.test", {"a.test": SELF}),
        ("0.0.0.0 a.test b.test c.test", {"a.test": SELF, "b.test": SELF, "c.test": SELF}),
        ("127.0.0.1 localhost", {}),
        ("127.0.0.1 localhost localhost.localdomain", {}),
        ("0.0.0.0 0.0.0.0", {}),
        ("||ads.example.com^", {"ads.example.com": SUFFIX}),
        ("||ads.example.com", {"ads.example.com": SUFFIX}),
        ("||*.example.com^", {"example.com": UNDER}),
        ("||ads.example.com^$important", {"ads.example.com": SUFFIX}),
        ("@@||ok.example.com^", {"ok.example.com": EXCEPTION}),
        ("@@||ok.example.com^|", {"ok.example.com": EXCEPTION}),
        ("@@||*.ok.example.com^", {"ok.example.com": UNDER << ALLOW}),
        ("_dmarc.a-b.test", {"_dmarc.a-b.test": SUFFIX}),
        ("bücher.example", {"xn--bcher-kva.example": SUFFIX}),
        ("||bücher.example^", {"xn--bcher-kva.example": SUFFIX}),
        ("# a comment", {}),
        ("! a comment", {}),
        ("[Adblock Plus 2.0]", {}),
        ("", {}),
    ],
)
def test_a_line_is_read(line: str, names: dict[str, int]) -> None:
    lists = read(line)
    assert lists.names == {name.encode(): flags for name, flags in names.items()}
    assert lists.skipped == 0


@pytest.mark.parametrize(
    "line",
    [
        "||ads.example.com^$third-party", "||example.com/ads/*", "||ads*.example.com^", "example.com##.banner",
        "##.banner", "/banner[0-9]+/", "1.2.3.4", "0.0.0.0 1.2.3.4", "192.0.2.1 nas.test", "a..b.test", "-",
        "a b c",
        "x" * 64 + ".test", ".".join(["abcdefgh"] * 30), "http://example.com/", "@@||a.test^$script", "-----",
        "a.test:53", "x.1", "0.0.0.0 x.1",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_done_is_skipped_and_counted(line: str) -> None:
    lists = read(f"a.test\n{line}\n")
    assert lists.names == {b"a.test": SUFFIX}
    assert lists.skipped == 1 and lists.shown[0].startswith("x:2: ")


def test_lines_end_in_any_way_and_a_mark_of_order_is_no_name() -> None:
    lists = ListText()
    lists.read(b"\xef\xbb\xbfa.test\r\nb.test\rc.test\n")
    assert sorted(lists.names) == [b"a.test", b"b.test", b"c.test"]


def test_what_several_lines_say_of_a_name_adds_up() -> None:
    lists = read("0.0.0.0 a.test\n*.a.test\n@@||a.test^\n")
    assert lists.names == {b"a.test": SUFFIX | EXCEPTION}


def test_only_the_first_skipped_lines_are_kept() -> None:
    lists = read("/x/\n" * 100)
    assert lists.skipped == 100 and len(lists.shown) == 5
