"""Random input that nobody chose, for a bounded time: TCP sequences, whole packets, DNS, capture files.

Each case has a seed, named when it fails; NETSTACK_RELIABILITY_SECONDS=60 makes each run for a minute.
"""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import pytest

from netstack.cli import main
from netstack.core.errors import CaptureError
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Segment
from netstack.core.seq import MASK, seq_diff
from netstack.dns.framing import frame
from netstack.link.pcap import read_frames
from netstack.wire.tcp import emit_options
from tests.made_captures import PcapWriter, answer, exchange, lookup, pcap_file, query
from tests.reliability.obliging import ObligingWorld, mutated, small
from tests.reliability.resting import assert_at_rest, assert_sound, prune
from tests.reliability.settings import rounds, seconds

ROOT = Path(__file__).resolve().parents[2]
SERVERS = [Endpoint.of("192.0.2.80", port) for port in (80, 443, 53)] + [Endpoint.of("2001:db8::80", 80)]
GATEWAY = Endpoint.of("10.0.0.1", 53)
CODECS = ["pure", "native"]


def codec_or_skip(name: str) -> str:
    if name == "native":
        pytest.importorskip("netstack.codec._native")
    return name


class Client:
    """Half honest: it keeps the numbers of its connection and then does as it likes.

    It remembers the right edge of the engine's window: that edge must never move to the left.
    """

    def __init__(self, obliging: ObligingWorld, number: int) -> None:
        self.obliging = obliging
        random = self.random = obliging.random
        self.destination = random.choice(SERVERS)
        address = "10.0.0.2" if self.destination.version == 4 else "fd00::2"
        self.source = Endpoint.of(address, 20_000 + number % 40)
        self.iss = self.seq = random.choice((0, 1000, MASK - 3000, random.randrange(1 << 32)))
        self.ack = 0
        self.irs: int | None = None
        self.scale = random.choice((None, 0, 2, 7, 14))
        self.shift = 0
        self.edge: int | None = None
        self.has_stamps = random.random() < 0.5
        self.time = 1000

    def options(self, *, syn: bool = False) -> bytes:
        random = self.random
        if random.random() < 0.05:
            return random.randbytes(4 * random.randrange(11))
        stamps = (self.time, random.choice((0, self.time))) if self.has_stamps else None
        self.time += random.choice((0, 1, 100))
        if syn:
            return emit_options(
                mss=random.choice((None, 0, 1, 88, 536, 1460, 65_535)), window_scale=self.scale,
                sack_permitted=random.random() < 0.7, timestamps=stamps,
            )  # fmt: skip
        blocks: tuple[tuple[int, int], ...] = ()
        if random.random() < 0.1:
            start = (self.ack + random.randrange(-5000, 5000)) & MASK
            blocks = ((start, (start + random.randrange(-100, 3000)) & MASK),)
        return emit_options(timestamps=stamps, sack=blocks)

    def packet(self) -> bytes:
        random = self.random
        kind = random.random()
        if self.irs is None or kind < 0.03:
            if kind < 0.01:
                self.iss = self.seq = random.randrange(1 << 32)
            return self._emit(SYN, self.iss, 0, b"early" if random.random() < 0.1 else b"", self.options(syn=True))
        seq, ack, flags = self.seq, self.ack, ACK
        payload = b""
        if kind < 0.45:
            payload = random.randbytes(random.choice((1, 10, 536, 1400)))
            flags |= random.choice((0, PSH))
        if kind > 0.97:
            flags |= FIN
        elif kind > 0.96:
            flags = random.choice((RST, RST | ACK))
        elif kind > 0.94:
            flags = random.randrange(256)
        if random.random() < 0.25:
            seq += random.choice((-1, 1, -2000, 2000, 70_000, -70_000, random.randrange(1 << 32)))
        else:
            self.seq = (self.seq + len(payload) + bool(flags & FIN)) & MASK
        if random.random() < 0.15:
            ack += random.choice((-1, 1, -1000, 1000, 200_000, random.randrange(1 << 32)))
        return self._emit(flags, seq, ack, payload, self.options())

    def _emit(self, flags: int, seq: int, ack: int, payload: bytes, options: bytes) -> bytes:
        window = self.random.choice((0, 1, 100, 1000, 65_535, 65_535, 65_535))
        packet = self.obliging.world.tcp_packet(
            flags, seq, ack, payload, source=self.source, destination=self.destination, window=window,
            options=options,
        )  # fmt: skip
        return mutated(self.random, packet) if self.random.random() < 0.02 else packet

    def hears(self, segment: Segment) -> None:
        if segment.flags & RST:
            self.irs = self.edge = None
            return
        if segment.flags & SYN:
            self.irs, self.ack = segment.seq, (segment.seq + 1) & MASK
            self.seq, self.edge = segment.ack, None
            return
        if self.irs is None:
            return
        if self.random.random() < 0.8:
            stop = (segment.seq + len(segment.payload) + bool(segment.flags & FIN)) & MASK
            if seq_diff(stop, self.ack) > 0:
                self.ack = stop


