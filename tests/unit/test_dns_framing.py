"""Two octets of length in front of every message."""

from netstack.dns.framing import MessageReader, frame


def test_messages_come_out_however_the_stream_was_cut() -> None:
    messages = [b"one", b"", b"x" * 65_535, b"four"]
    stream = b"".join(frame(message) for message in messages)
    for step in (1, 3, 1000, len(stream)):
        if step == 1:
            stream_now, wanted = frame(b"one") + frame(b"") + frame(b"four"), [b"one", b"", b"four"]
        else:
            stream_now, wanted = stream, messages
        reader = MessageReader()
        seen = []
        for at in range(0, len(stream_now), step):
            reader.feed(stream_now[at : at + step])
            while (message := reader.next_message()) is not None:
                seen.append(message)
        assert seen == wanted
        assert len(reader) == 0


def test_an_incomplete_message_waits() -> None:
    reader = MessageReader()
    reader.feed(memoryview(b"\0\5ab"))
    assert reader.next_message() is None and len(reader) == 4
    reader.feed(b"cde")
    assert reader.next_message() == b"abcde"


def test_all_that_is_whole_comes_at_once_however_the_stream_was_cut() -> None:
    messages = [b"one", b"", b"x" * 700, b"four"]
    stream = b"".join(frame(message) for message in messages)
    for step in (1, 2, 3, 7, 100, len(stream)):
        reader = MessageReader()
        seen = []
        for at in range(0, len(stream), step):
            seen += reader.messages(stream[at : at + step])
        assert seen == messages and len(reader) == 0
    found = MessageReader().messages(memoryview(stream))
    assert found == messages and {type(message) for message in found} == {bytes}


def test_what_is_not_whole_is_kept_whichever_way_it_is_read() -> None:
    reader = MessageReader()
    assert reader.messages(frame(b"one") + b"\0\5ab") == [b"one"] and len(reader) == 4
    assert reader.messages(memoryview(b"cd")) == [] and reader.messages(b"") == []
    reader.feed(b"e")
    assert reader.next_message() == b"abcde" and len(reader) == 0
