"""DNS messages as far as they can be read."""

import struct

import pytest

from netstack.capture.dns import MessageFraming, read_message, read_name
from tests.made_captures import answer, name, query


def test_a_query():
    message = read_message(query(0x1234, "www.example.test", 28))
    assert (message.id, message.response, message.queries) == (0x1234, False, [("www.example.test", 28)])
    assert message.counts == (1, 0, 0, 0) and not message.broken


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7"])
def test_an_answer(address):
    message = read_message(answer(1, "www.example.test", address, ttl=77))
    [record] = message.answers
    assert (record.name, record.ttl, record.value) == ("www.example.test", 77, address)


def test_an_alias():
    head = struct.pack("!HHHHHH", 1, 0x8180, 1, 1, 0, 0) + name("a.test") + b"\0\1\0\1"
    rdata = b"\x01b\xc0\x0e"  # b. + test
    message = read_message(head + b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 9, len(rdata)) + rdata)
    assert message.answers[0].value == "b.test"


def test_a_broken_message_is_told_up_to_where_it_breaks():
    whole = answer(1, "www.example.test", "203.0.113.7")
    for cut in range(4, len(whole)):
        message = read_message(whole[:cut])
        assert message.broken and message.id == 1
        assert len(message.answers) == (cut >= len(whole) - 4)
    assert read_message(whole[:3]) is None


@pytest.mark.parametrize(
    ("octets", "text", "behind"),
    [
        (b"\0", "<Root>", 1),
        (b"\xc0\0", "<Name contains a pointer that loops>", 2),
        (b"\x41\x08", "<Unknown extended label>", 1),
        (b"\x80\x08", "", -1),
        (b"\x05abc", "", -1),
        (b"\x03a\x04b\0", "a\\004b", 5),
        (b"\x03a\xffb\0", "a\ufffdb", 5),
        (b"\x3f" + b"x" * 63 + b"\xc0\0", "<Name too long>", 66),
    ],
)
def test_odd_names(octets, text, behind):
    assert read_name(octets, 0) == (text, behind)


def test_counts_larger_than_the_message_end_with_it():
    message = read_message(struct.pack("!HHHHHH", 1, 0x8180, 65535, 65535, 0, 0) + b"\0\0\1\0\1")
    assert len(message.queries) == 1 and message.broken


def test_framing_over_tcp():
    framing = MessageFraming()
    first, second = query(1, "a.test"), query(2, "b.test")
    stream = b"".join(len(m).to_bytes(2, "big") + m for m in (first, second))
    got = [message for octet in stream for message in framing.feed(bytes((octet,)))]
    assert got == [first, second]
    framing.feed(stream[:5])
    framing.lost()
    assert framing.feed(stream) == [first, second]
