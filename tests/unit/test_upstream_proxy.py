"""Asking DNS servers: matching, retransmission, fail-over, TCP."""

import errno
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.rrset

from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import Endpoint
from netstack.core.stats import Stats
from netstack.testing.world import ScriptedDatagrams, ScriptedDialer, ScriptedStream, SeededEntropy
from netstack.upstream.proxy import SILENT_AFTER, ProxyResolver

ONE = Endpoint.of("192.0.2.53", 53)
TWO = Endpoint.of("2001:db8::53", 53)


@dataclass
class Error:
    errno: int
    destination: Endpoint
    payload: bytes = b""
    offender: bytes | None = None
    info: int = 0
    icmp_type: int = 3
    icmp_code: int = 3


class Desk:
    """A resolver, its sockets, and what it told its owner."""

    def __init__(self, *servers: Endpoint) -> None:
        self.dialer = ScriptedDialer()
        self.stats = Stats()
        self.resolver = ProxyResolver(self.dialer, servers or (ONE,), SeededEntropy(), stats=self.stats)
        self.resolver.start(self)
        self.answers: dict[int, bytes] = {}
        self.failures: dict[int, str] = {}
        self.told: list[int] = []
        self.now = 0.0

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.told.append(token)
        self.answers[token] = message

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.told.append(token)
        self.failures[token] = why

    def ask(self, token: int = 1, name: str = "a.test", *, over_tcp: bool = False) -> bytes:
        message = dns.message.make_query(name, "A", id=77).to_wire()
        self.resolver.query(token, message, self.now, over_tcp)
        return message

    def run(self, until: float) -> None:
        """Time passes, stopping at every deadline."""
        for _ in range(1000):
            deadline = self.resolver.next_timeout()
            if deadline is None or deadline > until:
                self.now = until
                return
            self.now = max(self.now, deadline)
            self.resolver.on_timeout(self.now)
        raise AssertionError("does not come to rest")

    @property
    def sent(self) -> list[tuple[ScriptedDatagrams, bytes, Endpoint]]:
        return [(socket, *each) for socket in self.dialer.datagrams for each in socket.sent]

    def to(self, server: Endpoint) -> list[bytes]:
        return [message for _, message, destination in self.sent if destination == server]

    def reply(self, socket: ScriptedDatagrams, message: bytes, source: Endpoint = ONE) -> None:
        socket.incoming.append((message, source))
        socket.owner.on_readable(socket, self.now)


def response(asked: bytes, *, tc: bool = False, address: str = "192.0.2.1") -> bytes:
    query = dns.message.from_wire(asked)
    made = dns.message.make_response(query)
    made.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", address))
    if tc:
        made.flags |= dns.flags.TC
    return made.to_wire()


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def unframed(stream: ScriptedStream) -> list[bytes]:
    octets, messages = bytes(stream.sent), []
    while octets:
        end = 2 + int.from_bytes(octets[:2], "big")
        messages.append(octets[2:end])
        octets = octets[end:]
    return messages


def test_an_answer_comes_back_with_the_id_that_was_asked() -> None:
    desk = Desk()
    asked = desk.ask()
    [(socket, message, destination)] = desk.sent
    assert destination == ONE and socket.readable_wanted
    assert message[2:] == asked[2:] and message[:2] != asked[:2], "an id of its own"
    desk.reply(socket, response(message))
    assert desk.answers == {1: asked[:2] + response(message)[2:]}
    assert len(desk.resolver) == 0


def test_ids_and_ports_differ() -> None:
    desk = Desk()
    for token in range(400):
        desk.ask(token, f"n{token}.test")
    ids = {(id(socket), message[:2]) for socket, message, _ in desk.sent}
    assert len(ids) == 400
    assert len({message[:2] for _, message, _ in desk.sent}) > 350
    assert 2 <= len(desk.dialer.datagrams) <= 8


