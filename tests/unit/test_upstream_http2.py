"""HTTP/2 by itself: frames and header blocks against h2, and against what no server should send."""

import pytest

pytest.importorskip("hpack")
pytest.importorskip("h2")
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from netstack.upstream.http2 import BLOCKS_KEPT, BODY_MOST, Http2Client, Http2Error

HEADERS = [
    (b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"dns.test"), (b":path", b"/" + b"q" * 300),
    (b"accept", b"application/dns-message"), (b"content-type", b"application/dns-message"), (b"x-cd-host", b"me"),
]  # fmt: skip
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
OK = [(":status", "200"), ("content-type", "Application/DNS-Message; charset=x")]


class Pair:
    def __init__(self) -> None:
        self.client = Http2Client(HEADERS)
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.server.initiate_connection()
        self.events: list = []
        self.ended: dict = {}
        self.pump()

    def pump(self) -> None:
        for _ in range(4):
            octets = b"".join(self.client.out)
            self.client.out.clear()
            if octets:
                self.events += self.server.receive_data(octets)
            for stream_id, response in self.client.receive(self.server.data_to_send()):
                self.ended[stream_id] = response


def test_requests_are_read_by_h2() -> None:
    pair = Pair()
    for size in (1, 33, 33, 127, 128, 40_000):
        assert pair.client.can_request(size)
        stream_id = pair.client.request(b"x" * size)
        pair.pump()
        [request] = [event for event in pair.events if isinstance(event, RequestReceived)]
        body = b"".join(event.data for event in pair.events if isinstance(event, DataReceived))
        assert dict(request.headers) == {
            **{name.decode(): value.decode() for name, value in HEADERS}, "content-length": str(size),
        }  # fmt: skip
        assert body == b"x" * size and any(isinstance(event, StreamEnded) for event in pair.events)
        assert request.stream_id == stream_id
        pair.events.clear()
    assert not pair.client.can_request(40_000), "the window is used up"
    pair.server.increment_flow_control_window(60_000)
    pair.pump()
    assert pair.client.can_request(40_000)


def test_heads_that_are_kept_are_bounded() -> None:
    pair = Pair()
    pair.server.increment_flow_control_window(50_000_000)
    pair.pump()
    for size in range(1, 1000):
        pair.client.request(b"x" * size)
    assert len(pair.client._heads) == BLOCKS_KEPT


@pytest.mark.parametrize("status", [b"20", b"2000", b"abc", b"\x1b[2J", b"2" * 5000])
def test_a_status_that_is_none_is_not_repeated(status: bytes) -> None:
    pair = Pair()
    stream_id = pair.client.request(b"q")
    pair.pump()
    block = Encoder().encode([(b":status", status), (b"content-type", b"x")])
    frame = len(block).to_bytes(3, "big") + b"\x01\x05" + stream_id.to_bytes(4, "big") + block
    [(_, response)] = pair.client.receive(frame)
    assert response is not None and response.status == b""


def test_which_streams_were_refused_is_known_until_more_comes() -> None:
    pair = Pair()
    streams = [pair.client.request(b"q") for _ in range(4)]
    pair.pump()
    for stream_id, code in zip(streams, (7, 8, 7, 0), strict=True):
        pair.server.reset_stream(stream_id, code)
    assert pair.client.receive(pair.server.data_to_send()) == [(stream_id, None) for stream_id in streams]
    assert pair.client.refused == {streams[0], streams[2]}
    pair.client.receive(b"")
    assert not pair.client.refused


def test_responses_with_everything_that_may_come() -> None:
    pair = Pair()
    streams = [pair.client.request(b"q") for _ in range(20)]
    pair.pump()
    for number, stream_id in enumerate(streams):
        if number % 5 == 0:
            pair.server.send_headers(stream_id, [(":status", "103"), ("link", "x")])
        pair.server.send_headers(stream_id, [*OK, ("x-number", str(number % 7)), ("age", "1" * 20_000 * (number == 3))])
        pair.server.send_data(stream_id, b"ab", pad_length=number)
        pair.server.send_data(stream_id, b"c", end_stream=number % 2 == 0)
        if number % 2:
            pair.server.send_headers(stream_id, [("x-trailer", "t"), (":status", "500")][:1], end_stream=True)
    pair.server.ping(b"12345678")
    pair.pump()
    assert sorted(pair.ended) == streams and not pair.client.streams
    for response in pair.ended.values():
        assert (response.status, response.kind, response.body) == (b"200", b"application/dns-message", b"abc")
    assert any(isinstance(event, PingAckReceived) for event in pair.events)


def test_blocks_that_came_before_mean_the_same_only_while_the_table_stays() -> None:
    pair = Pair()
    for number in range(60):
        stream_id = pair.client.request(b"q")
        pair.pump()
        status = "404" if number % 3 else "200"
        pair.server.send_headers(stream_id, [(":status", status), ("x", f"{number // 4}"), ("content-type", "a/b")])
        pair.server.send_data(stream_id, b"", end_stream=True)
        pair.pump()
        assert pair.ended[stream_id].status == status.encode() and pair.ended[stream_id].kind == b"a/b"


def test_resets_and_goaway() -> None:
    pair = Pair()
    first, second = pair.client.request(b"q"), pair.client.request(b"q")
    pair.pump()
    pair.server.reset_stream(first)
    pair.server.send_headers(second, OK, end_stream=True)
    pair.server.close_connection()
    pair.pump()
    assert pair.ended[first] is None and pair.ended[second].status == b"200"
    assert pair.client.is_ending and not pair.client.can_request(1)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "octets",
    [
        frame(6, 0, 0, bytes(8)),  # before SETTINGS
        SETTINGS + frame(4, 0, 0, bytes(5)),
        SETTINGS + frame(6, 0, 0, bytes(7)),
        SETTINGS + frame(8, 0, 0, bytes(3)),
        SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff"),
        SETTINGS + frame(0, 0, 0, b"x"),
        SETTINGS + frame(1, 4, 0, b"\x88"),
        SETTINGS + frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"),
        SETTINGS + frame(1, 4 | 8, 1, b"\x05\x88"),
        SETTINGS + frame(1, 4 | 8, 1, b""),
        SETTINGS + frame(9, 4, 1, b"\x88"),
        SETTINGS + frame(1, 0, 1, b"\x88") + frame(6, 0, 0, bytes(8)),
        SETTINGS + frame(1, 0, 1, b"\x88") + frame(9, 0, 1, bytes(16_384)) * 5,
        SETTINGS + frame(5, 4, 1, bytes(8)),
        SETTINGS + frame(1, 4, 1, b"\x88") + frame(0, 0, 1, bytes(16_384)) * (BODY_MOST // 16_384 + 1),
        b"\xff" * 9,
    ],
)
def test_what_is_no_http2(octets: bytes) -> None:
    client = Http2Client(HEADERS)
    client.request(b"q")
    with pytest.raises(Http2Error):
        client.receive(octets)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_octets_in_any_pieces(octets: bytes, step: int) -> None:
    client = Http2Client(HEADERS)
    client.request(b"q")
    try:
        client.receive(SETTINGS)
        for at in range(0, len(octets), step):
            client.receive(octets[at : at + step])
    except Http2Error:
        pass
