"""TUN devices: names, fallbacks and refusals, with the kernel played. The real one is tried in tests/interop."""

import errno
import os
import struct

import pytest

from netstack.core.errors import NetstackError, PermissionProblem, UsageError
from netstack.link import linux

SETIFF, SETOFFLOAD, GETIFF, SETHDRSZ = 0x400454CA, 0x400454D0, 0x800454D2, 0x400454D8


class Kernel:
    """ioctl and open of /dev/net/tun; `refuse` maps a request to an errno, or to a function of its argument."""

    def __init__(self):
        self.refuse = {}
        self.asked = []
        self.open_error = 0
        self.flags = 0
        self.opened = []

    def open(self, path, flags):
        assert path == "/dev/net/tun" and flags & os.O_NONBLOCK and flags & os.O_CLOEXEC
        if self.open_error:
            raise OSError(self.open_error, os.strerror(self.open_error))
        self.opened.append(os.dup(0))
        return self.opened[-1]

    def ioctl(self, fd, request, argument):
        self.asked.append(request)
        refusal = self.refuse.get(request, 0)
        code = refusal(argument) if callable(refusal) else refusal
        if code:
            raise OSError(code, os.strerror(code))
        if request == SETIFF:
            self.flags = struct.unpack_from("H", argument, 16)[0]
        return struct.pack("16sH22x", b"tun7", self.flags)


@pytest.fixture
def kernel(monkeypatch):
    made = Kernel()
    real = os.open
    monkeypatch.setattr(linux.os, "open", lambda path, *rest: made.open(path, *rest) if "net/tun" in str(path)
                        else real(path, *rest))  # fmt: skip
    monkeypatch.setattr(linux.fcntl, "ioctl", made.ioctl)
    yield made
    for fd in made.opened:
        try:
            os.close(fd)
        except OSError:
            pass


def test_offloads_are_taken_where_they_are_given(kernel):
    device = linux.open_tun("tun7")
    assert (device.name, device.offload) == ("tun7", True)
    assert kernel.asked == [SETIFF, SETHDRSZ, SETOFFLOAD, GETIFF]
    assert kernel.flags == 0x5001


def test_plain_device_when_it_is_asked_for(kernel):
    device = linux.open_tun("tun7", offload=False)
    assert not device.offload
    assert kernel.flags == 0x1001
    assert linux.describe_tun(device.fd) == device


@pytest.mark.parametrize("request_number", [SETHDRSZ, SETOFFLOAD])
def test_plain_device_where_offloads_are_refused(kernel, request_number):
    kernel.refuse[request_number] = errno.EINVAL
    device = linux.open_tun("tun7")
    assert not device.offload
    assert kernel.flags == 0x1001
    assert kernel.opened[0] == kernel.opened[1]  # closed, so its number was free again


def test_plain_device_where_virtio_headers_are_unknown(kernel):
    kernel.refuse[SETIFF] = lambda argument: errno.EINVAL if argument[17] & 0x40 else 0
    assert not linux.open_tun("tun7").offload


def test_described_device_has_offloads_when_it_has_virtio_headers(kernel):
    assert linux.describe_tun(linux.open_tun("tun7").fd).offload


def test_descriptor_that_may_not_be_asked_counts_as_plain(kernel):
    kernel.refuse[GETIFF] = errno.EACCES
    assert linux.describe_tun(5) == linux.TunDevice(5, "", False)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.EPERM, PermissionProblem, "CAP_NET_ADMIN"),
        (errno.EBUSY, PermissionProblem, "busy"),
        (errno.EINVAL, NetstackError, "not a TUN"),
        (errno.ENODEV, NetstackError, "cannot attach"),
    ],
)
def test_refused_attachment_says_what_to_do(kernel, code, kind, words):
    kernel.refuse[SETIFF] = code
    with pytest.raises(kind, match=words) as caught:
        linux.open_tun("tun7")
    assert "tun7" in str(caught.value)
    for fd in kernel.opened:
        with pytest.raises(OSError):
            os.fstat(fd)


@pytest.mark.parametrize(("code", "kind"), [(errno.EACCES, PermissionProblem), (errno.ENOENT, NetstackError)])
def test_device_file_that_cannot_be_opened_says_so(kernel, code, kind):
    kernel.open_error = code
    with pytest.raises(kind, match="/dev/net/tun"):
        linux.open_tun("tun7")


@pytest.mark.parametrize("name", ["a" * 16, "a/b", "a b", "a:b", ".", ".."])
def test_impossible_name_is_a_usage_error(kernel, name):
    with pytest.raises(UsageError):
        linux.open_tun(name)
    assert kernel.asked == []


def test_namespace_that_is_not_there_is_an_oserror():
    with pytest.raises(OSError):
        linux.enter_namespace("/nonexistent")


def test_configuration_asks_for_addresses_and_both_default_routes(monkeypatch):
    asked = []

    class Recorder:
        def __enter__(self):
            return self

        def __exit__(self, *problem):
            pass

        def __getattr__(self, name):
            return lambda *arguments, **settings: asked.append((name, *arguments, settings))

    monkeypatch.setattr(linux, "Netlink", Recorder)
    linux.configure("tun7", ["10.0.0.2/24"], ["10.0.0.1", "fd00::1"], mtu=1400, queue=9)
    assert asked == [
        ("set_up", "tun7", {"mtu": 1400, "queue": 9}),
        ("add_address", "tun7", "10.0.0.2/24", {}),
        ("add_route", "tun7", "0.0.0.0/0", "10.0.0.1", {}),
        ("add_route", "tun7", "::/0", "fd00::1", {}),
    ]
