"""What doctor says of a machine, with the machine played."""

import json

import pytest

from netstack.cli import doctor, main
from netstack.core.errors import CodecError, DialError, PermissionProblem


@pytest.fixture
def machine(monkeypatch):
    """Every check answers ok; a test changes one."""
    for name in doctor.CHECKS:
        monkeypatch.setitem(doctor.CHECKS, name, lambda name=name: ("ok", f"{name} is fine"))
    return monkeypatch


def test_all_well_is_status_0_and_a_line_each(machine, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(doctor.CHECKS)
    assert "  ok  sandbox: sandbox is fine" in lines


def test_no_sandbox_is_status_1(machine, capsys):
    machine.setitem(doctor.CHECKS, "sandbox", lambda: ("no", "not here"))
    assert main(["doctor"]) == 1
    assert "  no  sandbox: not here" in capsys.readouterr().out


def test_json(machine, capsys):
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tun"] == {"status": "ok", "detail": "tun is fine"}


def test_missing_native_codec_is_a_note(monkeypatch):
    def fail(name):
        raise CodecError("not built")

    monkeypatch.setattr(doctor.codec, "load", fail)
    mark, text = doctor._codec()
    assert mark == "note" and "not built" in text


@pytest.mark.parametrize(("exists", "access", "mark"), [(False, False, "no"), (True, False, "no"), (True, True, "ok")])
def test_tun_device_file(monkeypatch, exists, access, mark):
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: exists)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: access)
    assert doctor._tun()[0] == mark


def test_sandbox_that_fails_says_why(monkeypatch):
    class Fails:
        def __init__(self, config):
            pass

        def __enter__(self):
            raise PermissionProblem("no namespaces for you")

        def __exit__(self, *problem):
            pass

    monkeypatch.setattr(doctor, "Sandbox", Fails)
    mark, text = doctor._sandbox()
    assert mark == "no" and "no namespaces for you" in text


def test_no_icmp_socket_is_a_note(monkeypatch):
    def refuse(self, version, owner):
        raise DialError("no")

    monkeypatch.setattr(doctor.SocketDialer, "open_icmp", refuse)
    assert doctor._ping()[0] == "note"


@pytest.mark.parametrize(("hard", "mark"), [(1024, "note"), (100_000, "ok"), (-1, "ok")])
def test_descriptor_limit(monkeypatch, hard, mark):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (64, hard))
    assert doctor._descriptors()[0] == mark


def test_resolvers_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "host_resolvers", lambda: ("192.0.2.1", "2001:db8::1"))
    assert doctor._resolvers() == ("ok", "resolvers of this host: 192.0.2.1, 2001:db8::1")
