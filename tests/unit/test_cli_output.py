"""A file that never holds up its writer: slow readers, readers that go away, full devices."""

import os

import pytest

from netstack.cli.output import PENDING_MOST, Output


def drain(fd):
    os.set_blocking(fd, False)
    taken = b""
    while True:
        try:
            piece = os.read(fd, 1 << 20)
        except BlockingIOError:
            return taken
        if not piece:
            return taken
        taken += piece


def test_a_regular_file_has_everything_at_once(tmp_path):
    path = tmp_path / "file"
    with Output.create(str(path)) as output:
        assert output.write("line\n") == 5
        output.write(b"\x00\xff")
        assert path.read_bytes() == b"line\n\x00\xff"
    output.close()


def test_a_path_that_cannot_be_made_is_an_error():
    with pytest.raises(OSError):
        Output.create("/nonexistent/file")


def test_a_slow_reader_gets_whole_records_and_holds_nobody_up():
    theirs, ours = os.pipe()
    output = Output(ours, "pipe")
    record = b"x" * 99_999 + b"\n"
    for _ in range(100):
        output.write(record)
    assert output.lost >= 100 - PENDING_MOST // len(record) - 1 > 0
    kept = b""
    while piece := drain(theirs):
        kept += piece
        output.flush()
    output.write("last\n")
    output.close()
    kept += drain(theirs)
    os.close(theirs)
    *lines, end = kept.decode().split("\n")
    assert end == "" and lines.pop() == "last"
    assert len(lines) == 100 - output.lost
    assert {len(line) for line in lines} == {99_999}


def test_a_reader_that_goes_away_ends_it_without_a_word(capsys):
    theirs, ours = os.pipe()
    output = Output(ours, "pipe")
    os.close(theirs)
    output.write("x")
    assert output.broken
    output.write("y")
    output.close()
    assert output.lost == 2
    assert capsys.readouterr().err == ""


def test_a_full_device_is_said_once(capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with Output.create("/dev/full") as output:
        output.write("x")
        output.write("y")
    assert capsys.readouterr().err == "netstack: /dev/full: No space left on device; nothing more is written to it\n"


def test_a_descriptor_of_others_stays_open(tmp_path):
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    Output(fd, "file", owned=False).close()
    os.close(fd)