def window_edges(obliging: ObligingWorld, edges: dict[bytes, int]) -> None:
    """The right edge that each connection keeps never moves to the left, and is never beneath what was received."""
    now = {}
    for flow in obliging.world.engine.tcp.table:
        recv = flow.connection._recv
        if recv.nxt == 0:
            continue
        now[id(flow), flow.flow_id] = recv.edge
        assert recv.edge >= recv.nxt
        assert recv.edge >= edges.get((id(flow), flow.flow_id), 0)
        assert flow.connection.buffered_octets + flow.pending_octets <= 1 << 20
    edges.clear()
    edges.update(now)


@pytest.mark.parametrize("codec", CODECS)
def test_tcp_sequences(codec: str) -> None:
    codec_or_skip(codec)
    for random in rounds(3):
        obliging = ObligingWorld(random, codec=codec)
        clients: dict[tuple[bytes, int], Client] = {}
        edges: dict[bytes, int] = {}
        for number in range(150):
            if number % 3 == 0:
                client = Client(obliging, random.randrange(40))
                clients[client.source.address, client.source.port] = client
            batch = []
            for _ in range(random.randrange(1, 12)):
                batch.append(random.choice(list(clients.values())).packet())
            for item in obliging.feed(*batch, seconds=random.choice((0, 0, 0.01, 0.3, 2.0))):
                if type(item) is Segment:
                    heard = clients.get((item.key[18:34].lstrip(b"\0"), int.from_bytes(item.key[36:38], "big")))
                    for one in clients.values() if heard is None else (heard,):
                        if one.source.port == int.from_bytes(item.key[36:38], "big"):
                            one.hears(item)
            window_edges(obliging, edges)
            if number % 10 == 0:
                assert_sound(obliging.world)
        assert_ends(obliging)


def assert_ends(obliging: ObligingWorld) -> None:
    """The apps fall silent and the far ends too: all that is left ends by itself, the slowest after two hours."""
    world = obliging.world
    for stream in world.streams:
        if stream._connected is None:
            stream.connect(110)
    world.run(3.1 * 7440)
    prune(world)
    assert_at_rest(world)


@pytest.mark.parametrize("codec", CODECS)
def test_any_packets(codec: str) -> None:
    """Mutations of every kind of packet that the engine knows, in batches with good ones."""
    codec_or_skip(codec)
    for random in rounds(2):
        obliging = ObligingWorld(random, codec=codec)
        world = obliging.world
        seeds = [
            world.tcp_packet(SYN, 1, options=emit_options(mss=1460, window_scale=7)),
            world.tcp_packet(ACK | PSH, 2, 3, b"GET / HTTP/1.1"),
            world.udp_packet(b"datagram"),
            world.udp_packet(query(7, "www.example.test"), destination=GATEWAY),
            world.udp_packet(b"\xc3\0\0\0\1\x08" + bytes(1200), destination=Endpoint.of("192.0.2.1", 443)),
            world.echo_packet(),
            world.echo_packet(source=Endpoint.of("fd00::2", 0), destination=Endpoint.of("2001:db8::1", 0)),
            world.udp_packet(b"six", source=Endpoint.of("fd00::2", 9), destination=Endpoint.of("2001:db8::1", 9)),
            *fragments(random),
        ]
        for _ in range(40):
            batch = [mutated(random, random.choice(seeds)) for _ in range(random.randrange(1, 40))]
            obliging.feed(*batch, seconds=random.choice((0, 0.1, 5.0)))
            assert_sound(world)
        assert_ends(obliging)


