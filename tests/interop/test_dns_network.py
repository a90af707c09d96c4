"""`netstack dns` while its host moves to another network, under load, in namespaces.

The host keeps its name and loses its address; the old network takes its packets and brings nothing back, and nobody
says so: what radio networks do.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.interop.conftest import ROOT, ip, missing
from tests.interop.dns_load import Load
from tests.interop.dns_servers import ADDRESS

REASON = missing("unbound")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(REASON) or find_spec("cryptography") is None, reason=REASON or "needs cryptography"),
]
if find_spec("h2") is None or find_spec("aioquic") is None:
    pytest.skip("needs h2 and aioquic", allow_module_level=True)

SERVER = "203.0.113.53"
NETWORKS = {1: "192.0.2", 2: "198.51.100"}
PORT = 5354
_QUIC = """
import sys
from pathlib import Path
from tests.interop.dns_servers import QuicServer
server = QuicServer((Path(sys.argv[1]), Path(sys.argv[2])), 8853, host=sys.argv[3])
sys.stdin.read()
"""


class Networks:
    """A host on one of two networks, and a resolver that both lead to."""

    def __init__(self, folder: Path) -> None:
        self.host, self.net = f"nst{os.getpid()}-moving", f"nst{os.getpid()}-beyond"
        self.folder = folder
        self.authority = Authority(folder)
        self.certificate = self.authority.issue(SERVER)
        self._processes: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        for name in (self.host, self.net):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number in (1, 2):
            near, far = f"near{number}", f"far{number}"
            ip("-n", self.host, "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.net)
            ip("-n", self.net, "address", "add", f"{NETWORKS[number]}.1/24", "dev", far)
            ip("-n", self.net, "link", "set", far, "up")
            ip("-n", self.host, "link", "set", near, "up")
        ip("-n", self.net, "address", "add", f"{SERVER}/32", "dev", "lo")
        self.join(1)
        pem, key = self.certificate
        config = self.folder / "unbound.conf"
        config.write_text(
            f"""server:
  username: ""
  chroot: ""
  directory: "{self.folder}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  root-hints: ""
  interface: {SERVER}@53
  interface: {SERVER}@853
  interface: {SERVER}@443
  tls-port: 853
  https-port: 443
  tls-service-key: "{key}"
  tls-service-pem: "{pem}"
  access-control: 0.0.0.0/0 allow
  local-zone: "example." redirect
  local-data: "example. 60 IN A {ADDRESS}"
remote-control:
  control-enable: no
"""
        )
        self._start("unbound", "-d", "-c", str(config))
        self._start(sys.executable, "-c", _QUIC, str(pem), str(key), SERVER)
        end = time.monotonic() + 15
        while not self._listening():
            assert time.monotonic() < end, "the servers do not come up"
            time.sleep(0.1)

    def _start(self, *command: str) -> None:
        self._processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.net, *command], cwd=ROOT, stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip

    def _listening(self) -> bool:
        shown = subprocess.run(
            ["ip", "netns", "exec", self.net, "cat", "/proc/net/tcp", "/proc/net/udp"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return all(port in shown for port in (":0035 ", ":0355 ", ":01BB ", ":2295 "))

    def join(self, number: int) -> None:
        """Onto this network, away from the other, in one go."""
        commands = []
        for each in (1, 2):
            if each != number:
                commands.append(f"address flush dev near{each}")
        commands.append(f"address replace {NETWORKS[number]}.2/24 dev near{number}")
        commands.append(f"route replace default via {NETWORKS[number]}.1 dev near{number}")
        subprocess.run(
            ["ip", "-n", self.host, "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True,
            capture_output=True,
        )  # fmt: skip

    def down(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for name in (self.host, self.net):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    made = Networks(tmp_path_factory.mktemp("networks"))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.mark.parametrize("scheme", ["udp", "tcp", "tls", "https", "quic"])
def test_service_goes_on_at_once_on_another_network(networks: Networks, scheme: str) -> None:
    networks.join(1)
    process = subprocess.Popen(
        ["ip", "netns", "exec", networks.host, sys.executable, "-m", "netstack", "dns", "--cache", "off",
         "--listen", f"127.0.0.1:{PORT}", "--upstream", f"{scheme}://{SERVER}" + (":8853" if scheme == "quic" else ""),
         "--ca-file", str(networks.authority.ca_file)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        load = Load(PORT, "example", namespace=networks.host)
        time.sleep(0.7)
        started = time.monotonic()
        networks.join(2)
        moved = time.monotonic()
        time.sleep(1.5)
        asked = load.stop()
    finally:
        process.terminate()
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 0 and "Traceback" not in said and "internal error" not in said
    before = [one for one in asked if one.answered and one.answered < started]
    assert len(before) > 50 and {one.code for one in asked} == {0}, "nothing is lost, nothing fails"
    assert max(one.took for one in asked) < 1.0
    first = min(one.answered for one in asked if one.sent > moved)
    assert first - moved < 0.4, "reset within 100 ms, then a handshake at the most"
    assert max(one.took for one in asked if one.sent > moved + 0.5) < 0.5


@pytest.mark.skipif(shutil.which("dnsperf") is None or not os.path.exists("/dev/net/tun"), reason="needs dnsperf, TUN")
@pytest.mark.parametrize("scheme", ["udp", "tls"])
def test_the_same_through_the_tunnel(networks: Networks, tmp_path: Path, scheme: str) -> None:
    networks.join(1)
    names = tmp_path / "names"
    names.write_text("".join(f"w{number}.example A\n" for number in range(2000)))
    process = subprocess.Popen(
        ["ip", "netns", "exec", networks.host, sys.executable, "-m", "netstack", "exec", "--cache", "off",
         "--upstream", f"{scheme}://{SERVER}", "--ca-file", str(networks.authority.ca_file), "--",
         "dnsperf", "-s", "10.0.0.1", "-d", str(names), "-c", "2", "-q", "50", "-Q", "200", "-l", "3"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(2)
    networks.join(2)
    shown, said = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in said, said
    assert re.search(r"Queries lost:\s+0 ", shown) and re.search(r"NOERROR \d+ \(100\.00%\)", shown), shown + said
    longest = re.search(r"Average Latency \(s\):.*max ([\d.]+)", shown)
    assert longest is not None and float(longest[1]) < 1.0, shown
