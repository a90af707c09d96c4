"""`netstack dns` with cache and edited answers, before Debian's unbound, asked with dnspython on real sockets."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.message
import dns.query
import dns.rcode
import pytest

pytestmark = pytest.mark.skipif(shutil.which("unbound") is None, reason="unbound is not installed")
ROOT = Path(__file__).resolve().parents[2]

UNBOUND = """server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  directory: "{folder}"
  pidfile: ""
  module-config: "iterator"
  local-zone: "test." static
  local-data: "test. 300 SOA ns.test. admin.test. 1 2 3 4 60"
  local-data: "short.test. 1 A 192.0.2.1"
  local-data: "long.test. 9000 A 192.0.2.2"
  local-data: "private.test. 60 A 10.0.0.1"
  local-data: "zero.test. 0 A 192.0.2.3"
  local-data: 'service.test. 60 HTTPS 1 . alpn="h3,h2" ipv4hint=192.0.2.9,10.0.0.9'
  local-data: "v4.test. 60 A 192.0.2.33"
  local-zone: "ipv4only.arpa." static
  local-data: "ipv4only.arpa. 60 AAAA 2001:db8:64::c000:aa"
remote-control:
  control-enable: no
"""

CONFIG = """
[dns]
upstreams = ["udp://127.0.0.1:{upstream}"]
[cache]
use = "on"
[answers]
ttl_max = 3600
strip_h3 = "on"
rebind = "remove"
dns64 = "discover"
[server]
listen = ["127.0.0.1:{port}"]
"""


def free_port() -> int:
    """A loopback port that nobody uses over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
        return port


class Served:
    """Both processes, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upstream_port, self.port = free_port(), free_port()
        (folder / "unbound.conf").write_text(UNBOUND.format(port=self.upstream_port, folder=folder))
        (folder / "netstack.toml").write_text(CONFIG.format(port=self.port, upstream=self.upstream_port))
        self.start_upstream()
        self.netstack = subprocess.Popen(
            [sys.executable, "-m", "netstack", "dns", "--config", str(folder / "netstack.toml")],
            stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert self.netstack.stdout is not None and self.netstack.stdout.readline().strip() == b"ready"

    def start_upstream(self) -> None:
        self.upstream = subprocess.Popen(
            ["unbound", "-c", str(self.folder / "unbound.conf")], stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with contextlib.suppress(OSError, dns.exception.Timeout):
                dns.query.udp(dns.message.make_query("test", "SOA"), "127.0.0.1", 0.1, self.upstream_port)
                return
            time.sleep(0.05)
        raise AssertionError("unbound does not answer")

    def stop_upstream(self) -> None:
        self.upstream.terminate()
        self.upstream.wait(5)

    def close(self) -> None:
        self.netstack.terminate()
        self.netstack.wait(5)
        self.stop_upstream()

    def ask(self, name: str, kind: str = "A", **how) -> dns.message.Message:  # type: ignore[no-untyped-def]
        return dns.query.udp(dns.message.make_query(name, kind, use_edns=0, **how), "127.0.0.1", 6, self.port)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = Served(tmp_path_factory.mktemp("answers"))
    yield world
    world.close()


def texts(message: dns.message.Message) -> list[str]:
    return [line for rrset in message.answer for line in rrset.to_text().split("\n")]


def test_answers_are_as_configured(served: Served) -> None:
    assert texts(served.ask("long.test")) == ["long.test. 3600 IN A 192.0.2.2"]
    assert texts(served.ask("zero.test")) == ["zero.test. 0 IN A 192.0.2.3"]
    assert texts(served.ask("private.test")) == [] and served.ask("private.test").authority
    assert texts(served.ask("service.test", "HTTPS")) == [
        'service.test. 60 IN HTTPS 1 . alpn="h2" ipv4hint="192.0.2.9"'
    ]
    assert texts(served.ask("v4.test", "AAAA")) == ["v4.test. 60 IN AAAA 2001:db8:64::c000:221"]


def test_kept_counted_down_and_served_stale_until_upstream_is_back(served: Served) -> None:
    assert served.ask("short.test").answer[0].ttl == 1
    assert served.ask("v4.test").answer[0].ttl == 60
    assert served.ask("absent.test").rcode() == dns.rcode.NXDOMAIN
    served.stop_upstream()
    time.sleep(1.2)
    assert served.ask("v4.test").answer[0].ttl in (58, 59)
    assert served.ask("absent.test").rcode() == dns.rcode.NXDOMAIN
    begun = time.monotonic()
    stale = served.ask("SHORT.test")
    assert time.monotonic() - begun < 2.0
    assert texts(stale) == ["SHORT.test. 30 IN A 192.0.2.1"]
    assert [int(option.code) for option in stale.options] == [dns.edns.EDECode.STALE_ANSWER]
    served.start_upstream()
    for _ in range(70):  # one attempt behind the stale answers every 5 s
        if served.ask("short.test").answer[0].ttl == 1:
            return
        time.sleep(0.1)
    raise AssertionError("still stale 7 s after the upstream came back")
