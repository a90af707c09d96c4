"""The sandbox's parent and child as they talk; the namespaces themselves are tried in tests/interop/test_exec.py."""

import errno
import os
import signal
import subprocess

import pytest

from netstack.cli import sandbox as module
from netstack.cli.sandbox import Sandbox
from netstack.config import Config
from netstack.core.errors import NetstackError, PermissionProblem
from netstack.link.linux import TunDevice


@pytest.fixture
def child(monkeypatch):
    """The child's preparation without namespaces: a pipe is its device."""

    def prepare(self):
        inside, outside = os.pipe()
        os.close(outside)
        return TunDevice(inside, "tun0", True), ""

    monkeypatch.setattr(module._Child, "_prepare", prepare)
    return monkeypatch


def play(command):
    with Sandbox(Config()) as sandbox:
        sandbox.start(command)
        device = sandbox.take_device()
        assert (device.name, device.offload) == ("tun0", True)
        os.fstat(device.fd)
        os.close(device.fd)
        assert not sandbox.has_ended(0)
        sandbox.go()
        assert sandbox.has_ended(10)
        return sandbox.wait()


@pytest.mark.parametrize(
    ("command", "status"),
    [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -TERM $$"], 143)],
)
def test_status_is_the_programs(child, command, status, capfd):
    assert play(command) == status
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [(["/nonexistent"], 127, "No such file"), (["/"], 126, "Permission denied")],
)
def test_program_that_cannot_start_is_said(child, command, status, words, capfd):
    assert play(command) == status
    assert capfd.readouterr().err == f"netstack: {command[0]}: {words}{' or directory' if status == 127 else ''}\n"


def test_program_inherits_neither_device_nor_channel(child, capfd):
    command = ["sh", "-c", "ls /proc/self/fd | wc -l"]
    subprocess.run(command, close_fds=False, check=True)
    play(command)
    without, within = capfd.readouterr().out.split()
    assert within == without


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (PermissionProblem("needs root"), PermissionProblem),
        (NetstackError("no tun"), NetstackError),
        (PermissionError(errno.EPERM, "refused"), PermissionProblem),
        (OSError(errno.EIO, "broken"), NetstackError),
    ],
)
def test_failed_preparation_is_raised_in_the_parent(monkeypatch, problem, kind):
    def fail(self):
        raise problem

    monkeypatch.setattr(module._Child, "_prepare", fail)
    with Sandbox(Config()) as sandbox:
        sandbox.start(["true"])
        with pytest.raises(kind) as caught:
            sandbox.take_device()
        assert type(caught.value) is kind
        assert str(problem).rpartition("] ")[2] in str(caught.value)


def test_child_that_dies_early_is_said(monkeypatch):
    monkeypatch.setattr(module._Child, "_prepare", lambda self: os._exit(3))
    with Sandbox(Config()) as sandbox:
        sandbox.start(["true"])
        with pytest.raises(NetstackError, match="ended before"):
            sandbox.take_device()


def test_warning_is_passed_on(child, capsys):
    prepare = module._Child._prepare
    child.setattr(module._Child, "_prepare", lambda self: (prepare(self)[0], "no resolv.conf"))
    with Sandbox(Config()) as sandbox:
        sandbox.start(["true"])
        os.close(sandbox.take_device().fd)
    assert capsys.readouterr().err == "netstack: no resolv.conf\n"


def test_leaving_kills_a_program_that_still_runs(child):
    with Sandbox(Config()) as sandbox:
        sandbox.start(["sleep", "60"])
        os.close(sandbox.take_device().fd)
        sandbox.go()
        pid = sandbox._pid
    assert not os.path.exists(f"/proc/{pid}")
    assert os.waitstatus_to_exitcode(sandbox._status) == -signal.SIGKILL


def test_program_is_never_started_without_go(child, tmp_path):
    with Sandbox(Config()) as sandbox:
        sandbox.start(["touch", str(tmp_path / "started")])
        os.close(sandbox.take_device().fd)
        sandbox._channel.close()
        assert sandbox.has_ended(10)
    assert not (tmp_path / "started").exists()


def test_signal_reaches_the_program(child):
    with Sandbox(Config()) as sandbox:
        sandbox.start(["sleep", "60"])
        os.close(sandbox.take_device().fd)
        sandbox.go()
        sandbox.signal(signal.SIGTERM)
        assert sandbox.wait() == 143
        sandbox.signal(signal.SIGTERM)  # it is gone: no error


@pytest.mark.parametrize(
    ("gateway", "device"),
    [("fd00:6e65:7473::1", "fd00:6e65:7473::2"), ("fd00::ff", "fd00::1"), ("fd00::", "fd00::1")],
)
def test_device_has_the_address_after_the_gateways(gateway, device):
    assert module._neighbour(gateway) == device


