"""Route netlink: what is sent for each request, and what an answer means. The kernel is tried in tests/interop."""

import errno
import socket
import struct

import pytest

from netstack.link import netlink as module
from netstack.link.netlink import Netlink


class Kernel:
    """A netlink socket that acknowledges with `errors` in turn."""

    def __init__(self, *arguments):
        self.sent = []
        self.errors = []
        self.stray = False
        self.kind = 2
        self.closed = False

    def bind(self, address):
        assert address == (0, 0)

    def send(self, octets):
        self.sent.append(octets)

    def recv(self, size):
        serial = struct.unpack_from("=I", self.sent[-1], 8)[0]
        if self.stray:
            self.stray = False
            serial += 100
        error = self.errors.pop(0) if self.errors else 0
        return struct.pack("=IHHIIi", 20, self.kind, 0, serial, 0, -error)

    def close(self):
        self.closed = True


@pytest.fixture
def kernel(monkeypatch):
    made = Kernel()
    monkeypatch.setattr(module.socket, "socket", lambda *arguments: made)
    monkeypatch.setattr(module.socket, "if_nametoindex", {"tun0": 7}.__getitem__)
    return made


def attributes(octets, at):
    found = {}
    while at < len(octets):
        size, kind = struct.unpack_from("=HH", octets, at)
        found[kind] = octets[at + 4 : at + size]
        at += size + 3 & ~3
    return found


def test_link_is_brought_up_with_mtu_and_queue(kernel):
    with Netlink() as netlink:
        netlink.set_up("tun0", mtu=1400, queue=500)
    message = kernel.sent[0]
    size, kind, flags, _, _ = struct.unpack_from("=IHHII", message)
    assert (size, kind, flags) == (len(message), 16, 5)
    _, index, up, change = struct.unpack_from("=BxHiII", message, 16)[0:1] + struct.unpack_from("=iII", message, 20)
    assert (index, up, change) == (7, 1, 1)
    assert attributes(message, 32) == {4: struct.pack("=I", 1400), 13: struct.pack("=I", 500)}
    assert kernel.closed


@pytest.mark.parametrize(("address", "family", "prefix"), [("10.0.0.2/24", 2, 24), ("fd00::2/64", 10, 64)])
def test_address_is_added(kernel, address, family, prefix):
    with Netlink() as netlink:
        netlink.add_address("tun0", address)
    message = kernel.sent[0]
    assert struct.unpack_from("=BBBBi", message, 16) == (family, prefix, 0, 0, 7)
    found = attributes(message, 24)
    packed = socket.inet_pton(family, address.split("/")[0])
    assert found[1] == found[2] == packed
    assert (8 in found) == (family == 10)


@pytest.mark.parametrize(
    ("destination", "gateway", "scope", "kinds"),
    [("0.0.0.0/0", "10.0.0.1", 0, {4, 5}), ("::/0", "fd00::1", 0, {4, 5}), ("198.51.100.0/24", None, 253, {1, 4})],
)
def test_route_is_added(kernel, destination, gateway, scope, kinds):
    with Netlink() as netlink:
        netlink.add_route("tun0", destination, gateway)
    message = kernel.sent[0]
    assert message[16 + 6] == scope
    assert set(attributes(message, 28)) == kinds


def test_refusal_is_an_oserror_and_a_stray_answer_is_passed_over(kernel):
    kernel.errors = [0, errno.EPERM]
    kernel.stray = True
    with Netlink() as netlink, pytest.raises(PermissionError):
        netlink.set_up("tun0")


def test_answer_that_is_no_acknowledgement_is_an_oserror(kernel):
    kernel.kind = 3
    with Netlink() as netlink, pytest.raises(OSError, match="unexpected"):
        netlink.set_up("tun0")


def test_interface_that_is_not_there_is_an_oserror():
    with Netlink() as netlink, pytest.raises(OSError):
        netlink.set_up("no-such-device")