def test_forgeries_and_junk_are_ignored_and_the_true_answer_still_counts() -> None:
    desk = Desk()
    desk.ask()
    [(socket, message, _)] = desk.sent
    good = response(message)
    for forged, source in (
        (bytes([good[0] ^ 1]) + good[1:], ONE),
        (good, TWO),
        (good, Endpoint(ONE.address, 5353)),
        (good[:2] + bytes([good[2] & 0x7F]) + good[3:], ONE),
        (good.replace(b"\1a\4test", b"\1b\4test"), ONE),
        (b"", ONE),
        (b"junk", ONE),
        (bytes(200), ONE),
    ):
        desk.reply(socket, forged, source)
    assert not desk.told
    assert desk.stats.drops[DropReason.DNS_UNEXPECTED_ANSWER] == 6
    assert desk.stats.drops[DropReason.DNS_MALFORMED] == 2
    desk.reply(socket, good)
    assert list(desk.answers) == [1]
    desk.reply(socket, good)
    assert desk.stats.drops[DropReason.DNS_LATE_ANSWER] == 1, "a second one finds nobody"


def test_silence_is_asked_again_the_same_way_and_then_fails() -> None:
    desk = Desk()
    desk.ask()
    desk.run(0.9)
    assert len(desk.sent) == 1
    desk.run(1.0)
    assert len(desk.sent) == 2
    desk.run(3.0)
    assert len(desk.sent) == 3
    assert len(set(desk.to(ONE))) == 1 and len(desk.dialer.datagrams) == 1, "same id, same port"
    assert not desk.told
    desk.run(5.0)
    assert desk.failures == {1: "timeout"} and len(desk.sent) == 3


def test_an_answer_to_the_first_try_counts_after_the_second() -> None:
    desk = Desk(ONE, TWO)
    desk.ask()
    [(socket, message, _)] = desk.sent
    desk.run(1.5)
    assert len(desk.to(TWO)) == 1
    desk.reply(socket, response(message))
    assert list(desk.answers) == [1]
    desk.run(20.0)
    assert desk.told == [1] and len(desk.to(TWO)) == 1


def test_the_next_server_is_asked_and_a_silent_one_last() -> None:
    desk = Desk(ONE, TWO)
    for token in range(SILENT_AFTER):
        desk.ask(token, f"n{token}.test")
    desk.run(1.0)
    assert len(desk.to(ONE)) == SILENT_AFTER == len(desk.to(TWO))
    desk.ask(50)
    assert len(desk.to(TWO)) == SILENT_AFTER + 1 and len(desk.to(ONE)) == SILENT_AFTER
    desk.run(12.0)
    desk.ask(51)
    assert len(desk.to(ONE)) > SILENT_AFTER, "given another chance"


def test_icmp_refused_moves_on_at_once() -> None:
    desk = Desk(ONE, TWO)
    desk.ask()
    [(socket, message, _)] = desk.sent
    socket.errors.append(Error(errno.ECONNREFUSED, ONE, message[:20]))
    socket.owner.on_readable(socket, 0.0)
    [second] = desk.to(TWO)
    other = desk.dialer.datagrams[-1]
    desk.reply(other, response(second), TWO)
    assert list(desk.answers) == [1]


def test_every_server_refused() -> None:
    desk = Desk(ONE)
    desk.ask(1)
    desk.ask(2, "b.test")
    for socket in desk.dialer.datagrams:
        if socket.sent:
            socket.errors.append(Error(errno.ECONNREFUSED, ONE))  # the kernel kept nothing of the datagram
            socket.owner.on_readable(socket, 0.0)
    assert desk.failures == {1: "refused", 2: "refused"}


def test_an_error_of_somebody_elses_datagram_changes_nothing() -> None:
    desk = Desk()
    desk.ask()
    [(socket, message, _)] = desk.sent
    socket.errors.append(Error(errno.ECONNREFUSED, TWO, message[:20]))
    socket.errors.append(Error(errno.EMSGSIZE, ONE, message[:20]))
    socket.errors.append(Error(errno.ECONNREFUSED, ONE, b"\0\0" if message[:2] != b"\0\0" else b"\1\1"))
    socket.owner.on_readable(socket, 0.0)
    assert not desk.told
    desk.reply(socket, response(message))
    assert list(desk.answers) == [1]


