"""Real sockets on the loopback interface: dialling, protecting, errors."""

import contextlib
import errno
import os
import resource
import select
import socket

import pytest

from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import Endpoint
from netstack.upstream.dialer import SocketDialer

LOCAL = "127.0.0.1"


class Owner:
    def on_readable(self, socket, now):
        pass

    def on_writable(self, socket, now):
        pass


class Interest:
    """A poller that keeps what it was told."""

    def __init__(self):
        self.calls = []

    def watch(self, fd, socket, readable, writable):
        self.calls.append((fd, readable, writable))


@pytest.fixture
def poller():
    return Interest()


@pytest.fixture
def dialer(poller):
    return SocketDialer(poller)


def wait(sock, mask=select.POLLIN, timeout=2000):
    poll = select.poll()
    poll.register(sock.fileno(), mask)
    return poll.poll(timeout)


def listener(host=LOCAL):
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def test_dial_tcp_connects_and_carries(dialer):
    with listener() as server:
        stream = dialer.dial_tcp(Endpoint.of(*server.getsockname()), Owner())
        wait(stream, select.POLLOUT)
        assert stream.connect_error() == 0
        peer, _ = server.accept()
        with peer:
            assert stream.sendmsg([b"ab", memoryview(b"cd")]) == 4
            assert stream.send(b"e") == 1
            assert peer.recv(10) == b"abcde"
            with pytest.raises(BlockingIOError):
                stream.recv(10)
            peer.sendall(b"answer")
            wait(stream)
            assert stream.recv(3) == b"ans"
            assert stream.recv(100) == b"wer"
            stream.shutdown_write()
            assert peer.recv(10) == b""
            peer.close()
            wait(stream)
            assert stream.recv(10) == b""
        stream.close()
        stream.close()


def test_dial_tcp_over_ipv6(dialer):
    with listener("::1") as server:
        stream = dialer.dial_tcp(Endpoint.of("::1", server.getsockname()[1]), Owner())
        wait(stream, select.POLLOUT)
        assert stream.connect_error() == 0
        assert stream.is_alive()
        stream.close()


def test_refused_connection_is_told_by_errno(dialer):
    with listener() as server:
        port = server.getsockname()[1]
    try:
        stream = dialer.dial_tcp(Endpoint.of(LOCAL, port), Owner())
    except DialError as problem:  # some kernels say it at once
        assert problem.errno == errno.ECONNREFUSED
    else:
        wait(stream, select.POLLOUT)
        assert stream.connect_error() == errno.ECONNREFUSED
        stream.close()


def test_destination_without_sense_is_a_dial_error(dialer):
    with pytest.raises(DialError) as caught:
        dialer.dial_tcp(Endpoint.of("255.255.255.255", 80), Owner())
    assert caught.value.errno != 0


def test_abort_resets_the_peer(dialer):
    with listener() as server:
        stream = dialer.dial_tcp(Endpoint.of(*server.getsockname()), Owner())
        wait(stream, select.POLLOUT)
        peer, _ = server.accept()
        with peer:
            stream.abort()
            stream.abort()
            with pytest.raises(ConnectionResetError):
                peer.recv(1)


def test_close_is_an_orderly_end_for_the_peer(dialer):
    with listener() as server:
        stream = dialer.dial_tcp(Endpoint.of(*server.getsockname()), Owner())
        wait(stream, select.POLLOUT)
        peer, _ = server.accept()
        with peer:
            stream.close()
            assert peer.recv(1) == b""


def test_stream_of_a_vanished_address_is_not_alive(dialer, monkeypatch):
    with listener() as server:
        stream = dialer.dial_tcp(Endpoint.of(*server.getsockname()), Owner())
        wait(stream, select.POLLOUT)
        assert stream.is_alive()

        class Elsewhere:
            family = socket.AF_INET

            def getsockname(self):
                return ("192.0.2.77", 1)

        real, stream._socket = stream._socket, Elsewhere()
        assert not stream.is_alive()
        stream._socket = real
        stream.close()
        assert not stream.is_alive()


def test_interest_is_told_only_when_it_changes(dialer, poller):
    udp = dialer.open_udp(4, Owner())
    udp.watch(readable=True, writable=False)
    udp.watch(readable=True, writable=False)
    udp.watch(readable=True, writable=True)
    fd = udp.fileno()
    udp.close()
    udp.watch(readable=True, writable=False)
    assert poller.calls == [(fd, True, False), (fd, True, True), (fd, False, False)]


