"""DNS from the tunnel: datagrams to port 53, and a stream that answers DNS over TCP.

Responsible for: handing queries to the bridge and its answers back to where they were asked, over UDP from
the address that was asked and over TCP in any order; the bounds of one connection.
Refuses to know: the upstream, the tracker, TCP itself (a DNS connection is relayed like any other).
RFCs: 1035 4.2, 7766 (pipelining, answers out of order).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from netstack.core.drops import DropReason
from netstack.core.flow import FiveTuple, FlowKey, reverse_key, unpack_key
from netstack.core.packet import Datagram, Octets
from netstack.core.ports import SocketOwner, Stream
from netstack.core.stats import Stats
from netstack.dns.bridge import DnsBridge
from netstack.dns.framing import MAX_FRAME, MessageReader, frame
from netstack.dns.message import Rcode, error_without_question, is_dns

IPV4_UDP_HEADERS = 28
IPV6_UDP_HEADERS = 48
PENDING_MOST = 64  # unanswered queries of one connection
OUTPUT_MOST = 131_072  # octets of answers that the app has not taken; nothing more is read from it beyond this
OUTPUT_LIMIT = 2 * OUTPUT_MOST  # answers beyond this are replaced by SERVFAIL
LONG_QUERY = 4096  # octets: what is longer is no ordinary query, and ends when memory is short

Ready = Callable[[Stream], None]


class DnsForwarder:
    """DNS of one engine. `flush` must run before the TCP write phase: streams know no time of their own."""

    __slots__ = ("_bridge", "_limit_v4", "_limit_v6", "_stats", "_waiting", "_write", "held", "memory")

    def __init__(
        self,
        bridge: DnsBridge,
        write_datagram: Callable[[Datagram], Any],
        stats: Stats,
        *,
        mtu: int = 1500,
        memory: int = 4_194_304,
    ) -> None:
        """`memory`: octets that all streams together should hold at most."""
        self.held = 0  # octets in all streams: queries not asked yet, answers not taken
        self.memory = memory
        self._bridge = bridge
        self._write = write_datagram
        self._stats = stats
        self.set_mtu(mtu)
        self._waiting: list[DnsStream] = []

    def set_mtu(self, mtu: int) -> None:
        """Answers over UDP are kept below the tunnel's MTU."""
        self._limit_v4 = mtu - IPV4_UDP_HEADERS
        self._limit_v6 = mtu - IPV6_UDP_HEADERS

    def on_datagram(self, datagram: Datagram, now: float) -> bool:
        """A datagram to a DNS port; False when it is not DNS and must be judged as any other."""
        payload = datagram.payload
        if not is_dns(payload):
            return False
        key = datagram.key
        limit = self._limit_v4 if key[0] == 4 else self._limit_v6
        reply = partial(self._reply, reverse_key(key))
        self._bridge.ask(unpack_key(key), bytes(payload), now, reply, udp_limit=limit)
        return True

    def _reply(self, key: FlowKey, message: bytes, now: float) -> None:
        self._write(Datagram(key, message))

    def open_stream(self, flow: FiveTuple, owner: SocketOwner, ready: Ready) -> DnsStream:
        """The far end of an app's connection to a DNS port. `ready(stream)` asks for the owner to be called."""
        return DnsStream(self, flow, owner, ready)

    def flush(self, now: float) -> None:
        """Ask what arrived on the streams since the last call."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for stream in waiting:
                stream.run(now)

    # --- for streams ---

    @property
    def is_short(self) -> bool:
        """All streams together hold more than they may."""
        return self.held > self.memory

    def count(self, reason: DropReason) -> None:
        """Count what does not go on."""
        self._stats.drops[reason] += 1

    def wake(self, stream: DnsStream) -> None:
        """`stream` has octets that want `now`."""
        self._waiting.append(stream)

    def ask(self, stream: DnsStream, message: bytes, now: float) -> bool:
        """Hand a message to the bridge; False when it cannot be DNS."""
        if not is_dns(message) or message[2] & 0x80:
            self._stats.drops[DropReason.DNS_MALFORMED] += 1
            return False
        reply = partial(stream.on_answer, message[:2])
        stream.pending += 1
        if not self._bridge.ask(stream.flow, message, now, reply, over_tcp=True):
            stream.pending -= 1
        return True


class DnsStream:
    """A local Stream that speaks DNS over TCP.

    The app's octets go in by `send`, answers come out by `recv`. While too many queries are unanswered
    or too many answers untaken, `send` takes nothing, so the app's window closes.
    """

    ended = False  # nobody is served sooner by an extra read

    __slots__ = (
        "_charged", "_ended", "_finished", "_forwarder", "_output", "_output_octets", "_readable", "_reader",
        "_ready", "_waiting", "_writable", "closed", "flow", "owner", "pending",
    )  # fmt: skip

    def __init__(self, forwarder: DnsForwarder, flow: FiveTuple, owner: SocketOwner, ready: Ready) -> None:
        self.owner = owner
        self.flow = flow
        self.closed = False
        self._forwarder = forwarder
        self._ready = ready
        self._reader = MessageReader()
        self._output: deque[bytes] = deque()
        self._output_octets = 0
        self._charged = 0  # octets counted in the forwarder's `held`
        self.pending = 0  # unanswered queries
        self._readable = False  # interest
        self._writable = False  # interest
        self._waiting = False  # in the forwarder's list
        self._finished = False  # the app sent FIN
        self._ended = False  # nothing more will be asked: FIN to the app once the answers are out

    # --- Stream ---

    def watch(self, *, readable: bool, writable: bool) -> None:
        """Set the interest; a side that is ready already is told at once."""
        self._readable = readable
        self._writable = writable
        self._tell()

    def connect_error(self) -> int:
        """The engine is always there."""
        return 0

    def recv(self, limit: int) -> bytes:
        """Answers, framed; b"" once all is answered after the app's FIN or after octets that are not DNS."""
        output = self._output
        if not output:
            if self._is_over():
                return b""
            raise BlockingIOError
        parts = []
        room = limit
        while output and room > 0:
            first = output[0]
            if len(first) <= room:
                parts.append(output.popleft())
            else:
                parts.append(first[:room])
                output[0] = first[room:]
            room -= len(parts[-1])
        taken = b"".join(parts)
        self._output_octets -= len(taken)
        self._charge()
        if len(self._reader):
            self._wake()
        self._tell()
        return taken

    def send(self, octets: Octets) -> int:
        """The app's octets, as many as fit one message beside what is being answered."""
        if self.closed or self._finished:
            raise BrokenPipeError
        size = len(octets)
        if self._ended:
            return size  # nobody reads any more; the app is about to see FIN
        room = self._room()
        if room <= 0:
            raise BlockingIOError
        if len(self._reader) > LONG_QUERY and self._forwarder.is_short:
            self._give_up()
            return size
        if size > room:
            octets = octets[:room]
            size = room
        self._reader.feed(octets)
        self._charge()
        self._wake()
        return size

    def sendmsg(self, buffers: list[Any]) -> int:
        """As `send`, buffer by buffer."""
        total = 0
        for buffer in buffers:
            try:
                sent = self.send(buffer)
            except BlockingIOError:
                break
            total += sent
            if sent < len(buffer):
                break
        if not total and any(len(buffer) for buffer in buffers):
            raise BlockingIOError
        return total

    def shutdown_write(self) -> None:
        """The app's FIN: what was asked is still answered (RFC 7766 6.2.4)."""
        self._finished = True
        self._wake()

    def close(self) -> None:
        """Answers that are still to come find nobody."""
        self.closed = True
        self._output.clear()
        self._output_octets = 0
        self._reader = MessageReader()
        self._charge()

    def abort(self) -> None:
        """As `close`: there is no wire to reset."""
        self.close()

    def is_alive(self) -> bool:
        """It depends on no network."""
        return True

    # --- inside ---

    def _room(self) -> int:
        if self.pending >= PENDING_MOST or self._output_octets >= OUTPUT_MOST:
            return 0
        return MAX_FRAME - len(self._reader)

    def _charge(self) -> None:
        octets = self._output_octets + len(self._reader)
        self._forwarder.held += octets - self._charged
        self._charged = octets

    def _give_up(self) -> None:
        """Memory is short and this connection has much that it does not finish: nothing more is asked on it."""
        self._forwarder.count(DropReason.DNS_TABLE_FULL)
        self._ended = True
        self._reader = MessageReader()
        self._charge()
        self._tell()

    def _is_over(self) -> bool:
        return self._ended and not self.pending and not self._output

    def _wake(self) -> None:
        if not self._waiting and not self.closed:
            self._waiting = True
            self._forwarder.wake(self)

    def _tell(self) -> None:
        if self.closed:
            return
        if (self._readable and (self._output or self._is_over())) or (
            self._writable and (self._ended or self._room() > 0)
        ):
            self._ready(self)

    def run(self, now: float) -> None:
        """Ask every whole message that the bounds allow. Called by the forwarder's flush."""
        self._waiting = False
        while not (self.closed or self._ended) and self.pending < PENDING_MOST and self._output_octets < OUTPUT_MOST:
            message = self._reader.next_message()
            if message is None:
                self._ended = self._finished
                break
            if not self._forwarder.ask(self, message, now):
                self._ended = True
        self._charge()
        self._tell()

    def on_answer(self, ident: bytes, message: bytes, now: float) -> None:
        """The bridge's answer to the query with `ident`; none at all when it was dropped after a while."""
        self.pending -= 1
        if self.closed:
            return
        if not message:
            self._wake()
            return
        if self._output_octets + len(message) > OUTPUT_LIMIT or self._forwarder.is_short:
            message = error_without_question(ident + b"\x01\0", Rcode.SERVFAIL)
        framed = frame(message)
        self._output.append(framed)
        self._output_octets += len(framed)
        self._charge()
        if len(self._reader) or self._finished:
            self._wake()
        self._tell()
