"""Runs of datagrams over real sockets of the loopback interface."""

import errno
import socket

import pytest

from netstack.core.errors import CodecError
from netstack.core.flow import Endpoint
from netstack.upstream import bursts as module
from netstack.upstream.bursts import Bursts, BurstSocket, native_bursts
from netstack.upstream.datagrams import ask_for_errors

try:
    SHARED = Bursts()
except CodecError:
    pytest.skip("the native codec is not built here", allow_module_level=True)

HOSTS = [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]


class Deaf:
    def watch(self, *arguments):
        pass


def place(address):
    endpoint = Endpoint.of(address[0], address[1])
    return endpoint.address.ljust(16, b"\0") + endpoint.port.to_bytes(2, "big")


class Pair:
    """A burst socket and a plain one that it speaks with."""

    def __init__(self, host, family):
        self.far = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self.far.bind((host, 0))
        except OSError as problem:
            self.far.close()
            pytest.skip(f"{host}: {problem}")
        self.far.settimeout(5)
        own = socket.socket(family, socket.SOCK_DGRAM)
        own.bind((host, 0))
        own.setblocking(False)
        self.address = own.getsockname()
        self.place = place(self.far.getsockname())
        self.burst = BurstSocket(own, Deaf(), None, memoryview(bytearray(65_535)), SHARED,
                                 4 if family == socket.AF_INET else 6)  # fmt: skip

    def taken(self, count):
        return [self.far.recv(65_535) for _ in range(count)]

    def close(self):
        self.far.close()
        self.burst.close()


@pytest.fixture(params=HOSTS, ids=["v4", "v6"])
def pair(request):
    made = Pair(*request.param)
    yield made
    made.close()


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("sizes", [[5], [0], [3, 3, 3], [100, 100, 1], [1200] * 70, [30_000] * 3])
def test_a_run_arrives_as_its_datagrams(pair, gso, sizes, monkeypatch):
    if not gso:
        monkeypatch.setattr(SHARED, "gso", False)
    pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sent = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    assert pair.burst.send_run(memoryview(b"".join(sent)), sizes[0], pair.place) == len(sizes)
    assert pair.taken(len(sizes)) == sent


def test_what_waits_comes_as_runs_by_sender_and_size(pair):
    for octets in (b"aa", b"bb", b"c", b"", b"dd"):
        pair.far.sendto(octets, pair.address)
    other = socket.socket(pair.far.family, socket.SOCK_DGRAM)
    other.bind((pair.address[0], 0))
    other.sendto(b"ee", pair.address)
    runs, more = pair.burst.recv_runs()
    there, elsewhere = pair.place, place(other.getsockname())
    other.close()
    assert not more
    assert [(sender, count, size, bytes(octets)) for sender, count, size, octets in runs] == [
        (there, 3, 2, b"aabbc"), (there, 1, 0, b""), (there, 1, 2, b"dd"), (elsewhere, 1, 2, b"ee"),
    ]  # fmt: skip
    with pytest.raises(BlockingIOError):
        pair.burst.recv_runs()


def test_more_than_one_call_takes_is_told_and_then_joined_by_the_kernel(pair):
    for n in range(module.SLOTS + 1):
        pair.far.sendto(bytes([n]) * 60_000 if n == 0 else b"x", pair.address)
    runs, more = pair.burst.recv_runs()
    assert more and sum(count for _, count, _, _ in runs) == module.SLOTS
    assert [len(octets) for _, _, _, octets in runs] == [60_001, module.SLOTS - 2]
    runs, more = pair.burst.recv_runs()
    assert not more and [count for _, count, _, _ in runs] == [1]
    for n in range(3):
        pair.far.sendto(b"y%d" % n, pair.address)
    runs, more = pair.burst.recv_runs()
    assert b"".join(bytes(octets) for _, _, _, octets in runs) == b"y0y1y2"


def test_errors_are_told_as_by_the_plain_socket(pair):
    closed = socket.socket(pair.far.family, socket.SOCK_DGRAM)
    closed.bind((pair.address[0], 0))
    nowhere = place(closed.getsockname())
    closed.close()
    ask_for_errors(pair.burst._socket, 4 if pair.far.family == socket.AF_INET else 6)
    assert pair.burst.send_run(b"lost", 4, nowhere) == 1
    with pytest.raises(OSError) as caught:
        pair.burst.recv_runs()
    assert caught.value.errno == errno.ECONNREFUSED
    error = pair.burst.recv_error()
    assert error is not None and (error.errno, bytes(error.payload)) == (errno.ECONNREFUSED, b"lost")
    assert pair.burst.send_run(b"lost", 4, nowhere) == 1
    assert pair.burst.send_run(b"goes", 4, pair.place) == 1, "an earlier datagram's error costs this one nothing"
    assert pair.taken(1) == [b"goes"]


def test_a_closed_socket_raises(pair):
    pair.burst.close()
    for attempt in (pair.burst.recv_runs, lambda: pair.burst.send_run(b"x", 1, pair.place)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EBADF


def test_beside_the_pure_codec_datagrams_go_one_by_one():
    assert native_bursts("pure") is None
    assert isinstance(native_bursts("native"), Bursts)


def test_an_unknown_option_is_found_out():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert module._knows(sock, 103)
        assert not module._knows(sock, 99)
        module._ask(sock, 99)


def test_what_the_kernel_joined_is_one_run(pair):
    """On the loopback interface a run stays in one piece from UDP_SEGMENT to UDP_GRO."""
    module._ask(pair.burst._socket, 104)
    sender = BurstSocket(pair.far.dup(), Deaf(), None, memoryview(bytearray(65_535)), SHARED, pair.burst._version)
    octets = bytes(range(250)) * 8
    assert sender.send_run(octets, 190, place(pair.address)) == 11
    runs, more = pair.burst.recv_runs()
    sender.close()
    assert not more
    assert [(who, count, size, bytes(found)) for who, count, size, found in runs] == [(pair.place, 11, 190, octets)]


def test_a_run_that_the_path_cannot_take_in_one_piece_goes_one_by_one(pair):
    """Datagrams larger than the interface's MTU are fragmented, which UDP_SEGMENT refuses."""
    sent = [bytes([n]) * 65_400 for n in range(2)]
    pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert pair.burst.send_run(b"".join(sent), 65_400, pair.place) == 2
    assert pair.taken(2) == sent
