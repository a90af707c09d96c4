"""Random upstream faults: each query gets one answer in time, nothing false is leased, nothing is left over."""

import random
from dataclasses import dataclass

import dns.message
import dns.rrset
import pytest

from netstack.config import DnsConfig, LimitsConfig, TrackerConfig
from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import UDP, Endpoint, FiveTuple
from netstack.core.stats import Stats
from netstack.dns.bridge import DnsBridge
from netstack.dns.framing import MessageReader, frame
from netstack.policy.tracker import IpTracker
from netstack.testing.world import ScriptedDatagrams, ScriptedDialer, ScriptedStream, SeededEntropy
from netstack.upstream.proxy import ProxyResolver

SERVERS = (Endpoint.of("192.0.2.53", 53), Endpoint.of("192.0.2.54", 53), Endpoint.of("2001:db8::53", 53))
TRUE, FALSE = "203.0.113.1", "203.0.113.66"


@dataclass
class Error:
    errno: int
    destination: Endpoint
    payload: bytes
    offender: bytes | None = None
    info: int = 0
    icmp_type: int = 3
    icmp_code: int = 3


class Storm:
    """A bridge and its resolver, with servers that do anything."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.dialer = ScriptedDialer()
        self.stats = Stats()
        self.tracker = IpTracker(TrackerConfig(), LimitsConfig())
        count = self.random.randrange(1, 4)
        self.resolver = ProxyResolver(self.dialer, SERVERS[:count], SeededEntropy(seed), stats=self.stats)
        self.bridge = DnsBridge(
            self.resolver, self.tracker, DnsConfig(), LimitsConfig(dns_pending=60), self.stats, lambda event: None,
            SeededEntropy(seed + 1),
        )  # fmt: skip
        self.resolver.start(self.bridge)
        self.now = 0.0
        self.asked: dict[int, float] = {}
        self.replies: dict[int, list[float]] = {}
        self.seen: dict[int, int] = {}  # datagrams of a socket that the server has looked at
        self.readers: dict[int, MessageReader] = {}

    def ask(self, number: int) -> None:
        flow = FiveTuple(UDP, Endpoint.of("10.0.0.2", 1024 + number), Endpoint.of("10.0.0.1", 53))
        message = dns.message.make_query(f"n{number}.test", "A", id=number % 7).to_wire()
        self.asked[number] = self.now
        self.replies[number] = []

        def reply(answer: bytes, now: float) -> None:
            assert answer[:2] == message[:2] and answer[2] & 0x80 and answer[12 : len(message)] == message[12:]
            self.replies[number].append(now)

        assert self.bridge.ask(flow, message, self.now, reply, over_tcp=self.random.random() < 0.3)

    def answers(self, query: bytes) -> list[bytes]:
        """What a server sends for a query: truth, lies, rubbish, nothing."""
        asked = dns.message.from_wire(query)

        def made(address: str, ident: int = asked.id) -> bytes:
            response = dns.message.make_response(asked)
            response.id = ident
            response.answer.append(dns.rrset.from_text(asked.question[0].name, 5, "IN", "A", address))
            return response.to_wire()

        true = made(TRUE)
        lies = [
            made(FALSE, asked.id ^ 0x101),
            made(FALSE).replace(b"\4test", b"\4tost"),
            made(FALSE)[:2] + b"\1\0" + made(FALSE)[4:],
            made(FALSE)[:-3],
            self.random.randbytes(self.random.randrange(80)),
        ]
        how = self.random.random()
        if how < 0.3:
            return []
        if how < 0.5:
            return [self.random.choice(lies)]
        if how < 0.6:
            return [true[:2] + bytes([true[2] | 2]) + true[3:]]
        return [self.random.choice(lies[:3]), true, true]

    def upstream(self) -> None:
        """Let the servers and the network act on what was sent."""
        for socket in list(self.dialer.datagrams):
            if not socket.closed:
                self.datagrams(socket)
        for stream in list(self.dialer.streams):
            if not stream.closed:
                self.stream(stream)

    def datagrams(self, socket: ScriptedDatagrams) -> None:
        for message, server in socket.sent[self.seen.get(id(socket), 0) :]:
            if self.random.random() < 0.1:
                socket.errors.append(Error(111, server, self.random.choice((b"", message[:28]))))
            else:
                socket.incoming.extend((answer, server) for answer in self.answers(message))
        self.seen[id(socket)] = len(socket.sent)
        socket.send_error = self.random.choice((None,) * 8 + (BlockingIOError(), OSError(101, "unreachable")))
        if socket.is_readable:
            socket.owner.on_readable(socket, self.now)

    def stream(self, stream: ScriptedStream) -> None:
        how = self.random.random()
        if stream.writable_wanted and not stream.is_writable:
            if how < 0.6:
                stream.connect(0 if how < 0.4 else 111)
            else:
                return
        if stream.writable_wanted:
            stream.owner.on_writable(stream, self.now)
        reader = self.readers.setdefault(id(stream), MessageReader())
        reader.feed(bytes(stream.sent))
        stream.sent.clear()
        while (query := reader.next_message()) is not None:
            for answer in self.answers(query):
                stream.deliver(frame(answer))
        if how < 0.05:
            stream.end()
        elif how < 0.1:
            stream.fail(104)
        for _ in range(3):
            if not stream.closed and stream.readable_wanted and stream.is_readable:
                stream.owner.on_readable(stream, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = round(self.now + 0.05, 3)
            for owner in (self.bridge, self.resolver):
                deadline = owner.next_timeout()
                if deadline is not None and deadline <= self.now:
                    owner.on_timeout(self.now)
            self.upstream()


@pytest.mark.parametrize("seed", range(25))
def test_storm(seed: int) -> None:
    storm = Storm(seed)
    for number in range(100):
        storm.ask(number)
        if number % 10 == 9:
            storm.run(0.3)
        if number % 37 == 36:
            storm.resolver.network_changed(storm.now)
        if number % 23 == 22:
            storm.dialer.refusal = storm.random.choice((None, DialError("none left", 24), ProtectError("no")))
    storm.dialer.refusal = None
    storm.run(6.0)
    late = {number: at for number, at in storm.replies.items() if len(at) != 1 or at[0] - storm.asked[number] > 5.1}
    assert late == {}
    assert len(storm.bridge) == 0 and len(storm.resolver) == 0
    assert storm.tracker.lookup(Endpoint.of(FALSE, 0).address, storm.now) is None
    assert storm.tracker.lookup(Endpoint.of(TRUE, 0).address, storm.now) is not None
    storm.run(25.0)
    assert all(socket.closed for socket in [*storm.dialer.datagrams, *storm.dialer.streams])
