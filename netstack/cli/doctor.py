"""``netstack doctor``: what works on this machine, and what to do about the rest.

Responsible for: trying each thing that the commands need, changing nothing, and saying how it went.
Refuses to know: how the commands use it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
from collections.abc import Callable
from typing import Any

import netstack
from netstack import codec, engine
from netstack.cli.options import host_resolvers
from netstack.cli.sandbox import Sandbox
from netstack.config import Config
from netstack.core.errors import CodecError, DialError, NetstackError
from netstack.upstream.dialer import SocketDialer

_DESCRIPTION = """\
Say what this machine allows. Nothing is changed: a sandbox is made and thrown away, sockets are opened and closed.
Exit status 1 when `netstack exec` cannot work here."""

Finding = tuple[str, str]
"""A mark (ok, no, note) and a sentence."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser("doctor", help="say what this machine allows", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="the findings as one JSON object")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings; 0 when `exec` works."""
    findings = {name: check() for name, check in CHECKS.items()}
    if options.json:
        shown: dict[str, Any] = {name: {"status": mark, "detail": text} for name, (mark, text) in findings.items()}
        print(json.dumps({"version": netstack.__version__, **shown}))
    else:
        print(f"netstack {netstack.__version__}, Python {platform.python_version()}, {platform.platform()}")
        for name, (mark, text) in findings.items():
            print(f"{mark:>4}  {name}: {text}")
    return 0 if findings["sandbox"][0] == "ok" else 1


def _codec() -> Finding:
    try:
        codec.load("native")
    except CodecError as problem:
        return "note", f"pure Python is used, which is much slower: {problem}"
    return "ok", "the native codec is built and used"


def _pipeline() -> Finding:
    if (engine.__file__ or "").endswith(".py"):
        return "note", "the pipeline is interpreted, as in a source tree; `pip install` compiles it, which is faster"
    return "ok", "the pipeline is compiled"


def _tun() -> Finding:
    path = "/dev/net/tun"
    if not os.path.exists(path):
        return "no", f"{path} is missing: load the tun module"
    if not os.access(path, os.R_OK | os.W_OK):
        return "no", f"{path} is not readable and writable for you: run as root, or have its mode set to 0666"
    return "ok", f"{path} may be opened"


def _sandbox() -> Finding:
    try:
        with Sandbox(Config()) as sandbox:
            sandbox.start(["true"])
            device = sandbox.take_device()
            os.close(device.fd)
    except (NetstackError, OSError) as problem:
        return "no", f"`netstack exec` does not work: {problem}"
    how = "as root" if os.geteuid() == 0 else "without root"
    return "ok", f"`netstack exec` works {how}, {'with' if device.offload else 'without'} kernel offloads"


class _NoPoller:
    def watch(self, fd: int, socket: Any, readable: bool, writable: bool) -> None:
        """Nobody waits."""


class _NoOwner:
    def on_readable(self, socket: Any, now: float) -> None:
        """Nothing comes."""

    def on_writable(self, socket: Any, now: float) -> None:
        """Nothing goes."""


def _ping() -> Finding:
    kinds = []
    for version in (4, 6):
        try:
            socket = SocketDialer(_NoPoller()).open_icmp(version, _NoOwner())
        except DialError:
            kinds.append("none")
        else:
            kinds.append("raw" if type(socket).__name__.startswith("Raw") else "unprivileged")
            socket.close()
    if kinds == ["none", "none"]:
        return "note", "ping is not carried: allow it with sysctl net.ipv4.ping_group_range='0 2147483647'"
    return "ok", f"ICMP echo sockets: IPv4 {kinds[0]}, IPv6 {kinds[1]}"


def _descriptors() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4096:
        return "note", f"at most {hard} descriptors, one for each flow: raise the hard limit (ulimit -Hn)"
    return "ok", f"{'no limit' if hard == resource.RLIM_INFINITY else hard} descriptors"


def _resolvers() -> Finding:
    return "ok", "resolvers of this host: " + ", ".join(host_resolvers())


CHECKS: dict[str, Callable[[], Finding]] = {
    "codec": _codec,
    "pipeline": _pipeline,
    "tun": _tun,
    "sandbox": _sandbox,
    "ping": _ping,
    "descriptors": _descriptors,
    "resolvers": _resolvers,
}