def test_resolv_conf_names_the_engine_and_keeps_the_search_list(monkeypatch, tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n\nsearch a.test b.test\noptions ndots:2\n# comment\n")
    monkeypatch.setattr(module, "_RESOLV_CONF", str(path))
    assert module._resolv_conf("10.0.0.1") == "nameserver 10.0.0.1\nsearch a.test b.test\noptions ndots:2\n"
    monkeypatch.setattr(module, "_RESOLV_CONF", str(tmp_path / "absent"))
    assert module._resolv_conf("10.0.0.1") == "nameserver 10.0.0.1\n"


class Mounts:
    """mount(2) played: what was asked, and errnos to raise."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.fail = set()
        for name in ("mount_tmpfs", "bind_mount", "detach"):
            monkeypatch.setattr(module.linux, name, lambda *arguments, name=name: self._do(name, *arguments))

    def _do(self, name, *arguments):
        self.asked.append((name, *arguments))
        if name in self.fail:
            raise OSError(errno.EPERM, "refused")


@pytest.fixture
def mounts(monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(module, "_SCRATCH", str(scratch))
    monkeypatch.setattr(module, "_RESOLV_CONF", str(tmp_path / "etc" / "resolv.conf"))
    monkeypatch.setattr(module, "_OTHER_RESOLVERS", (str(tmp_path / "resolved"), str(tmp_path / "absent")))
    (tmp_path / "etc").mkdir()
    return Mounts(monkeypatch)


def test_resolv_conf_is_bound_over_and_the_scratch_file_system_goes(mounts, tmp_path):
    target = tmp_path / "etc" / "resolv.conf"
    target.write_text("theirs")
    assert module._replace_resolv_conf("ours") == ""
    scratch = str(tmp_path / "scratch")
    assert mounts.asked == [
        ("mount_tmpfs", scratch), ("bind_mount", scratch + "/resolv.conf", str(target)), ("detach", scratch),
    ]  # fmt: skip
    assert target.read_text() == "theirs"


def test_link_into_a_resolver_daemons_directory_is_written_into_the_file_system_over_it(mounts, tmp_path):
    (tmp_path / "resolved").mkdir()
    (tmp_path / "etc" / "resolv.conf").symlink_to(tmp_path / "resolved" / "stub.conf")
    assert module._replace_resolv_conf("ours") == ""
    assert mounts.asked == [("mount_tmpfs", str(tmp_path / "resolved"))]
    assert (tmp_path / "resolved" / "stub.conf").read_text() == "ours"


def test_directory_that_could_not_be_covered_is_never_written_to(mounts, tmp_path):
    (tmp_path / "resolved").mkdir()
    (tmp_path / "etc" / "resolv.conf").symlink_to(tmp_path / "resolved" / "stub.conf")
    mounts.fail = {"mount_tmpfs"}
    assert "could not be replaced" in module._replace_resolv_conf("ours")
    assert list((tmp_path / "resolved").iterdir()) == []


def test_failed_bind_is_a_warning_and_leaves_no_scratch(mounts, tmp_path):
    mounts.fail = {"bind_mount"}
    assert "could not be replaced" in module._replace_resolv_conf("ours")
    assert mounts.asked[-1][0] == "detach"


@pytest.mark.parametrize(
    ("uid", "refused", "asked"),
    [
        (0, set(), [module.linux.CLONE_NEWNET | module.linux.CLONE_NEWNS]),
        (1000, set(), [module.linux.CLONE_NEWUSER | module.linux.CLONE_NEWNET | module.linux.CLONE_NEWNS]),
    ],
)
def test_user_namespace_only_where_it_is_needed(monkeypatch, uid, refused, asked):
    flags, written = [], []
    monkeypatch.setattr(module.os, "geteuid", lambda: uid)
    monkeypatch.setattr(module.os, "getegid", lambda: uid)
    monkeypatch.setattr(module.linux, "unshare", flags.append)
    monkeypatch.setattr(module.Path, "write_text", lambda self, text: written.append((str(self), text)))
    module._unshare()
    assert flags == asked
    if uid:
        assert ("/proc/self/uid_map", "1000 1000 1") in written and ("/proc/self/gid_map", "1000 1000 1") in written
    else:
        assert written == []


def test_refused_user_namespaces_say_what_to_do(monkeypatch):
    def refuse(flags):
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(module.linux, "unshare", refuse)
    with pytest.raises(PermissionProblem, match="sysctl"):
        module._unshare()
