"""A `Stream` over a socket: interest, ends, what it says after its end. Dialling is in test_upstream_dialer."""

import errno
import socket

import pytest

from netstack.upstream.streams import SocketStream


class Interest(list):
    def watch(self, fd, socket, readable, writable):
        self.append((readable, writable))


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    interest = Interest()
    yield SocketStream(ours, interest, None), theirs, interest
    ours.close()
    theirs.close()


def test_full_socket_takes_a_part_and_then_nothing(pair):
    stream, theirs, _ = pair
    taken = stream.send(bytes(10_000_000))
    assert 0 < taken < 10_000_000
    with pytest.raises(BlockingIOError):
        while True:
            stream.send(bytes(1000))
    theirs.recv(1 << 20)
    assert stream.sendmsg([b"ab", b"c"]) == 3


def test_half_close_ends_one_direction_only(pair):
    stream, theirs, _ = pair
    stream.shutdown_write()
    stream.shutdown_write()
    assert theirs.recv(1) == b""
    theirs.sendall(b"still")
    assert stream.recv(10) == b"still"


def test_calls_after_the_end_are_oserrors_or_nothing(pair):
    stream, _, interest = pair
    stream.watch(readable=True, writable=False)
    stream.close()
    stream.close()
    stream.abort()
    stream.shutdown_write()
    stream.watch(readable=True, writable=True)
    assert interest == [(True, False), (False, False)]
    assert stream.fileno() == -1
    assert stream.connect_error() == errno.EBADF
    for call in (lambda: stream.recv(1), lambda: stream.send(b"x"), lambda: stream.sendmsg([b"x"])):
        with pytest.raises(OSError):
            call()


def test_abort_without_interest_tells_the_poller_nothing(pair):
    stream, _, interest = pair
    stream.abort()
    assert interest == []