def test_no_socket_and_no_route() -> None:
    for refusal, why in ((ProtectError("no"), "protect"), (DialError("no", errno.EMFILE), "unreachable")):
        desk = Desk(ONE, TWO)
        desk.dialer.refusal = refusal
        desk.ask()
        assert desk.failures == {1: why}
        desk.dialer.refusal = None
        desk.ask(2)
        assert len(desk.sent) == 1, "and works again"
    desk = Desk()
    desk.ask(1)
    for socket in desk.dialer.datagrams:
        socket.send_error = OSError(errno.ENETUNREACH, "down")
    desk.run(1.0)
    assert desk.failures == {1: "unreachable"}


def test_a_full_socket_is_as_good_as_loss() -> None:
    desk = Desk()
    desk.ask(1)
    socket = desk.dialer.datagrams[0]
    socket.send_error = BlockingIOError()
    desk.run(1.0)
    socket.send_error = None
    assert not desk.told
    desk.run(3.0)
    assert len(desk.sent) == 2


def test_cancel_and_unreadable_queries() -> None:
    desk = Desk()
    desk.ask(1)
    [(socket, message, _)] = desk.sent
    desk.resolver.cancel(1)
    desk.resolver.cancel(99)
    desk.reply(socket, response(message))
    desk.run(30.0)
    assert not desk.told and len(desk.resolver) == 0
    desk.resolver.query(2, b"\0\1\1\0" + bytes(8), 30.0)
    assert desk.failures == {2: "unreachable"}


def test_idle_sockets_are_closed() -> None:
    desk = Desk()
    desk.ask()
    [(socket, message, _)] = desk.sent
    desk.reply(socket, response(message))
    desk.run(60.0)
    assert all(each.closed for each in desk.dialer.datagrams)
    assert desk.resolver.next_timeout() is None


def test_ports_are_replaced_and_their_number_is_bounded() -> None:
    desk = Desk()
    for token in range(5000):
        desk.ask(token, f"n{token}.test")
    opened = [each for each in desk.dialer.datagrams if not each.closed]
    assert len(desk.dialer.datagrams) > 10 and len(opened) <= 64
    assert len(desk.resolver) == 5000
    desk.resolver.close()
    assert all(each.closed for each in desk.dialer.datagrams) and len(desk.resolver) == 0
    assert desk.resolver.next_timeout() is None


def test_a_new_network_asks_everything_again_on_new_sockets() -> None:
    desk = Desk()
    desk.ask(1)
    desk.ask(2, "b.test", over_tcp=True)
    old = list(desk.dialer.datagrams)
    old_stream = desk.dialer.streams[0]
    desk.now = 0.5
    desk.resolver.network_changed(0.5)
    assert all(each.closed for each in old) and old_stream.closed
    [socket] = [each for each in desk.dialer.datagrams if not each.closed]
    stream = desk.dialer.streams[1]
    stream.connect()
    stream.owner.on_writable(stream, 0.6)
    desk.reply(socket, response(socket.sent[0][0]))
    stream.deliver(framed(response(unframed(stream)[0])))
    stream.owner.on_readable(stream, 0.7)
    assert sorted(desk.answers) == [1, 2]
    desk.run(60.0)
    assert sorted(desk.told) == [1, 2]


# --- TCP ---


def connected(desk: Desk, at: int = -1) -> ScriptedStream:
    stream = desk.dialer.streams[at]
    assert stream.writable_wanted
    stream.connect()
    stream.owner.on_writable(stream, desk.now)
    return stream


def test_a_truncated_answer_is_asked_again_over_tcp() -> None:
    desk = Desk()
    asked = desk.ask()
    [(socket, message, _)] = desk.sent
    desk.reply(socket, response(message, tc=True))
    assert not desk.told
    stream = connected(desk)
    assert stream.destination == ONE
    [over_tcp] = unframed(stream)
    octets = framed(response(over_tcp))
    for at in range(0, len(octets), 5):
        stream.deliver(octets[at : at + 5])
        stream.owner.on_readable(stream, desk.now)
    assert desk.answers == {1: asked[:2] + response(over_tcp)[2:]}


