"""`netstack exec`: the order of things, signals, statuses. Real sandboxes are in tests/interop/test_exec.py."""

import os
import signal

import pytest

from netstack.cli import exec as module
from netstack.cli import main
from netstack.core.errors import PermissionProblem, TunnelClosed
from netstack.link.linux import TunDevice


class Sandbox:
    """Takes the place of the real one, and writes down what is asked of it."""

    last = None
    problem = None
    ended = True

    def __init__(self, config, *, offload):
        type(self).last = self
        self.asked = []
        self.config, self.offload = config, offload
        self.end_descriptor = 17

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.asked.append("closed")

    def start(self, command):
        self.asked.append(("start", command))

    def take_device(self):
        if self.problem:
            raise self.problem
        self.asked.append("device")
        inside, outside = os.pipe()
        os.close(outside)
        return TunDevice(inside, "tun0", self.offload)

    def go(self):
        self.asked.append("go")

    def signal(self, number):
        self.asked.append(("signal", number))

    def has_ended(self, timeout):
        return self.ended

    def wait(self):
        self.asked.append("wait")
        return 42


class Loop:
    def __init__(self):
        self.handlers = {}
        self.readers = []

    def add_signal_handler(self, number, callback, *arguments):
        self.handlers[number] = lambda: callback(*arguments)

    def add_reader(self, fd, callback):
        self.readers.append((fd, callback))


class Runtime:
    last = None
    end = None

    def __init__(self, config, *, emit, codec, network):
        from netstack.codec.pure import PureCodec

        type(self).last = self
        self.config, self.emit, self.codec = config, emit, PureCodec()
        self.loop = Loop()

    def stop(self):
        pass

    def run(self, make_tunnel, *, on_ready):
        from netstack.core.stats import Stats

        tunnel = make_tunnel(self.config, Stats(), self.emit, self)
        on_ready()
        tunnel.close()
        if self.end:
            raise self.end


@pytest.fixture(autouse=True)
def world(monkeypatch):
    Sandbox.problem, Sandbox.ended, Runtime.end = None, True, None
    monkeypatch.setattr(module, "Sandbox", Sandbox)
    monkeypatch.setattr(module, "LiveRuntime", Runtime)
    monkeypatch.setattr(module, "raise_descriptor_limit", lambda: Sandbox.last.asked.append("limit"))
    monkeypatch.setattr(module, "watch_network", lambda runtime, config: None)


def run(*arguments):
    return main(["exec", "--dns", "192.0.2.1", *arguments])


def test_program_starts_only_once_its_device_is_served():
    assert run("--", "prog", "-v", "--dns", "x") == 42
    assert Sandbox.last.asked == [("start", ["prog", "-v", "--dns", "x"]), "limit", "device", "go", "wait", "closed"]
    assert Runtime.last.loop.readers == [(17, Runtime.last.stop)]
    assert Sandbox.last.offload


def test_separator_may_be_left_out_and_may_be_the_programs():
    run("prog", "--", "x")
    assert Sandbox.last.asked[0] == ("start", ["prog", "--", "x"])
    run("--", "prog", "--", "x")
    assert Sandbox.last.asked[0] == ("start", ["prog", "--", "x"])


def test_enforcement_is_strict_unless_told():
    run("--", "prog")
    assert Sandbox.last.config.policy.enforcement == "strict"
    run("--enforcement", "audit", "--", "prog")
    assert Sandbox.last.config.policy.enforcement == "audit"


def test_packet_file_switches_offloads_off(tmp_path):
    run("--pcap", str(tmp_path / "x"), "--", "prog")
    assert not Sandbox.last.offload


def test_sandbox_that_cannot_be_made_is_one_line(capsys):
    Sandbox.problem = PermissionProblem("user namespaces are not allowed")
    assert run("--", "prog") == 1
    assert capsys.readouterr().err == "netstack: user namespaces are not allowed\n"
    assert Sandbox.last.asked[-1] == "closed"


def test_device_that_went_with_its_program_is_no_error(capsys):
    Runtime.end = TunnelClosed("gone")
    assert run("--", "prog") == 42
    Sandbox.ended = False
    assert run("--", "prog") == 1
    assert capsys.readouterr().err == "netstack: gone\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("foreground", [False, True])
def test_signals_go_to_the_program(monkeypatch, number, foreground):
    monkeypatch.setattr(module, "_is_foreground", lambda: foreground)
    run("--", "prog")
    Runtime.last.loop.handlers[number]()
    assert Sandbox.last.asked[-1] == ("signal", number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_signals_that_the_terminal_sent_to_both_are_not_sent_twice(monkeypatch, number):
    run("--", "prog")
    monkeypatch.setattr(module, "_is_foreground", lambda: True)
    Runtime.last.loop.handlers[number]()
    assert Sandbox.last.asked[-1] == "closed"
    monkeypatch.setattr(module, "_is_foreground", lambda: False)
    Runtime.last.loop.handlers[number]()
    assert Sandbox.last.asked[-1] == ("signal", number)


def test_without_a_terminal_nobody_is_in_the_foreground(monkeypatch):
    with open(os.devnull, encoding="utf-8") as null:
        monkeypatch.setattr(module.sys, "__stdin__", null)
        monkeypatch.setattr(module.sys, "__stderr__", None)
        assert module._is_foreground() is False