@pytest.mark.parametrize("verdict", ["refuse", "raise"])
def test_socket_that_is_not_protected_is_closed_and_never_used(poller, verdict):
    seen = []

    def protect(fd):
        seen.append(fd)
        assert socket.socket(fileno=os.dup(fd)).getsockname()[1] == 0  # neither bound nor connected
        if verdict == "raise":
            raise RuntimeError("host is away")
        return False

    dialer = SocketDialer(poller, protect)
    for opening in (
        lambda: dialer.dial_tcp(Endpoint.of(LOCAL, 9), Owner()),
        lambda: dialer.open_udp(4, Owner()),
        lambda: dialer.open_udp(6, Owner()),
        lambda: dialer.open_icmp(4, Owner()),
    ):
        before = len(seen)
        with pytest.raises((ProtectError, DialError)) as caught:
            opening()
        if len(seen) > before:
            assert isinstance(caught.value, ProtectError)
            with pytest.raises(OSError):
                os.fstat(seen[-1])
    assert len(seen) >= 3


def test_no_descriptor_left_is_a_dial_error(dialer):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with pytest.raises(DialError) as caught:
            for _ in range(100):
                held.callback(dialer.open_udp(4, Owner()).close)
    assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize(("version", "host"), [(4, LOCAL), (6, "::1")])
def test_udp_carries_datagrams(dialer, version, host):
    udp = dialer.open_udp(version, Owner())
    assert udp.local_port() == 0
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        there = Endpoint.of(host, peer.getsockname()[1])
        udp.sendto(b"", there)
        udp.sendto(b"x" * 60000, there)
        assert peer.recv(10) == b""
        octets, source = peer.recvfrom(65535)
        assert len(octets) == 60000
        assert source[1] == udp.local_port()
        peer.sendto(b"reply", source)
        wait(udp)
        assert udp.recvfrom() == (b"reply", there)
        with pytest.raises(BlockingIOError):
            udp.recvfrom()
    udp.close()
    udp.close()


@pytest.mark.parametrize(("version", "host", "kind"), [(4, LOCAL, (3, 3)), (6, "::1", (1, 4))])
def test_port_unreachable_is_kept_with_all_its_parts(dialer, version, host, kind):
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        closed = Endpoint.of(host, peer.getsockname()[1])
    udp = dialer.open_udp(version, Owner())
    udp.sendto(b"anyone?", closed)
    assert wait(udp)
    with pytest.raises(ConnectionRefusedError):
        udp.recvfrom()
    error = udp.recv_error()
    assert (error.icmp_type, error.icmp_code) == kind
    assert error.errno == errno.ECONNREFUSED
    assert error.destination == closed
    assert error.offender == closed.address
    assert error.payload == b"anyone?"
    assert udp.recv_error() is None
    assert not wait(udp, timeout=0)
    udp.close()


def test_error_swallowed_by_a_send_is_still_told_and_the_send_goes(dialer):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((LOCAL, 0))
        closed = Endpoint.of(LOCAL, peer.getsockname()[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alive:
        alive.bind((LOCAL, 0))
        udp = dialer.open_udp(4, Owner())
        udp.sendto(b"lost", closed)
        assert wait(udp)
        udp.sendto(b"goes", Endpoint.of(*alive.getsockname()))
        alive.settimeout(2)
        assert alive.recv(10) == b"goes"
        with pytest.raises(ConnectionRefusedError):
            udp.recvfrom()
        assert udp.recv_error().payload == b"lost"
        assert not wait(udp, timeout=0)
        udp.close()


def test_large_datagram_may_be_fragmented(dialer):
    udp = dialer.open_udp(4, Owner())
    assert udp._socket.getsockopt(socket.IPPROTO_IP, 10) == 0
    udp.close()


def echo_request(identifier, sequence, payload=b"ping"):
    body = bytes([8, 0, 0, 0]) + identifier.to_bytes(2, "big") + sequence.to_bytes(2, "big") + payload
    words = sum(int.from_bytes(body[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(body), 2))
    words = (words & 0xFFFF) + (words >> 16)
    return body[:2] + (~words & 0xFFFF).to_bytes(2, "big") + body[4:]


@pytest.mark.parametrize(("version", "host"), [(4, LOCAL), (6, "::1")])
def test_echo_socket_gets_its_own_replies(dialer, version, host):
    try:
        first, second = dialer.open_icmp(version, Owner()), dialer.open_icmp(version, Owner())
    except DialError as problem:
        pytest.skip(f"no ICMP socket here: {problem}")
    request = bytearray(echo_request(7, 1))
    if version == 6:
        request[0] = 128
    first.sendto(request, Endpoint.of(host, 0))
    wait(first)
    octets, source = first.recvfrom()
    assert octets[0] == (0 if version == 4 else 129)
    assert int.from_bytes(octets[4:6], "big") == first.local_port()
    assert octets[8:] == b"ping"
    assert source == Endpoint.of(host, 0)
    with pytest.raises(BlockingIOError):
        second.recvfrom()
    first.close()
    second.close()


def test_no_right_to_any_icmp_socket_is_a_dial_error(dialer, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("netstack.upstream.dialer.socket.SocketType", refuse)
    with pytest.raises(DialError) as caught:
        dialer.open_icmp(4, Owner())
    assert caught.value.errno == errno.EACCES
