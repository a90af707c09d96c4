"""The part of HTTP/2 that a DNS client needs: short requests out, short responses in, on many streams.

Responsible for: frames, header blocks, windows and limits of one connection; saying what is not HTTP/2.
Refuses to know: sockets, TLS, DNS, what is asked again when the connection ends.
RFCs: 9113 (HTTP/2), 7541 (HPACK).

A general library takes ten times as long for a request as the TLS record that carries it, because it must foresee
everything. Here every request has the same headers but for its length, so that a header block is made once for each
length; and most response blocks are ones that came before. What is read goes through `hpack`'s decoder.
"""

from __future__ import annotations

import struct
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError

from netstack.core.packet import Octets

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_MOST = 16_384  # octets of a frame's payload, ours (SETTINGS_MAX_FRAME_SIZE is left alone) and the server's
BODY_MOST = 65_535  # octets of a response's body
BLOCK_MOST = 65_536  # octets of a header block
BLOCKS_KEPT = 256
WINDOW = 1 << 20  # octets of response bodies on their way
STREAMS_FIRST = 100  # until the server's SETTINGS say what it takes (RFC 9113 6.5.2 recommends no less)
STREAM_ID_MOST = 0x7FFFFFFF
WINDOW_MOST = 0x7FFFFFFF

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4
_Head = tuple[bytes, bytes, int]  # status, kind, age

_SETTING = struct.Struct("!HI")
_REFUSED_STREAM, _CANCEL = 0x7, 0x8
_STATIC = {b":authority": 1, b":path": 4, b"accept": 19, b"content-length": 28, b"content-type": 31}

Headers = list[tuple[bytes, bytes]]


class Http2Error(Exception):
    """The server does not speak HTTP/2 as it should."""


class Response:
    """What has come of one response."""

    __slots__ = ("age", "body", "kind", "status")

    def __init__(self) -> None:
        self.status = b""
        self.age = 0  # seconds that it has been in caches (RFC 9111 5.1)
        self.kind = b""  # the content type without parameters, in lower case
        self.body = b""


