"""Classic pcap: byte orders, resolutions, damage."""

import gzip
import io
import struct

import pytest

from netstack.core.errors import CaptureError
from netstack.link.pcap import PcapWriter, read_capture, read_frames

MAGICS = {
    "little, us": ("<", b"\xd4\xc3\xb2\xa1", 1000),
    "big, us": (">", b"\xa1\xb2\xc3\xd4", 1000),
    "little, ns": ("<", b"\x4d\x3c\xb2\xa1", 1),
    "big, ns": (">", b"\xa1\xb2\x3c\x4d", 1),
}


def written(order="<", magic=b"\xd4\xc3\xb2\xa1", records=((5, 6, b"abc", 9),), network=101):
    octets = magic + struct.pack(order + "HHiIII", 2, 4, 0, 0, 65535, network)
    for seconds, fraction, data, length in records:
        octets += struct.pack(order + "IIII", seconds, fraction, len(data), length) + data
    return octets


def read(octets):
    return list(read_frames(io.BytesIO(octets), "made.pcap"))


@pytest.mark.parametrize(("order", "magic", "unit"), MAGICS.values(), ids=MAGICS)
def test_all_magics(order, magic, unit):
    [frame] = read(written(order, magic))
    assert (frame.number, frame.time_ns, frame.data, frame.length) == (1, 5_000_000_000 + 6 * unit, b"abc", 9)
    assert frame.snapped
    assert frame.linktype == 101


def test_frame_check_sequence_bits_are_not_the_link_type():
    assert read(written(network=0x4400_0001))[0].linktype == 1


def test_old_files_have_lengths_swapped():
    octets = b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 2, 2, 0, 0, 65535, 1)
    [frame] = read(octets + struct.pack("<IIII", 0, 0, 9, 3) + b"abc")
    assert (frame.data, frame.length) == (b"abc", 9)


def test_writer_and_reader_agree():
    file = io.BytesIO()
    writer = PcapWriter(file, linktype=1)
    writer.write(b"one", 1_700_000_000_123_456_789)
    writer.write(b"", 1_700_000_001_000_000_000, "no place for this")
    writer.flush()
    first, second = read(file.getvalue())
    assert (first.data, first.time_ns, first.linktype) == (b"one", 1_700_000_000_123_456_789, 1)
    assert second.data == b"" and not second.snapped


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"", "the file is empty, at offset 0"),
        (b"hello world", "neither pcap nor pcapng"),
        (written()[:10], "ends inside the file header"),
        (written() + b"\0" * 7, "ends inside a record header (7 of 16 octets), at offset 43"),
        (written() + struct.pack("<IIII", 0, 0, 100, 100) + b"x", "ends inside record 2 (1 of 100 octets)"),
        (written() + struct.pack("<IIII", 0, 0, 1 << 30, 100), "record 2 claims 1073741824 octets, at offset 43"),
        (b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 9, 4, 0, 0, 0, 1), "version 9.4"),
    ],
)
def test_damage_names_file_and_offset(octets, words):
    with pytest.raises(CaptureError) as caught:
        read(octets)
    assert str(caught.value).startswith("made.pcap: ")
    assert words in str(caught.value)


def test_what_came_before_damage_stays():
    frames = []
    with pytest.raises(CaptureError):
        for frame in read_frames(io.BytesIO(written() + b"\0"), "x"):
            frames.append(frame)
    assert [frame.data for frame in frames] == [b"abc"]


def test_files_are_opened_packed_or_not(tmp_path):
    plain, packed = tmp_path / "a.pcap", tmp_path / "a.pcap.gz"
    plain.write_bytes(written())
    packed.write_bytes(gzip.compress(written()))
    assert [frame.data for frame in read_capture(str(plain))] == [frame.data for frame in read_capture(str(packed))]


def test_damaged_archives_and_missing_files(tmp_path):
    packed = tmp_path / "a.pcap.gz"
    packed.write_bytes(gzip.compress(written())[:-12])
    with pytest.raises(CaptureError, match=r"a\.pcap\.gz"):
        list(read_capture(str(packed)))
    with pytest.raises(CaptureError, match="nowhere: cannot open: No such file"):
        list(read_capture("nowhere"))