def fragments(random: Random) -> list[bytes]:
    from netstack.wire import ipv4

    whole = random.randbytes(64)
    source, destination = b"\x0a\0\0\x02", b"\xc0\0\x02\x01"
    made = []
    for at, more in ((0, 1), (24, 1), (48, 0), (16, 0)):
        piece = whole[at : at + 24]
        packet = bytearray(ipv4.emit_ipv4(source, destination, 17, len(piece)) + piece)
        packet[6:8] = (more << 13 | at // 8).to_bytes(2, "big")
        packet[10:12] = b"\0\0"
        from netstack.wire.checksum import checksum

        packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
        made.append(bytes(packet))
    return made


def test_dns_messages() -> None:
    """Damaged queries from the app, damaged answers from the resolver, over UDP and TCP."""
    for random in rounds(2):
        obliging = ObligingWorld(random)
        world = obliging.world
        names = ["www.example.test", "a" * 63 + ".test", "x", "", "ü.example"]
        for number in range(60):
            messages = []
            for _ in range(random.randrange(1, 10)):
                ident = random.randrange(1 << 16)
                made = query(ident, random.choice(names[:3]), random.choice((1, 28, 65, 255)))
                messages.append(mutated(random, made))
            source = Endpoint.of("10.0.0.2", 30_000 + number)
            batch = [world.udp_packet(message, source=source, destination=GATEWAY) for message in messages]
            world.send(*batch)
            for token, asked in list(world.resolver.queries.items()):
                name = random.choice(names[:2])
                reply = answer(int.from_bytes(asked[:2], "big"), name, "192.0.2.80", random.choice((0, 60, 1 << 31)))
                world.resolver.answer(token, mutated(random, random.choice((reply, asked))), world.now)
            world.run(random.choice((0, 0.5, 3.0)))
            stream_of_queries(obliging, messages, 40_000 + number)
            assert_sound(world)
            prune(world)
        assert_ends(obliging)


def stream_of_queries(obliging: ObligingWorld, messages: list[bytes], port: int) -> None:
    world, random = obliging.world, obliging.random
    source = Endpoint.of("10.0.0.2", port)
    octets = mutated(random, b"".join(frame(message) for message in messages if message))
    [syn_ack] = world.send(world.tcp_packet(SYN, 100, source=source, destination=GATEWAY))
    seq, ack = 101, syn_ack.seq + 1
    while octets:
        piece, octets = octets[: random.choice((1, 7, 1400))], octets[1400:]
        world.send(world.tcp_packet(ACK | PSH, seq, ack, piece, source=source, destination=GATEWAY))
        seq += len(piece)
    for token, asked in list(world.resolver.queries.items()):
        world.resolver.answer(token, mutated(random, asked), world.now)
    world.run()
    if random.random() < 0.7:
        world.send(world.tcp_packet(ACK | FIN, seq, ack, source=source, destination=GATEWAY))


def capture_seeds() -> list[bytes]:
    """Small files of both formats."""
    from netstack.link.pcapng import PcapngWriter

    packets = lookup(0.0, 5000, "www.example.test", "203.0.113.80") + exchange(1.0, 40_000, b"GET", b"x" * 2000)
    seeds = [pcap_file(packets), (ROOT / "examples" / "first-look.pcap").read_bytes()[:4000]]
    file = io.BytesIO()
    writer = PcapngWriter(file)
    for at, packet in packets:
        writer.write(packet, int(at * 1e9), comment="a comment")
    writer.flush()
    seeds.append(file.getvalue())
    for path in sorted((ROOT.parent / "shared" / "captures" / "malformed").glob("*"))[::8]:
        seeds.append(path.read_bytes()[:4000])
    return seeds


def test_capture_reader() -> None:
    assert PcapWriter is not None
    seeds = capture_seeds()
    for random in rounds(2):
        for _ in range(100):
            octets = mutated(random, random.choice(seeds))
            try:
                for frame_ in read_frames(io.BytesIO(octets), "mutated"):
                    assert len(frame_.data) <= len(octets)
            except CaptureError as problem:
                assert "mutated" in str(problem)


def test_replay_of_mutated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command: exit status 0 or 1, never a traceback and never a replay that broke."""
    seeds = capture_seeds()
    path = tmp_path / "mutated.pcap"
    for random in rounds(3):
        path.write_bytes(mutated(random, mutated(random, random.choice(seeds))))
        assert main(["replay", str(path), "--json", "-", "--verify-streams"]) in (0, 1)
        shown = capsys.readouterr()
        assert "broke" not in shown.out + shown.err, random.name


def test_configuration_files() -> None:
    """Whatever a TOML file holds, it is taken or refused by name."""
    import tomllib

    from netstack.config import make_config
    from netstack.core.errors import ConfigError

    text = b'mode = "firewall"\n[tcp]\nwindow = 65536\n[dns]\nservers = ["1.1.1.1:53", "[::1]:5"]\n[limits]\nmemory=9\n'
    for random in rounds(min(1.0, seconds(1))):
        for _ in range(50):
            try:
                table = tomllib.loads(mutated(random, text).decode("utf-8", "replace"))
            except tomllib.TOMLDecodeError:
                continue
            try:
                make_config(table)
            except ConfigError as problem:
                assert str(problem)
    assert small().limits.tcp_flows == 48
