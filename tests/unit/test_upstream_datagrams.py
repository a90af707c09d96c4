"""Datagram sockets: error parsing, identifiers, memory of endpoints. Real traffic is in test_upstream_dialer."""

import errno
import socket
import struct

import pytest

from netstack.core.flow import Endpoint
from netstack.upstream import datagrams
from netstack.upstream.datagrams import RawEchoSocket, UdpSocket, from_sockaddr, to_sockaddr

PEER = Endpoint.of("203.0.113.10", 80)


class Kernel:
    """A socket that gives what is queued: datagrams, errors kept, errnos raised."""

    family = socket.AF_INET

    def __init__(self):
        self.incoming = []
        self.errors = []
        self.sent = []

    def fileno(self):
        return 5

    def recvfrom_into(self, room):
        if not self.incoming:
            raise BlockingIOError(errno.EAGAIN, "none")
        found = self.incoming.pop(0)
        if isinstance(found, int):
            raise OSError(found, "pending")
        octets, address = found
        room[: len(octets)] = octets
        return len(octets), address

    def recvmsg(self, size, ancillary, flags):
        assert flags == 0x2000
        if not self.errors:
            raise BlockingIOError(errno.EAGAIN, "none")
        return self.errors.pop(0)

    def sendto(self, octets, address):
        self.sent.append((bytes(octets), address))

    def close(self):
        pass


class Deaf:
    def watch(self, *arguments):
        pass


def kept(code, icmp_type, icmp_code, info=0, payload=b"lost", offender=b"\xc0\x00\x02\x01"):
    sockaddr = struct.pack("=H", socket.AF_INET) + bytes(2) + offender + bytes(8)
    data = struct.pack("=IBBBxII", code, 2, icmp_type, icmp_code, info, 0) + sockaddr
    return payload, [(socket.IPPROTO_IP, 11, data)], 0, ("203.0.113.10", 80)


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def udp(kernel):
    return UdpSocket(kernel, Deaf(), None)


def test_error_has_all_its_parts(kernel, udp):
    kernel.errors = [kept(errno.EMSGSIZE, 3, 4, info=1280)]
    udp.error_pending = True
    error = udp.recv_error()
    assert (error.errno, error.icmp_type, error.icmp_code, error.info) == (errno.EMSGSIZE, 3, 4, 1280)
    assert (error.destination, error.offender, error.payload) == (PEER, bytes([192, 0, 2, 1]), b"lost")
    assert udp.recv_error() is None
    assert not udp.error_pending


def test_error_queue_is_not_asked_without_a_sign(kernel, udp):
    kernel.errors = [kept(errno.ECONNREFUSED, 3, 3)]
    assert udp.recv_error() is None
    assert len(kernel.errors) == 1


def test_kept_error_comes_out_of_a_read_that_has_nothing_else(kernel, udp):
    kernel.errors = [kept(errno.EHOSTUNREACH, 3, 1), kept(errno.ECONNREFUSED, 3, 3)]
    udp.error_pending = True
    with pytest.raises(OSError) as caught:
        udp.recvfrom()
    assert caught.value.errno == errno.EHOSTUNREACH
    assert udp.recv_error().icmp_code == 1
    assert udp.recv_error().icmp_code == 3
    assert udp.recv_error() is None
    with pytest.raises(BlockingIOError):
        udp.recvfrom()


def test_sign_without_an_error_is_forgotten(kernel, udp):
    udp.error_pending = True
    with pytest.raises(BlockingIOError):
        udp.recvfrom()
    assert not udp.error_pending


def test_failed_read_is_a_sign(kernel, udp):
    kernel.incoming = [errno.ECONNREFUSED]
    with pytest.raises(OSError):
        udp.recvfrom()
    assert udp.error_pending


def test_error_from_another_layer_is_passed_over(kernel, udp):
    payload, ancillary, flags, address = kept(errno.ECONNREFUSED, 3, 3)
    kernel.errors = [(payload, [(1, 1, b"other")], flags, address), (payload, ancillary, flags, address)]
    udp.error_pending = True
    assert udp.recv_error().icmp_code == 3


def test_offender_of_either_family_or_none():
    six = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    sockaddr6 = struct.pack("=HHI", socket.AF_INET6, 0, 0) + six + bytes(4)
    assert datagrams._offender(sockaddr6) == six
    assert datagrams._offender(b"") is None
    assert datagrams._offender(bytes(16)) is None


def test_endpoints_are_remembered_up_to_a_bound(kernel, udp):
    for port in range(1, 500):
        udp.sendto(b"", Endpoint(PEER.address, port))
        kernel.incoming.append((b"x", ("203.0.113.10", port)))
        assert udp.recvfrom()[1].port == port
    assert len(udp._to) <= 64 and len(udp._from) <= 64


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_addresses_survive_both_forms(host):
    endpoint = Endpoint.of(host, 53)
    family = socket.AF_INET if endpoint.version == 4 else socket.AF_INET6
    assert from_sockaddr(family, to_sockaddr(endpoint)) == endpoint


def test_interface_of_a_link_local_address_is_left_out():
    assert from_sockaddr(socket.AF_INET6, ("fe80::1%eth0", 5, 0, 2)) == Endpoint.of("fe80::1", 5)


def internet_sum(octets):
    words = sum(int.from_bytes(octets[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(octets), 2))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return words


@pytest.mark.parametrize("payload", [b"", b"odd", b"even", bytes(1000), b"\xff" * 1001])
def test_raw_echo_gets_its_identifier_and_a_right_checksum(kernel, payload):
    raw = RawEchoSocket(kernel, Deaf(), None, 0xBEEF)
    raw.sendto(bytes([8, 0, 1, 2, 0, 7, 0, 9]) + payload, Endpoint(PEER.address, 0))
    message, address = kernel.sent[0]
    assert address == ("203.0.113.10", 0)
    assert message[4:8] == bytes.fromhex("beef0009")
    assert message[8:] == payload
    assert internet_sum(message) == 0xFFFF
    assert raw.local_port() == 0xBEEF


def test_raw_echo_passes_over_replies_to_others(kernel):
    raw = RawEchoSocket(kernel, Deaf(), None, 0xBEEF)
    header = b"\x45" + bytes(19)
    other, ours = bytes(4) + b"\x00\x01\x00\x01", bytes(4) + b"\xbe\xef\x00\x01hello"
    kernel.incoming = [(header + other, ("192.0.2.1", 0)), (header + b"short", ("192.0.2.1", 0)),
                       (header + ours, ("203.0.113.10", 0))]  # fmt: skip
    assert raw.recvfrom() == (ours, Endpoint(PEER.address, 0))


def test_raw_echo_passes_over_errors_of_others(kernel):
    raw = RawEchoSocket(kernel, Deaf(), None, 0xBEEF)
    kernel.errors = [kept(1, 11, 0, payload=bytes(8)), kept(1, 11, 0, payload=bytes(4) + b"\xbe\xef\x00\x01")]
    raw.error_pending = True
    assert raw.recv_error().payload[4:6] == b"\xbe\xef"
    assert raw.recv_error() is None


def test_where_there_is_no_error_queue_there_are_no_errors(kernel, udp, monkeypatch):
    monkeypatch.setattr(datagrams, "_LINUX", False)
    kernel.errors = [kept(errno.ECONNREFUSED, 3, 3)]
    udp.error_pending = True
    assert udp.recv_error() is None
