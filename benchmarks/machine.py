"""The TCP machine alone: one connection, segments ready made, no codec, no engine.

Responsible for: microseconds for each in-order super-segment, for each run that is sent and acknowledged, and for a
connection's whole life.
Refuses to know: packets.
"""

from __future__ import annotations

from benchmarks.timing import median_ns
from netstack.config import TcpConfig
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import ACK, FIN, PSH, SYN, Segment
from netstack.tcp.connection import TcpConnection
from netstack.tcp.events import Data
from netstack.wire.tcp import emit_options

MSS = 1448
SUPER = 44 * MSS  # what one GSO packet or one coalesced batch carries
KEY = pack_key(6, Endpoint.of("10.0.0.2", 40000), Endpoint.of("192.0.2.80", 443))
MASK = 0xFFFFFFFF
REPEAT = 300


def established() -> TcpConnection:
    """A connection behind its handshake, with window scaling."""
    connection = TcpConnection(TcpConfig(), KEY, iss=1000, mtu=1500)
    options = emit_options(mss=MSS, window_scale=10, sack_permitted=True)
    connection.receive(Segment(KEY, 0, 0, SYN, 65535, options=options), 0.0)
    connection.accept(0.0)
    connection.runs_to_send(0.0)
    connection.receive(Segment(KEY, 1, 1001, ACK, 65535), 0.0)
    connection.set_receive_limit(1 << 20)
    while connection.next_event() is not None:
        pass
    return connection


def super_segments() -> int:
    """In order, all of it taken by the far end at once."""
    connection = established()
    payload = memoryview(bytes(SUPER))
    seq, now = 1, 1.0
    for _ in range(REPEAT):
        now += 1e-4
        connection.receive(Segment(KEY, seq, 1001, ACK | PSH, 65535, payload, nsegs=44), now)
        seq = (seq + SUPER) & MASK
        while (event := connection.next_event()) is not None:
            if type(event) is Data:
                connection.consumed(len(event.payload), now)
        connection.runs_to_send(now)
    assert connection.rcv_nxt & MASK == seq
    return REPEAT


def acknowledged_runs() -> int:
    """64 KiB written, sent as the window allows, acknowledged by the app in one go."""
    connection = established()
    block = bytes(SUPER)
    acked, now = 1001, 1.0
    for _ in range(REPEAT):
        now += 1e-3
        taken = connection.write(block)
        while taken:
            sent = sum(len(run.payload) for run in connection.runs_to_send(now))
            taken -= sent
            acked = (acked + sent) & MASK
            connection.receive(Segment(KEY, 1, acked, ACK, 65535), now)
            while connection.next_event() is not None:
                pass
    assert connection.snd_una & MASK == acked
    return REPEAT


def acknowledgements() -> int:
    """Only the ACKs: one for every second segment of what was sent before."""
    connection = established()
    block = bytes(SUPER)
    acked, now, done = 1001, 1.0, 0
    for _ in range(REPEAT // 10):
        taken = connection.write(block)
        while taken:
            now += 1e-3
            sent = sum(len(run.payload) for run in connection.runs_to_send(now))
            taken -= sent
            while sent:
                step = min(sent, 2 * MSS)
                sent -= step
                acked = (acked + step) & MASK
                connection.receive(Segment(KEY, 1, acked, ACK, 65535), now)
                done += 1
    assert connection.snd_una & MASK == acked
    return done


def lives() -> int:
    """From SYN to TIME-WAIT: handshake, one octet each way, both FINs."""
    for number in range(REPEAT):
        now = float(number)
        connection = established()
        connection.receive(Segment(KEY, 1, 1001, ACK | PSH, 65535, memoryview(b"?")), now)
        while connection.next_event() is not None:
            pass
        connection.consumed(1, now)
        connection.write(b"!")
        connection.close(now)
        connection.runs_to_send(now)
        connection.receive(Segment(KEY, 2, 1003, ACK | FIN, 65535), now)
        while connection.next_event() is not None:
            pass
        connection.runs_to_send(now)
    return REPEAT


def measure(*, runs: int) -> dict[str, float]:
    """Microseconds."""
    work = {
        "super-segment in order": super_segments,
        "64 KiB sent and acknowledged": acknowledged_runs,
        "ACK of two segments": acknowledgements,
        "life of a connection": lives,
    }
    return {name: median_ns(what, runs) / 1e3 for name, what in work.items()}
