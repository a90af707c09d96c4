"""Network namespaces for tests with real programs: a host that runs netstack, and the internet beyond it.

`host` is the namespace of the machine that netstack runs on, `net` holds the servers; a veth pair joins them. Every
address is from the documentation ranges (RFC 5737, RFC 3849) and lives in these namespaces only. Names carry the
process id.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netstack.link.linux import die_with_parent

ROOT = Path(__file__).resolve().parents[2]

SERVER, SERVER6 = "203.0.113.10", "2001:db8:113::10"
RESOLVER = "203.0.113.53"
UNNAMED = "203.0.113.66"  # a server that no name leads to
PREFIX = f"nst{os.getpid()}"

_HTTP = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        size = int(self.path.strip('/') or 5)
        self.send_response(200); self.send_header('Content-Length', str(size)); self.end_headers()
        self.wfile.write(b'x' * size)
    def log_message(self, *ignored): pass
Server(('::', 80), Handler).serve_forever()
"""

_UDP_ECHO = """
import select, socket, sys
families = [socket.AF_INET6 if ':' in host else socket.AF_INET for host in sys.argv[1:]]
sockets = [socket.socket(family, socket.SOCK_DGRAM) for family in families]
for s, host in zip(sockets, sys.argv[1:]):
    s.bind((host, 7))  # by address, so that answers come from where the question went
while True:
    for s in select.select(sockets, [], [])[0]:
        octets, peer = s.recvfrom(65535)
        s.sendto(octets, peer)
"""


def missing(*programs):
    """Why tests with namespaces and these programs cannot run here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    absent = [program for program in ("ip", *programs) if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else ""


@pytest.fixture
def need():
    """Skip unless these programs are there."""

    def check(*programs):
        reason = missing(*programs)
        if reason:
            pytest.skip(reason)

    return check


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def sweep():
    """Remove the namespaces of test runs that were killed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for name, number in re.findall(r"^(nst(\d+)-\w+)", listed, re.MULTILINE):
        if not os.path.exists(f"/proc/{number}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


class Network:
    """Two namespaces with servers; `run` and `start` run things in the host's."""

    def __init__(self):
        self.host, self.net = f"{PREFIX}-host", f"{PREFIX}-net"
        self._processes = []

    def up(self):
        sweep()
        for name in (self.host, self.net):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            # No duplicate address detection: a test does not wait for what nobody contests.
            self._sysctl(name, "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        ip("-n", self.host, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", self.net)
        for name, device, four, six in (
            (self.host, "up0", "192.0.2.2/24", "2001:db8:1::2/64"),
            (self.net, "down0", "192.0.2.1/24", "2001:db8:1::1/64"),
        ):
            ip("-n", name, "address", "add", four, "dev", device)
            ip("-n", name, "address", "add", six, "dev", device)
            ip("-n", name, "link", "set", device, "up")
        ip("-n", self.host, "route", "add", "default", "via", "192.0.2.1")
        ip("-n", self.host, "-6", "route", "add", "default", "via", "2001:db8:1::1")
        for address in (f"{SERVER}/32", f"{RESOLVER}/32", f"{UNNAMED}/32", f"{SERVER6}/128"):
            ip("-n", self.net, "address", "add", address, "dev", "lo")
        self.serve(sys.executable, "-c", _HTTP)
        self.serve(sys.executable, "-c", _UDP_ECHO, SERVER, SERVER6)
        self.serve(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
            "--pid-file=", f"--listen-address={RESOLVER}", "--bind-interfaces",
            f"--host-record=www.example.test,{SERVER},{SERVER6}", f"--host-record=four.example.test,{SERVER}",
            "--local-ttl=60", "--local=/test/",
        )  # fmt: skip
        self._await_servers()

    def _await_servers(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            table = subprocess.run(
                ["ip", "netns", "exec", self.net, "cat", "/proc/net/tcp6", "/proc/net/udp6", "/proc/net/udp"],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            if all(port in table for port in (":0050 ", ":0007 ", ":0035 ")):
                return
            time.sleep(0.05)
        raise AssertionError("the servers did not come up")

    @staticmethod
    def _sysctl(name, *settings):
        subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", *settings], check=False, capture_output=True)

    def serve(self, *command):
        self._processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.net, *command],
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,  # a killed test run leaves no server behind
            )
        )

    def start(self, *command, namespace=None, **settings):
        """A process in the host's namespace; the caller ends it."""
        settings.setdefault("stdout", subprocess.PIPE)
        settings.setdefault("stderr", subprocess.PIPE)
        settings.setdefault("text", True)
        return subprocess.Popen(["ip", "netns", "exec", namespace or self.host, *command], cwd=ROOT, **settings)

    def run(self, *command, namespace=None, timeout=30, **settings):
        """Run to the end in the host's namespace."""
        return subprocess.run(
            ["ip", "netns", "exec", namespace or self.host, *command],
            cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **settings,
        )  # fmt: skip

    def exec(self, *arguments, **settings):
        """`netstack exec` with the resolver of this network."""
        return self.run(sys.executable, "-m", "netstack", "exec", "--dns", RESOLVER, *arguments, **settings)

    def down(self):
        for process in self._processes:
            process.kill()
            process.wait()
        for name in (self.host, self.net):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.fixture(scope="session")
def network():
    """The namespaces and servers, once for all tests."""
    reason = missing("dnsmasq", "curl")
    if reason:
        pytest.skip(reason)
    made = Network()
    try:
        made.up()
        yield made
    finally:
        made.down()
