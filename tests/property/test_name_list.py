"""Compiled lists against a plain set of names, and against octets that no compiler wrote."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.dns.blocklist import ALLOWED, BLOCKED, ListError, NameList, labels_of
from netstack.dns.list_compile import compile_names
from netstack.dns.list_text import ALLOW, EXCEPTION, SELF, SUFFIX, UNDER, ListText

label = st.text("ab1-_", min_size=1, max_size=3) | st.from_regex(r"[a-z0-9_-]{1,63}", fullmatch=True)
name = st.lists(label, min_size=1, max_size=5).map(lambda labels: ".".join(labels).encode())
flags = st.sampled_from([SELF, UNDER, SUFFIX, SELF << ALLOW, EXCEPTION, SELF | EXCEPTION])


def naive(names: dict[bytes, int], asked: bytes) -> int:
    """What a list says, the slow way."""
    own = names.get(asked, 0)
    while b"." in asked:
        asked = asked.partition(b".")[2]
        own |= names.get(asked, 0) >> 1 & 5
    return (BLOCKED if own & SELF else 0) | (ALLOWED if own & SELF << ALLOW else 0)


@given(st.dictionaries(name, flags, max_size=40), st.lists(name, max_size=10), st.lists(label, max_size=2))
@settings(max_examples=150, deadline=None)
def test_a_compiled_list_says_what_a_set_of_names_says(
    names: dict[bytes, int], others: list[bytes], below: list[str]
) -> None:
    compiled = NameList(compile_names(names))
    assert len(compiled) == len(names) and compiled.verify()
    deeper = [b".".join([*(each.encode() for each in below), listed]) for listed in names]
    shallower = [listed.partition(b".")[2] or listed for listed in names]
    for asked in [*names, *others, *deeper, *shallower]:
        assert compiled.match(asked.split(b".")) == naive(names, asked), asked


def test_a_large_list_has_no_false_positive() -> None:
    dice = random.Random(5)
    tops = [b"com", b"net", b"co.uk", b"x-y.test"]
    letters = "abcdefgh01-"

    def made() -> bytes:
        labels = ["".join(dice.choices(letters, k=dice.randint(1, 7))) for _ in range(dice.randint(1, 3))]
        return ".".join(labels).encode() + b"." + dice.choice(tops)

    names = {made(): dice.choice([SELF, SUFFIX, EXCEPTION]) for _ in range(20_000)}
    compiled = NameList(compile_names(names))
    for asked in [*names, *(made() for _ in range(20_000))]:
        assert compiled.match(asked.split(b".")) == naive(names, asked), asked


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_octets_can_be_read_as_a_list(text: bytes) -> None:
    read = ListText()
    read.read(text)
    compiled = NameList(compile_names(read.names))
    for listed, said in read.names.items():
        assert compiled.match(listed.split(b".")) == naive(read.names, listed)
        assert said and listed == listed.lower()


LISTED = {b"ads.example.com": SUFFIX, b"a-b.example.net": SELF, b"x.y.z.test": UNDER, b"ok.example.com": EXCEPTION}
WHOLE = compile_names(LISTED)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_octet_is_noticed(at: int, change: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= change
    try:
        NameList(bytes(damaged), "list")
    except ListError as problem:
        assert str(problem).startswith("list: ")
    else:
        raise AssertionError(f"octet {at} may be anything")


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_file_is_noticed(size: int) -> None:
    try:
        NameList(WHOLE[:size], "list")
    except ListError:
        return
    raise AssertionError(f"{size} of {len(WHOLE)} octets pass")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_body_that_nobody_checked_does_no_harm(data: st.DataObject) -> None:
    body = len(WHOLE) - 200 if len(WHOLE) > 400 else len(WHOLE) // 2
    at = data.draw(st.integers(body, len(WHOLE) - 8))
    damaged = bytearray(WHOLE)
    damaged[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    try:
        unchecked = NameList(bytes(damaged), verify=False)
    except ListError:
        return
    for asked in LISTED:
        assert 0 <= unchecked.match(asked.split(b".")) <= 3


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=6))
def test_labels_of_any_octets_can_be_asked(labels: list[bytes]) -> None:
    wire = b"".join(bytes([len(each)]) + each for each in labels) + b"\0"
    if len(wire) > 255:
        return
    compiled = NameList(WHOLE)
    lower = [each.lower() for each in labels]
    assert labels_of(wire.lower()) == lower
    wanted = 0 if any(b"." in each for each in lower) else naive(LISTED, b".".join(lower))
    assert compiled.match(lower) == wanted