class Http2Client:
    """One connection. What is to be sent gathers in `out`."""

    def __init__(self, headers: Headers) -> None:
        """`headers` of every request, pseudo-headers first, names in lower case, without content-length."""
        self.out: list[bytes] = []
        self.streams_most = STREAMS_FIRST
        self.streams: dict[int, Response] = {}
        self.is_ending = False  # GOAWAY came, or the ids are used up
        self.last_stream = STREAM_ID_MOST  # the last one that the server will answer
        self.refused: set[int] = set()  # of the streams that `receive` gave as reset: the server did not look at them
        self._head = b"".join(_literal(name, value) for name, value in headers)
        self._heads: dict[int, bytes] = {}
        self._next = 1
        self._buffer = b""
        self._window = 65_535  # what may be sent on the connection
        self._stream_window = 65_535  # and on a new stream
        self._consumed = 0
        self._is_settled = False
        self._block: tuple[int, bool, bytearray] | None = None  # stream, END_STREAM, what came: CONTINUATION follows
        self._decoder = Decoder()
        self._known: dict[bytes, _Head] = {}  # by header block, while the table stays
        settings = _SETTING.pack(2, 0) + _SETTING.pack(_INITIAL_WINDOW_SIZE, 2 * BODY_MOST)  # 2: ENABLE_PUSH
        self.out += (PREFACE, _frame(SETTINGS, 0, 0, settings), _frame(WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4, "big")))

    # --- out ---

    def can_request(self, size: int) -> bool:
        """True when a request with a body of `size` octets may go now."""
        return (
            len(self.streams) < self.streams_most
            and size <= self._window
            and size <= self._stream_window
            and not self.is_ending
        )

    def request(self, body: bytes) -> int:
        """A POST, whole; its stream. Only when `can_request`."""
        size = len(body)
        head = self._heads.get(size)
        if head is None:
            head = self._head + _literal(b"content-length", b"%d" % size)
            if len(self._heads) < BLOCKS_KEPT:
                self._heads[size] = head
        stream_id = self._next
        self._next += 2
        self.is_ending = self.is_ending or self._next > STREAM_ID_MOST
        self._window -= size
        self.streams[stream_id] = Response()
        if len(head) <= FRAME_MOST and size <= FRAME_MOST:
            self.out.append(
                b"".join((
                    _frame_head(HEADERS, _END_HEADERS, stream_id, len(head)), head,
                    _frame_head(DATA, _END_STREAM, stream_id, size), body,
                ))
            )  # fmt: skip
            return stream_id
        self.out.append(_frame(HEADERS, _END_HEADERS, stream_id, head))
        for at in range(0, size, FRAME_MOST):
            flags = _END_STREAM if at + FRAME_MOST >= size else 0
            self.out.append(_frame(DATA, flags, stream_id, body[at : at + FRAME_MOST]))
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Nobody waits for this response any more."""
        if self.streams.pop(stream_id, None) is not None:
            self.out.append(_frame(RST_STREAM, 0, stream_id, _CANCEL.to_bytes(4, "big")))

    # --- in ---

    def receive(self, octets: Octets) -> list[tuple[int, Response | None]]:
        """Streams that ended: with their response, or with None when the server reset them. Raises Http2Error."""
        if self.refused:
            self.refused.clear()
        buffer = b"".join((self._buffer, octets)) if self._buffer else bytes(octets)
        ended: list[tuple[int, Response | None]] = []
        at, size = 0, len(buffer)
        while size - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if length > FRAME_MOST:
                raise Http2Error("a frame that is too long")
            end = at + 9 + length
            if end > size:
                break
            stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big") & STREAM_ID_MOST
            self._take(buffer[at + 3], buffer[at + 4], stream_id, buffer[at + 9 : end], ended)
            at = end
        self._buffer = buffer[at:]
        if self._consumed >= WINDOW // 2:
            self.out.append(_frame(WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4, "big")))
            self._consumed = 0
        return ended

    def _take(
        self, kind: int, flags: int, stream_id: int, payload: bytes, ended: list[tuple[int, Response | None]]
    ) -> None:
        if not self._is_settled and (kind != SETTINGS or flags & _ACK):
            raise Http2Error("the first frame is not SETTINGS")
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block[0]):
            raise Http2Error("a header block that is interrupted")
        response = self.streams.get(stream_id)
        if kind == DATA:
            if not stream_id:
                raise Http2Error("DATA on no stream")
            self._consumed += len(payload)  # padding counts
            if response is not None:
                body = _unpadded(flags, payload, False)
                response.body = response.body + body if response.body else body
                if len(response.body) > BODY_MOST:
                    raise Http2Error("a body that no DNS message can have")
                self._end(flags, stream_id, response, ended)
        elif kind == HEADERS:
            if not stream_id:
                raise Http2Error("HEADERS on no stream")
            block = _unpadded(flags, payload, bool(flags & _PRIORITY))
            if flags & _END_HEADERS:
                self._headers(block, flags, stream_id, ended)
            else:
                self._block = (stream_id, bool(flags & _END_STREAM), bytearray(block))
        elif kind == CONTINUATION:
            if self._block is None:
                raise Http2Error("CONTINUATION of nothing")
            self._block[2].extend(payload)
            if len(self._block[2]) > BLOCK_MOST:
                raise Http2Error("a header block that is too long")
            if flags & _END_HEADERS:
                (_, last, whole), self._block = self._block, None
                self._headers(bytes(whole), _END_STREAM if last else 0, stream_id, ended)
        elif kind == RST_STREAM:
            if self.streams.pop(stream_id, None) is not None:
                if int.from_bytes(payload, "big") == _REFUSED_STREAM:
                    self.refused.add(stream_id)
                ended.append((stream_id, None))
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == PING:
            if len(payload) != 8:
                raise Http2Error("a PING of the wrong length")
            if not flags & _ACK:
                self.out.append(_frame(PING, _ACK, 0, payload))
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise Http2Error("a GOAWAY that is too short")
            self.is_ending = True
            self.last_stream = min(self.last_stream, int.from_bytes(payload[:4], "big") & STREAM_ID_MOST)
        elif kind == WINDOW_UPDATE:
            if len(payload) != 4:
                raise Http2Error("a WINDOW_UPDATE of the wrong length")
            if not stream_id:
                self._window += int.from_bytes(payload, "big") & WINDOW_MOST
                if self._window > WINDOW_MOST:
                    raise Http2Error("a window that is too large")
        elif kind == PUSH_PROMISE:
            raise Http2Error("a push that was declined")

    def _settings(self, flags: int, payload: bytes) -> None:
        self._is_settled = True
        if flags & _ACK:
            return
        if len(payload) % 6:
            raise Http2Error("SETTINGS of the wrong length")
        for name, value in _SETTING.iter_unpack(payload):
            if name == _MAX_CONCURRENT_STREAMS:
                self.streams_most = max(1, value)
            elif name == _INITIAL_WINDOW_SIZE:
                self._stream_window = value
        self.out.append(_frame(SETTINGS, _ACK, 0, b""))

    def _headers(
        self, block: bytes, flags: int, stream_id: int, ended: list[tuple[int, Response | None]]
    ) -> None:
        known = self._known.get(block)
        if known is None:
            known = self._decode(block)  # also for a stream that nobody knows: the table must follow
        response = self.streams.get(stream_id)
        if response is None:
            return
        if known[0][:1] != b"1" and not response.status:  # not for 1xx, nor for trailers
            response.status, response.kind, response.age = known
        self._end(flags, stream_id, response, ended)

    def _end(
        self, flags: int, stream_id: int, response: Response, ended: list[tuple[int, Response | None]]
    ) -> None:
        if flags & _END_STREAM:
            del self.streams[stream_id]
            ended.append((stream_id, response))

    def _decode(self, block: bytes) -> _Head:
        table: Any = self._decoder.header_table
        first = table.dynamic_entries[0] if table.dynamic_entries else None
        limit = table.maxsize
        try:
            headers = self._decoder.decode(block, raw=True)
        except (HPACKError, ValueError, IndexError, UnicodeError) as problem:
            raise Http2Error("a header block that cannot be read") from problem
        status = kind = b""
        age = 0
        for name, value in headers:
            if name == b":status" and len(value) == 3 and value.isdigit():
                status = bytes(value)
            elif name == b"content-type":
                kind = bytes(value).partition(b";")[0].strip().lower()
            elif name == b"age" and value.isdigit():
                age = min(int(value[:10]), 0x7FFFFFFF)
        newest = table.dynamic_entries[0] if table.dynamic_entries else None
        if newest is not first or table.maxsize != limit or len(self._known) >= BLOCKS_KEPT:
            self._known.clear()  # indices mean something else from now on
        if newest is first and table.maxsize == limit:
            self._known[block] = (status, kind, age)
        return status, kind, age


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing (RFC 7541 6.2.2), or the static table's entry for the whole of it."""
    if (name, value) == (b":method", b"POST"):
        return b"\x83"
    if (name, value) == (b":scheme", b"https"):
        return b"\x87"
    index = _STATIC.get(name)
    head = _integer(index, 4) if index is not None else b"\0" + _integer(len(name), 7) + name
    return head + _integer(len(value), 7) + value


def _integer(value: int, bits: int) -> bytes:
    """RFC 7541 5.1, with zeros in front of the prefix."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([value])
    found = [limit]
    value -= limit
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _frame_head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return (length << 48 | kind << 40 | flags << 32 | stream_id).to_bytes(9, "big")


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return _frame_head(kind, flags, stream_id, len(payload)) + payload


def _unpadded(flags: int, payload: bytes, priority: bool) -> bytes:
    start, fill = 0, 0
    if flags & _PADDED:
        if not payload:
            raise Http2Error("padding without its length")
        start, fill = 1, payload[0]
    if priority:
        start += 5
    if start + fill > len(payload):
        raise Http2Error("padding that is too long")
    return payload[start : len(payload) - fill] if start or fill else payload