def test_one_connection_is_shared_and_answers_come_in_any_order() -> None:
    desk = Desk()
    for token in range(5):
        desk.ask(token, f"n{token}.test", over_tcp=True)
    stream = connected(desk)
    assert len(desk.dialer.streams) == 1 and not desk.dialer.datagrams
    messages = unframed(stream)
    assert len(messages) == 5
    for message in reversed(messages):
        stream.deliver(framed(response(message)))
        stream.owner.on_readable(stream, desk.now)
    assert desk.told == [4, 3, 2, 1, 0]
    stream.deliver(framed(b"") + framed(response(messages[0])) + framed(b"x" * 30))
    stream.owner.on_readable(stream, desk.now)
    assert desk.stats.drops[DropReason.DNS_UNEXPECTED_ANSWER] == 3
    desk.run(60.0)
    assert stream.closed and desk.resolver.next_timeout() is None


def test_a_reused_connection_that_the_server_closed_is_made_again() -> None:
    desk = Desk()
    desk.ask(1, over_tcp=True)
    stream = connected(desk)
    stream.deliver(framed(response(unframed(stream)[0])))
    stream.owner.on_readable(stream, 0.0)
    desk.ask(2, "b.test", over_tcp=True)
    stream.end()
    stream.owner.on_readable(stream, 0.0)
    assert stream.closed and len(desk.dialer.streams) == 2
    again = connected(desk)
    again.deliver(framed(response(unframed(again)[0])))
    again.owner.on_readable(again, 0.0)
    assert desk.told == [1, 2] and not desk.failures


def test_without_tcp_upstream_a_tcp_query_goes_over_udp() -> None:
    desk = Desk()
    desk.ask(1, over_tcp=True)
    stream = desk.dialer.streams[0]
    stream.connect(errno.ECONNREFUSED)
    stream.owner.on_writable(stream, 0.0)
    [(socket, message, _)] = desk.sent
    desk.reply(socket, response(message))
    assert list(desk.answers) == [1]


def test_without_tcp_upstream_a_truncated_answer_is_better_than_none() -> None:
    desk = Desk()
    desk.ask(1)
    [(socket, message, _)] = desk.sent
    desk.reply(socket, response(message, tc=True))
    stream = desk.dialer.streams[0]
    stream.connect(errno.ECONNREFUSED)
    stream.owner.on_writable(stream, 0.0)
    assert desk.answers[1][2] & 2, "TC is still set"


def test_without_tcp_upstream_a_tcp_query_never_gets_a_truncated_answer() -> None:
    desk = Desk()
    desk.ask(1, over_tcp=True)
    for _ in range(2):
        stream = desk.dialer.streams[-1]
        stream.connect(errno.ECONNREFUSED)
        stream.owner.on_writable(stream, 0.0)
        if desk.sent and not desk.told:
            socket, message, _ = desk.sent[0]
            desk.reply(socket, response(message, tc=True))
    assert desk.failures == {1: "refused"}


def test_a_connection_that_hangs_is_replaced_and_the_query_fails_in_time() -> None:
    desk = Desk()
    desk.ask(1, over_tcp=True)
    connected(desk)
    desk.run(4.0)
    assert len(desk.dialer.streams) == 2 and desk.dialer.streams[0].closed
    desk.run(5.0)
    assert desk.failures == {1: "timeout"}


def test_a_stream_that_takes_little_gets_the_rest_later() -> None:
    desk = Desk()
    desk.ask(1, over_tcp=True)
    desk.ask(2, "b.test", over_tcp=True)
    stream = desk.dialer.streams[0]
    stream.capacity = 5
    stream.connect()
    for _ in range(30):
        if stream.writable_wanted:
            stream.capacity = 5
            stream.owner.on_writable(stream, 0.0)
    assert len(unframed(stream)) == 2 and not stream.writable_wanted
    stream.fail(errno.ECONNRESET)
    stream.owner.on_readable(stream, 0.0)
    assert len(desk.sent) == 2, "both go over UDP, the only thing left to try"
