"""Reading and writing descriptors: a datagram socket pair stands for the TUN, since it keeps packets apart."""

from __future__ import annotations

import errno
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netstack.codec.base import MAX_DATAGRAMS, PacketBatch, PacketCodec
from netstack.core.drops import DropReason
from netstack.core.packet import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    BadPacket,
    Datagram,
    DatagramRun,
    IcmpMessage,
    Segment,
    SegmentRun,
)
from netstack.wire import ipv4, ipv6, tcp, vnet
from tests.differential.both import (
    APP4,
    FAR4,
    NATIVE,
    PURE,
    described,
    each_codec,
    key4,
    key6,
    mutate,
    needs_native,
    random_packets,
    tcp4,
    udp4,
    udp6,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def sent(pair: Pair) -> list[bytes]:
    """What the codec wrote."""
    found = []
    while True:
        try:
            packet = pair[1].recv(70_000)
        except BlockingIOError:
            return found
        found.append(packet)


def read(codec: PacketCodec, pair: Pair, packets: list[bytes], *, vnet: bool = False) -> PacketBatch:
    batch = PacketBatch.for_tunnel(1500, vnet)
    for packet in packets:
        pair[1].send(packet)
    codec.read_batch(pair[0].fileno(), batch, vnet=vnet)
    return batch


def virtio(packet: bytes, gso_type: int = 0, gso_size: int = 0, flags: int = 0) -> bytes:
    return vnet.HEADER.pack(flags, gso_type, 0, gso_size, 0, 0) + packet


# --- reading ---------------------------------------------------------------------------------


@each_codec
def test_reading_stops_when_there_is_no_more(codec: PacketCodec, pair: Pair) -> None:
    batch = read(codec, pair, [tcp4(0, b"abc"), udp4(), tcp4(3, b"def")])
    assert (batch.count, batch.packets, batch.octets) == (2, 3, 43 + 29 + 43)
    assert codec.read_batch(pair[0].fileno(), batch) == 0
    assert (batch.count, batch.packets, list(batch.items())) == (0, 0, [])


@each_codec
def test_reading_stops_at_the_capacity_and_goes_on_later(codec: PacketCodec, pair: Pair) -> None:
    batch = PacketBatch(capacity=4, slot=2048)
    for n in range(6):
        pair[1].send(udp4(b"%d" % n))
    assert codec.read_batch(pair[0].fileno(), batch) == 4
    assert codec.read_batch(pair[0].fileno(), batch) == 2
    [run] = batch.items()
    assert isinstance(run, DatagramRun) and bytes(run.payload) == b"45"


@each_codec
def test_reading_a_bad_descriptor_raises(codec: PacketCodec) -> None:
    with pytest.raises(OSError) as problem:
        codec.read_batch(-1, PacketBatch())
    assert problem.value.errno == errno.EBADF


@each_codec
def test_a_packet_longer_than_the_slot_is_truncated(codec: PacketCodec, pair: Pair) -> None:
    pair[1].send(udp4(bytes(100)))
    batch = PacketBatch(capacity=4, slot=64)
    codec.read_batch(pair[0].fileno(), batch)
    [bad] = batch.items()
    assert isinstance(bad, BadPacket)
    assert bad.reason is DropReason.TRUNCATED_IP


@needs_native
@pytest.mark.parametrize("seed", range(20))
def test_both_read_the_same(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    packets = [mutate(chance, packet) or b"\0" for packet in random_packets(chance, 64)]
    assert NATIVE is not None
    assert described(read(NATIVE, pair, packets)) == described(read(PURE, pair, packets))


@needs_native
@pytest.mark.parametrize("seed", range(40))
def test_both_read_the_same_behind_virtio_headers(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    packets = [
        virtio(mutate(chance, packet), chance.choice((0, 0, 1, 3, 4, 5, 0x81)), chance.choice((0, 7, 20, 600)),
               chance.choice((0, 1, 2)))
        for packet in random_packets(chance, 60)
    ]  # fmt: skip
    packets.insert(chance.randrange(60), packets[0][: chance.randrange(1, 10)])
    assert NATIVE is not None
    one, other = read(NATIVE, pair, packets, vnet=True), read(PURE, pair, packets, vnet=True)
    assert (one.count, one.packets, one.octets) == (other.count, other.packets, other.octets)
    assert described(one) == described(other)


# --- virtio-net headers ----------------------------------------------------------------------


@each_codec
def test_a_whole_gso_packet_is_one_segment_and_still_grows(codec: PacketCodec, pair: Pair) -> None:
    big = os.urandom(60_001)
    batch = read(codec, pair, [virtio(tcp4(0, big), vnet.GSO_TCP4, 1000, 1), virtio(tcp4(60_001, b"end"))], vnet=True)
    [segment] = batch.items()
    assert isinstance(segment, Segment)
    assert segment.nsegs == 62
    assert bytes(segment.payload) == big + b"end"
    assert (batch.packets, batch.octets) == (2, 60_041 + 43)


@each_codec
def test_a_gso_datagram_becomes_datagrams(codec: PacketCodec, pair: Pair) -> None:
    batch = read(codec, pair, [virtio(udp6(b"aabbc"), vnet.GSO_UDP, 2, 1), virtio(udp4(b"z"))], vnet=True)
    run, alone = batch.items()
    assert isinstance(run, DatagramRun) and isinstance(alone, Datagram)
    assert (run.count, run.size, bytes(run.payload), len(run.header)) == (3, 2, b"aabbc", 48)
    assert [bytes(one.payload) for one in run.datagrams()] == [b"aa", b"bb", b"c"]
    assert [bytes(one.packet[48:]) for one in run.datagrams()] == [b"aa", b"bb", b"c"]
    assert bytes(alone.payload) == b"z"
    assert batch.packets == 2


@each_codec
@pytest.mark.parametrize("flags", [vnet.NEEDS_CSUM, vnet.DATA_VALID])
def test_an_unfinished_checksum_is_not_looked_at(codec: PacketCodec, pair: Pair, flags: int) -> None:
    wrong = bytearray(tcp4(0, b"abc"))
    wrong[36:38] = b"\x12\x34"
    trusted, told = read(codec, pair, [virtio(bytes(wrong), flags=flags), virtio(bytes(wrong))], vnet=True).items()
    assert isinstance(trusted, Segment)
    assert isinstance(told, BadPacket)
    assert told.reason is DropReason.BAD_TCP_CHECKSUM


@each_codec
@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\0" * 9, id="shorter than the header"),
        pytest.param(virtio(tcp4(0, b"abc"), vnet.GSO_TCP4, 0), id="no size"),
        pytest.param(virtio(tcp4(0, b"abc"), vnet.GSO_TCP6, 2), id="the other version"),
        pytest.param(virtio(udp4(b"abc"), vnet.GSO_TCP4, 2), id="TCP said, UDP there"),
        pytest.param(virtio(tcp4(0, b"abc"), vnet.GSO_UDP, 2), id="UDP said, TCP there"),
        pytest.param(virtio(udp4(b"abc"), 3, 2), id="UDP fragmentation offload"),
        pytest.param(virtio(udp4(bytes(MAX_DATAGRAMS + 1)), vnet.GSO_UDP, 1), id="too many datagrams"),
    ],
)
def test_a_virtio_header_that_contradicts_the_packet(codec: PacketCodec, pair: Pair, packet: bytes) -> None:
    [bad] = read(codec, pair, [packet], vnet=True).items()
    assert isinstance(bad, BadPacket)
    assert bad.reason is DropReason.BAD_GSO


@each_codec
def test_a_full_run_does_not_grow(codec: PacketCodec, pair: Pair) -> None:
    full, half = bytes(MAX_DATAGRAMS), bytes(MAX_DATAGRAMS // 2)
    packets = [virtio(udp4(octets), vnet.GSO_UDP, 1, 1) for octets in (full, half, half, half)]
    runs = list(read(codec, pair, packets, vnet=True).items())
    assert [run.count for run in runs if isinstance(run, DatagramRun)] == [128, 128, 64]


@each_codec
def test_runs_are_written_as_their_datagrams(codec: PacketCodec, pair: Pair) -> None:
    for key in (key4(17), key6(17)):
        run = DatagramRun(key, bytes(range(250)), 100, 3, 1, 9)
        packets = [codec.emit_datagram(one, 1500)[0] for one in run.datagrams()]
        assert codec.write_datagrams(pair[0].fileno(), run) == 3
        assert sent(pair) == packets
        assert codec.write_datagrams(pair[0].fileno(), run, uso=True) == 3, "USO means nothing without its header"
        assert sent(pair) == packets


@needs_native
@pytest.mark.parametrize("size", [1, 100, 1400, 40_000, 65_507])
def test_both_write_the_same_runs(pair: Pair, size: int) -> None:
    assert NATIVE is not None
    for key in (key4(17), key6(17)):
        count = 3 if size > 1 else 100
        run = DatagramRun(key, os.urandom(count * size - size // 2), size, count)
        for vnet_header, uso in ((False, False), (True, False), (True, True)):
            written = []
            for codec in (NATIVE, PURE):
                assert codec.write_datagrams(pair[0].fileno(), run, vnet=vnet_header, uso=uso) == run.count
                written.append(sent(pair))
            assert written[0] == written[1]


@each_codec
def test_a_gso_packet_of_datagrams_comes_back_as_its_run(codec: PacketCodec, pair: Pair) -> None:
    run = DatagramRun(key4(17), os.urandom(70 * 900 - 5), 900, 70)
    assert codec.write_datagrams(pair[0].fileno(), run, vnet=True, uso=True) == 70
    packets = sent(pair)
    assert [(len(packet), *vnet.HEADER.unpack_from(packet)) for packet in packets] == [
        (10 + 28 + 64 * 900, vnet.NEEDS_CSUM, vnet.GSO_UDP, 28, 900, 20, 6),
        (10 + 28 + 6 * 900 - 5, vnet.NEEDS_CSUM, vnet.GSO_UDP, 28, 900, 20, 6),
    ]
    [back] = read(codec, pair, packets, vnet=True).items()
    assert isinstance(back, DatagramRun)
    assert (back.key, back.size, back.count, bytes(back.payload)) == (run.key, 900, 70, run.payload)


@each_codec
def test_a_full_device_takes_a_part_of_a_run_of_datagrams(codec: PacketCodec, pair: Pair) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    run = DatagramRun(key4(17), bytes(1000 * 60), 1000, 60)
    written = codec.write_datagrams(pair[0].fileno(), run)
    assert 0 < written < 60
    with pytest.raises(BlockingIOError):
        codec.write_datagrams(pair[0].fileno(), run)
    assert len(sent(pair)) == written
    for wrong in (0, 65_508):
        with pytest.raises(OSError) as problem:
            codec.write_datagrams(pair[0].fileno(), DatagramRun(key4(17), b"xx", wrong, 2))
        assert problem.value.errno == errno.EMSGSIZE


# --- writing ---------------------------------------------------------------------------------

RUNS = [
    SegmentRun(key(), seq, 77, flags, 1000, mss, options, payload)
    for key in (key4, key6)
    for seq, flags, mss, options, payload in [
        (1, ACK, 1000, b"", b""),
        (1, ACK | FIN, 1000, b"", b""),
        (1, SYN | ACK, 100, tcp.emit_options(mss=1460, window_scale=7, sack_permitted=True, timestamps=(1, 2)), b""),
        (1, RST, 100, b"", b""),
        (1, SYN, 2, b"", b"data on a SYN"),
        (1, ACK | PSH, 1000, b"", b"odd"),
        (0xFFFFFF00, ACK | PSH | FIN, 1000, tcp.emit_timestamps(3, 4), random.Random(1).randbytes(5001)),
        (9, ACK, 1000, b"", random.Random(2).randbytes(3000)),
        (9, ACK | PSH, 65_535, b"", random.Random(3).randbytes(65_000)),
        (9, ACK, 1, b"", b"abc"),
    ]
]


@each_codec
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"v{run.key[0]}-{run.flags:x}-{len(run.payload)}")
def test_a_written_run_is_the_cut_run(codec: PacketCodec, pair: Pair, run: SegmentRun) -> None:
    assert codec.write_run(pair[0].fileno(), run) == len(run.payload)
    packets = sent(pair)
    assert packets == codec.cut_run(run) == PURE.cut_run(run)
    assert_cut(run, packets)


def assert_cut(run: SegmentRun, packets: list[bytes]) -> None:
    """The packets carry the run, each of them valid by `wire/`."""
    stream = b""
    for number, packet in enumerate(packets):
        parsed = ipv4.parse_ipv4(packet) if run.key[0] == 4 else ipv6.parse_ipv6(packet)
        assert isinstance(parsed, (ipv4.Ipv4Header, ipv6.Ipv6Header))
        inside = packet[parsed.header_length :]
        assert parsed.length == len(packet)
        assert tcp.is_checksum_valid(parsed.source, parsed.destination, inside)
        header = tcp.parse_tcp(inside)
        assert isinstance(header, tcp.TcpHeader)
        last = number == len(packets) - 1
        assert header.seq == (run.seq + len(stream)) & 0xFFFFFFFF
        assert header.flags == (run.flags if last else run.flags & ~(FIN | PSH))
        assert (header.ack, header.window, header.options) == (run.ack, run.window, run.options)
        assert len(inside) - header.header_length <= run.mss or run.flags & SYN
        stream += inside[header.header_length :]
    assert stream == run.payload


@needs_native
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"v{run.key[0]}-{run.flags:x}-{len(run.payload)}")
def test_both_write_the_same_behind_virtio_headers(pair: Pair, run: SegmentRun) -> None:
    assert NATIVE is not None
    assert NATIVE.write_run(pair[0].fileno(), run, vnet=True) == len(run.payload)
    native = sent(pair)
    assert PURE.write_run(pair[0].fileno(), run, vnet=True) == len(run.payload)
    assert native == sent(pair)
    back = read(NATIVE, pair, native, vnet=True).items()
    assert b"".join(bytes(segment.payload) for segment in back if isinstance(segment, Segment)) == run.payload


@each_codec
@pytest.mark.parametrize("key", [key4(), key6()])
def test_a_run_behind_virtio_headers_is_one_gso_packet(codec: PacketCodec, pair: Pair, key: bytes) -> None:
    run = SegmentRun(key, 1, 2, ACK | PSH, 3, 1400, tcp.emit_timestamps(1, 2), os.urandom(60_000))
    assert codec.write_run(pair[0].fileno(), run, vnet=True) == 60_000
    [packet] = sent(pair)
    flags, gso_type, header, gso_size, start, offset = vnet.HEADER.unpack_from(packet)
    ip = 20 if key[0] == 4 else 40
    assert (flags, gso_size, start, offset, header) == (vnet.NEEDS_CSUM, 1400, ip, 16, ip + 32)
    assert gso_type == (vnet.GSO_TCP4 if key[0] == 4 else vnet.GSO_TCP6)


@each_codec
def test_a_run_larger_than_a_packet_is_several_gso_packets(codec: PacketCodec, pair: Pair) -> None:
    run = SegmentRun(key4(), 1, 2, ACK | FIN, 3, 1000, b"", os.urandom(150_500))
    assert codec.write_run(pair[0].fileno(), run, vnet=True) == 150_500
    assert [len(packet) - 50 for packet in sent(pair)] == [65_000, 65_000, 20_500]


@each_codec
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_payload_may_be_any_buffer(codec: PacketCodec, pair: Pair, kind: type) -> None:
    octets = b"0123456789" * 10
    codec.write_run(pair[0].fileno(), SegmentRun(key4(), 1, 2, ACK, 3, 50, b"", kind(octets)))
    assert [packet[40:] for packet in sent(pair)] == [octets[:50], octets[50:]]
    assert codec.cut_run(SegmentRun(key4(), 1, 2, ACK, 3, 99, b"", kind(b"")))[0][40:] == b""
    codec.write_datagram(pair[0].fileno(), Datagram(key4(17), kind(octets)), 1500)
    assert sent(pair)[0][28:] == octets
    assert codec.emit_datagram(Datagram(key4(17), kind(b"")), 1500)[0][28:] == b""


@each_codec
def test_a_full_device_takes_a_part_of_a_run(codec: PacketCodec, pair: Pair) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    run = SegmentRun(key4(), 1, 2, ACK | FIN, 3, 1000, b"", os.urandom(60_000))
    written = codec.write_run(pair[0].fileno(), run)
    assert 0 < written < 60_000
    packets = sent(pair)
    assert b"".join(packet[40:] for packet in packets) == run.payload[:written]
    assert not any(packet[33] & FIN for packet in packets)


@each_codec
def test_a_full_device_that_takes_nothing_raises(codec: PacketCodec, pair: Pair) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    run = SegmentRun(key4(), 1, 2, ACK, 3, 1000, b"", bytes(1000))
    with pytest.raises(BlockingIOError):
        while True:
            codec.write_run(pair[0].fileno(), run)
    with pytest.raises(BlockingIOError):
        codec.write_datagram(pair[0].fileno(), Datagram(key4(17), bytes(1000)), 1500)
    with pytest.raises(BlockingIOError):
        codec.write_packet(pair[0].fileno(), tcp4(0, bytes(1000)))


@each_codec
@pytest.mark.parametrize(
    "wrong",
    [{"mss": 0}, {"options": b"\1\1\1"}, {"options": bytes(44)}, {"flags": RST, "payload": bytes(65_536)}],
    ids=str,
)
def test_a_run_that_cannot_be_cut_is_refused(codec: PacketCodec, pair: Pair, wrong: dict[str, object]) -> None:
    run = SegmentRun(key4(), 1, 2, ACK, 3)
    for name, value in wrong.items():
        setattr(run, name, value)
    for vnet_header in (False, True):
        with pytest.raises(ValueError):
            codec.write_run(pair[0].fileno(), run, vnet=vnet_header)
    with pytest.raises(ValueError):
        codec.cut_run(run)
    assert sent(pair) == []


@each_codec
def test_writing_to_a_bad_descriptor_raises(codec: PacketCodec) -> None:
    for write in (
        lambda: codec.write_run(-1, SegmentRun(key4(), 1, 2, ACK, 3)),
        lambda: codec.write_datagram(-1, Datagram(key4(17), b""), 1500),
        lambda: codec.write_packet(-1, tcp4()),
    ):
        with pytest.raises(OSError) as problem:
            write()
        assert problem.value.errno == errno.EBADF


@each_codec
def test_a_packet_is_written_as_it_is(codec: PacketCodec, pair: Pair) -> None:
    codec.write_packet(pair[0].fileno(), b"anything")
    codec.write_packet(pair[0].fileno(), memoryview(b"anything"), vnet=True)
    assert sent(pair) == [b"anything", bytes(10) + b"anything"]


DATAGRAMS = [
    Datagram(key(17), payload, tos, hops)
    for key in (key4, key6)
    for payload, tos, hops in [(b"", 0, 64), (b"odd", 3, 1), (b"\0" * 20, 0, 64), (bytes(range(256)) * 16, 1, 255)]
]


@needs_native
@pytest.mark.parametrize("datagram", DATAGRAMS, ids=lambda item: f"v{item.key[0]}-{len(item.payload)}")
def test_both_emit_the_same_datagrams(pair: Pair, datagram: Datagram) -> None:
    assert NATIVE is not None
    for mtu in (1280, 9000):
        assert NATIVE.emit_datagram(datagram, mtu) == PURE.emit_datagram(datagram, mtu)
        for vnet_header in (False, True):
            written = []
            for codec in (NATIVE, PURE):
                codec.write_datagram(pair[0].fileno(), datagram, mtu, vnet=vnet_header)
                written.append(sent(pair))
            assert written[0] == written[1]
            assert vnet_header or written[0] == PURE.emit_datagram(datagram, mtu)


@each_codec
@pytest.mark.parametrize("datagram", DATAGRAMS, ids=lambda item: f"v{item.key[0]}-{len(item.payload)}")
def test_a_datagram_comes_back_as_it_was(codec: PacketCodec, datagram: Datagram) -> None:
    batch = PacketBatch(capacity=8, slot=8192)
    codec.parse_batch(codec.emit_datagram(datagram, 9000), batch)
    [back] = batch.items()
    assert isinstance(back, Datagram)
    assert (back.key, bytes(back.payload), back.tos, back.hop_limit) == (
        datagram.key, datagram.payload, datagram.tos, datagram.hop_limit
    )  # fmt: skip


@each_codec
def test_a_datagram_that_no_packet_can_hold(codec: PacketCodec, pair: Pair) -> None:
    datagram = Datagram(key4(17), bytes(65_508))
    for attempt in (
        lambda: codec.emit_datagram(datagram, 1500),
        lambda: codec.emit_datagram(datagram, 70_000),
        lambda: codec.write_datagram(pair[0].fileno(), datagram, 70_000, vnet=True),
    ):
        with pytest.raises(OSError) as problem:
            attempt()
        assert problem.value.errno == errno.EMSGSIZE


@each_codec
def test_icmp_messages_come_back_as_they_were(codec: PacketCodec) -> None:
    message = IcmpMessage(4, APP4.address, FAR4.address, 8, 0, 77 << 16 | 3, b"ping", 9)
    batch = PacketBatch()
    codec.parse_batch(codec.emit_icmp(message, 1500), batch)
    [back] = batch.items()
    assert isinstance(back, IcmpMessage)
    assert (back.type, back.code, back.rest, bytes(back.payload), back.hop_limit) == (8, 0, 77 << 16 | 3, b"ping", 9)
    assert (back.source, back.destination) == (APP4.address, FAR4.address)


# --- memory ----------------------------------------------------------------------------------


def test_a_batch_for_a_phone_is_small() -> None:
    batch = PacketBatch.for_tunnel(1500)
    assert len(batch.arena) < 1024 * 1024
    assert len(batch.descriptors) < 32 * 1024
    assert batch.slot >= 1500


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_memory_that_holds_no_packet_is_not_resident() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    batch = PacketBatch(capacity=1024, slot=65_536)
    assert len(batch.arena) == 128 << 20
    assert resident() - before < 8 << 20


@pytest.mark.parametrize("mtu", [576, 1500, 9000, 65_535])
@pytest.mark.parametrize("offload", [False, True])
def test_a_batch_holds_a_packet_of_the_mtu(mtu: int, offload: bool) -> None:
    batch = PacketBatch.for_tunnel(mtu, offload)
    assert batch.slot >= mtu + (10 if offload else 0)
    assert len(batch.arena) // 2 >= batch.slot


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"capacity": 1025}, {"arena": 4095}], ids=str)
def test_a_batch_of_impossible_sizes(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        PacketBatch(**wrong)
