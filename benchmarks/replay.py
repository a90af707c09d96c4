"""How fast a capture goes through the engine on the virtual clock.

Responsible for: making a capture of web-like flows in memory, timing both passes over it.
Refuses to know: files (`netstack replay` adds reading them).
"""

from __future__ import annotations

from benchmarks.crowd import answer_to, question
from benchmarks.timing import median_ns
from netstack.capture.facts import CaptureFacts
from netstack.codec import load
from netstack.config import Config
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, SYN
from netstack.link.linktype import RAW
from netstack.link.pcap import Frame
from netstack.runtime.replay import Replay
from netstack.testing.world import World
from netstack.wire.tcp import emit_options

FLOWS = 40
SEGMENTS = 60  # of 1448 octets, downwards, with one ACK for every second
APP, RESOLVER = b"\x0a\0\0\2", Endpoint.of("10.0.0.1", 53)
START_NS = 1_700_000_000_000_000_000


def capture() -> list[Frame]:
    """DNS, then a TCP flow that fetches 87 kB, many times over."""
    world = World()
    frames: list[Frame] = []

    def add(packet: bytes) -> None:
        frames.append(Frame(len(frames) + 1, START_NS + len(frames) * 500_000, RAW, 0, packet, len(packet)))

    for number in range(FLOWS):
        app, asker = Endpoint(APP, 30_000 + number), Endpoint(APP, 20_000 + number)
        server = Endpoint(bytes((203, 0, 113, number)), 443)
        asked = question(number)
        answer = answer_to(asked)[:-4] + server.address
        add(world.udp_packet(asked, source=asker, destination=RESOLVER))
        add(world.udp_packet(answer, source=RESOLVER, destination=asker))

        def up(flags: int, seq: int, ack: int, payload: bytes = b"", options: bytes = b"", *, app: Endpoint = app,
               server: Endpoint = server) -> None:  # fmt: skip
            add(world.tcp_packet(flags, seq, ack, payload, source=app, destination=server, options=options))

        def down(flags: int, seq: int, ack: int, payload: bytes = b"", options: bytes = b"", *, app: Endpoint = app,
                 server: Endpoint = server) -> None:  # fmt: skip
            add(world.tcp_packet(flags, seq, ack, payload, source=server, destination=app, options=options))

        options = emit_options(mss=1460, window_scale=8, sack_permitted=True)
        up(SYN, 100, 0, options=options)
        down(SYN | ACK, 500, 101, options=options)
        up(ACK, 101, 501)
        up(ACK | PSH, 101, 501, b"GET / HTTP/1.1\r\n\r\n")
        sent = 501
        for segment in range(SEGMENTS):
            down(ACK | PSH, sent, 119, bytes(1448))
            sent += 1448
            if segment % 2:
                up(ACK, 119, sent)
        down(ACK | FIN, sent, 119)
        up(ACK | FIN, 119, sent + 1)
        down(ACK, sent + 1, 120)
    return frames


def measure(codec: str, *, runs: int) -> float:
    """Packets a second."""
    frames = capture()
    loaded = load(codec)

    def work() -> int:
        facts = CaptureFacts()
        for frame in frames:
            facts.add(frame)
        facts.finish()
        replay = Replay(facts, Config(), loaded)
        for frame in frames:
            replay.frame(frame)
        replay.finish()
        opened = replay.stats.tcp_opened
        assert opened == FLOWS, f"{opened} of {FLOWS} flows were carried"
        return len(frames)

    return 1e9 / median_ns(work, runs)
