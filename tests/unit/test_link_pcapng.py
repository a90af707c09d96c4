"""pcapng: sections, interfaces, resolutions, every packet block, damage."""

import io
import struct

import pytest

from netstack.core.errors import CaptureError
from netstack.link.pcap import read_frames
from netstack.link.pcapng import PcapngWriter


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order="<"):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def option(order, code, value):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(order="<", linktype=101, snaplen=0, options=b""):
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options)


def enhanced(order="<", which=0, ticks=0, data=b"abc", length=None):
    length = len(data) if length is None else length
    fields = struct.pack(order + "IIIII", which, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length)
    return block(order, 6, fields + data + bytes(-len(data) % 4) + option(order, 1, b"a comment"))


def read(*blocks):
    return list(read_frames(io.BytesIO(b"".join(blocks)), "made.pcapng"))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("options", "ticks", "time_ns"),
    [
        ([], 1_500_000, 1_500_000_000),
        ([(9, b"\x09")], 1_500_000_001, 1_500_000_001),
        ([(9, b"\x03")], 1500, 1_500_000_000),
        ([(9, b"\x8a")], 1536, 1_500_000_000),  # 2**-10 seconds
        ([(9, b"\x06"), (14, None)], 1_500_000, 101_500_000_000),
    ],
)
def test_time_stamps(order, options, ticks, time_ns):
    described = b"".join(
        option(order, code, struct.pack(order + "q", 100) if value is None else value) for code, value in options
    )
    [frame] = read(section(order), interface(order, options=described), enhanced(order, ticks=ticks))
    assert frame.time_ns == time_ns


def test_several_interfaces_and_sections():
    frames = read(
        section(), interface(linktype=1), interface(linktype=113), enhanced(which=1), enhanced(which=0),
        section(">"), interface(">", linktype=228), enhanced(">"),
    )  # fmt: skip
    found = [(frame.number, frame.linktype, frame.interface) for frame in frames]
    assert found == [(1, 113, 1), (2, 1, 0), (3, 228, 2)]


def test_simple_and_obsolete_packet_blocks():
    simple = block("<", 3, struct.pack("<I", 10) + b"abcd")
    old = block("<", 2, struct.pack("<HHIIII", 0, 7, 0, 2_000_000, 3, 5) + b"xyz")
    first, second = read(section(), interface(snaplen=4), simple, old)
    assert (first.data, first.length) == (b"abcd", 10)
    assert (second.data, second.length, second.time_ns) == (b"xyz", 5, 2_000_000_000)


def test_other_blocks_are_passed_over():
    others = [block("<", kind, b"whatever") for kind in (4, 5, 9, 10, 0xBAD, 0x40000BAD, 0x12345678)]
    assert [frame.data for frame in read(section(), *others, interface(), *others, enhanced(), *others)] == [b"abc"]


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([section()[:20]], "ends inside a section header"),
        ([section(), enhanced()], "packet of interface 0, which was not described, at offset 28"),
        ([section(), interface(), enhanced()[:-2]], "ends inside a block trailer"),
        ([section(), struct.pack("<II", 6, 13)], "impossible length 13"),
        ([section(), struct.pack("<II", 5, 1 << 30)], "ends inside a block of type 0x5"),
        ([section(), interface(), enhanced()[:-4] + b"\1\0\0\0"], "block lengths disagree"),
        ([section(), interface(), struct.pack("<II", 6, 1 << 28)], "packet block of 268435456 octets"),
        ([section(), interface(), block("<", 6, struct.pack("<IIIII", 0, 0, 0, 400, 400))], "packet of 400 octets"),
        ([b"\x0a\x0d\x0d\x0a" + bytes(24)], "byte-order magic 00000000"),
    ],
)
def test_damage_names_file_and_offset(blocks, words):
    with pytest.raises(CaptureError) as caught:
        read(*blocks)
    assert str(caught.value).startswith("made.pcapng: ")
    assert words in str(caught.value)


def test_writer_and_reader_agree():
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.write(b"odd", 1_700_000_000_123_456_789, "verdict allow; é")
    writer.write(memoryview(b"even"), 1_700_000_000_123_456_790)
    writer.flush()
    octets = file.getvalue()
    assert "verdict allow; é".encode() in octets
    first, second = read(octets)
    assert (first.data, first.time_ns, first.linktype) == (b"odd", 1_700_000_000_123_456_789, 101)
    assert (second.data, second.time_ns) == (b"even", 1_700_000_000_123_456_790)


def test_a_live_file_is_whole_after_each_packet(tmp_path):
    path = tmp_path / "live.pcapng"
    with open(path, "wb") as file:
        writer = PcapngWriter(file, live=True)
        assert list(read_frames(io.BytesIO(path.read_bytes()), "x")) == []
        for count in (1, 2):
            writer.write(b"packet", count)
            assert len(list(read_frames(io.BytesIO(path.read_bytes()), "x"))) == count


def test_a_file_cut_anywhere_gives_whole_frames_or_an_error():
    whole = b"".join((section(), interface(), enhanced(data=b"one"), enhanced(data=b"two")))
    for cut in range(len(whole)):
        got = []
        try:
            for frame in read_frames(io.BytesIO(whole[:cut]), "x"):
                got.append(frame.data)
        except CaptureError:
            pass
        assert got == [b"one", b"two"][: len(got)]
