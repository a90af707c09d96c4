"""The command line's frame: help, mistakes in one line, exit statuses."""

import subprocess
import sys

import pytest

from netstack import cli
from netstack.core.errors import ConfigError, NetstackError, PermissionProblem, UsageError


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_the_commands_with_examples(arguments, capsys):
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("exec", "run", "doctor", "examples:", "netstack exec -v -- curl"):
        assert word in shown


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("netstack ")


@pytest.mark.parametrize("command", ["exec", "run", "doctor"])
def test_each_command_has_help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert len(capsys.readouterr().out) > 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["run", "--tun", "x", "--nonsense"], "--nonsense"),
        (["run", "--tun", "x", "--dns", "not.an.address"], "not an IP address"),
        (["run", "--tun", "x", "--dns", "9.9.9.9:99999"], "port"),
        (["run", "--tun", "x", "--mtu", "100"], "576"),
        (["run", "--tun", "x", "--mtu", "many"], "576"),
        (["run", "--tun", "x", "--tun-address", "10.0.0.1,10.0.0.2"], "at most"),
        (["run", "--tun", "x", "--tun-address", "ten"], "not an IP address"),
        (["run", "--tun", "x", "--enforcement", "mild"], "mild"),
        (["run", "--tun", "x", "--codec", "rust"], "rust"),
        (["run"], "--tun"),
        (["run", "--tun", "x", "--fd", "3"], "not allowed"),
        (["run", "--fd", "three"], "three"),
        (["run", "--fd", "12345"], "no such descriptor"),
        (["run", "--tun", "a-name-that-is-too-long"], "15"),
        (["exec"], "no program"),
        (["exec", "--"], "no program"),
        (["exec", "--nonsense", "--", "true"], "--nonsense"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(arguments, words, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("netstack: ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("problem", "status", "line"),
    [
        (NetstackError("it broke"), 1, "netstack: it broke\n"),
        (PermissionProblem("not allowed\nhere"), 1, "netstack: not allowed here\n"),
        (ConfigError("tunnel.mtu: bad"), 1, "netstack: tunnel.mtu: bad\n"),
        (UsageError("called wrongly"), 2, "netstack: called wrongly\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(5), 5, ""),
    ],
)
def test_error_becomes_one_line_and_its_status(monkeypatch, capsys, problem, status, line):
    import netstack.cli.doctor

    def fail(options):
        raise problem

    monkeypatch.setattr(netstack.cli.doctor, "run", fail)
    assert cli.main(["doctor"]) == status
    assert capsys.readouterr().err == line


def test_configuration_that_cannot_be_read_is_one_line(capsys, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[tunnel]\nmut = 5\n")
    for name, words in ((str(path), "did you mean tunnel.mtu"), ("/nonexistent", "cannot read")):
        assert cli.main(["run", "--tun", "x", "--config", name]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error


def test_python_m_netstack_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "netstack", "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("netstack ")


def test_only_the_wanted_command_is_imported():
    program = (
        "import sys; from netstack.cli import main; main(['--help']); "
        "print([m for m in sys.modules if m.startswith(('netstack.engine', 'netstack.cli.', 'asyncio', 'dns'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
