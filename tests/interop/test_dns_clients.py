"""Upstreams as people write them (stamps, names, presets), and clients that bring a resolver of their own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from netstack.upstream.tls import tbs_of
from tests.certificates import Authority
from tests.interop.conftest import ROOT, SERVER, UNNAMED, ip, missing
from tests.interop.dns_matrix import dig, serving
from tests.interop.dns_servers import ADDRESS, NAME, Unbound
from tests.interop.hostile_dns import HostileServers

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        any(shutil.which(each) is None for each in ("dig", "unbound")) or find_spec("cryptography") is None,
        reason="needs dig, unbound and cryptography",
    ),
]
if find_spec("h2") is None or find_spec("aioquic") is None:
    pytest.skip("needs h2 and aioquic", allow_module_level=True)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServers]:
    made = HostileServers(tmp_path_factory.mktemp("clients"))
    try:
        yield made
    finally:
        made.stop()


# --- stamps and names, on loopback ---


def stamp(kind: int, address: str, host: str, path: str = "", pins: tuple[bytes, ...] = ()) -> str:
    """A DNS stamp as its specification has it."""

    def field(octets: bytes) -> bytes:
        return bytes([len(octets)]) + octets

    def listed(items: tuple[bytes, ...]) -> bytes:
        if not items:
            return b"\0"
        heads = [len(each) | (0x80 if number + 1 < len(items) else 0) for number, each in enumerate(items)]
        return b"".join(bytes([head]) + each for head, each in zip(heads, items, strict=True))

    octets = bytes([kind]) + bytes(8) + field(address.encode())
    if kind:
        octets += listed(pins) + field(host.encode())
    if kind == 2:
        octets += field(path.encode())
    return "sdns://" + base64.urlsafe_b64encode(octets).decode().rstrip("=")


@pytest.mark.parametrize(("kind", "transport"), [(0, "udp"), (2, "https"), (3, "tls"), (4, "quic")])
def test_a_stamp(hostile: HostileServers, kind: int, transport: str) -> None:
    site = hostile.site(transport, "well")
    address = f"127.0.0.1:{site.port}"
    written = [stamp(kind, address, f"{NAME}:{site.port}", "/dns-query")]
    if kind:
        der = ssl.PEM_cert_to_DER_cert(hostile.certificate.read_text())
        pin = hashlib.sha256(tbs_of(der)).digest()
        written.append(stamp(kind, address, f"{NAME}:{site.port}", "/dns-query", (bytes(32), pin)))
    for each in written:
        with serving("--upstream", each, "--ca-file", hostile.ca_file) as (_process, port):
            assert dig(port, "host.example").address == ADDRESS
    if kind:
        asked = site.queries
        other = stamp(kind, address, f"{NAME}:{site.port}", "/dns-query", (bytes(32),))
        with serving("--upstream", other, "--ca-file", hostile.ca_file) as (process, port):
            assert dig(port, "host.example").code == "SERVFAIL"
        assert process.stderr is not None and "none of the chain is one that the stamp names" in process.stderr.read()
        assert site.queries == asked, "no question leaves"


@pytest.mark.parametrize("transport", ["tls", "https", "quic"])
def test_a_name_is_resolved_by_the_bootstrap_and_its_silence_is_a_failure(
    hostile: HostileServers, tmp_path: Path, transport: str
) -> None:
    site = hostile.site(transport, "well")
    url = f"{transport}://{NAME}:{site.port}"
    unbound = Unbound(tmp_path, hostile.authority.issue(NAME))
    unbound.start()
    try:
        options = ("--upstream", url, "--ca-file", hostile.ca_file)
        with serving(*options, "--bootstrap", f"127.0.0.1:{unbound.plain}") as (_process, port):
            assert dig(port, "host.example").address == ADDRESS
        if transport != "tls":  # it is the same for all
            return
        hole = hostile.site("udp", "black hole")
        with serving(*options, "--bootstrap", f"127.0.0.1:{hole.port}") as (_process, port):
            probe = dig(port, "host.example")
            assert probe.code == "SERVFAIL" and probe.seconds < 5.0
        both = ("--bootstrap", f"127.0.0.1:{hole.port}", "--bootstrap", f"127.0.0.1:{unbound.plain}")
        with serving(*options, *both) as (_process, port):
            probe = dig(port, "host.example")
            assert probe.address == ADDRESS and probe.seconds < 2.0
    finally:
        unbound.stop()


# --- presets and programs, in namespaces ---

NEEDS_NAMESPACES = pytest.mark.skipif(bool(missing("unbound", "curl")), reason=missing("unbound", "curl"))
PRESET = "203.0.113.80"
PRESET_QUIC = "203.0.113.81"
BOOTSTRAP = "76.76.2.22"  # Control D's own; in this namespace it is ours
_QUIC = """
import sys
from pathlib import Path
from tests.interop.dns_servers import QuicServer
server = QuicServer((Path(sys.argv[1]), Path(sys.argv[2])), 853, host=sys.argv[3])
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A namespace in which this is Control D: unbound, which answers DoH at one path only, and a DoQ server."""
    folder = tmp_path_factory.mktemp("preset")
    authority = Authority(folder)
    pem, key = authority.issue("dns.controld.com", "*.dns.controld.com")
    name = f"nst{os.getpid()}-preset"
    config = folder / "unbound.conf"
    config.write_text(
        f"""server:
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  root-hints: ""
  interface: {BOOTSTRAP}@53
  interface: {PRESET}@853
  interface: {PRESET}@443
  tls-port: 853
  https-port: 443
  http-endpoint: "/1ab23cd/my-phone"
  tls-service-key: "{key}"
  tls-service-pem: "{pem}"
  access-control: 0.0.0.0/0 allow
  local-zone: "example." redirect
  local-data: "example. 60 IN A {ADDRESS}"
  local-data: "dns.controld.com. 60 IN A {PRESET}"
  local-data: "my-phone-1ab23cd.dns.controld.com. 60 IN A {PRESET}"
  local-data: "my-phone-9quic.dns.controld.com. 60 IN A {PRESET_QUIC}"
remote-control:
  control-enable: no
"""
    )
    ip("netns", "add", name)
    processes = []
    try:
        ip("-n", name, "link", "set", "lo", "up")
        for address in (BOOTSTRAP, PRESET, PRESET_QUIC):
            ip("-n", name, "address", "add", f"{address}/32", "dev", "lo")
        quic = (sys.executable, "-c", _QUIC, str(pem), str(key), PRESET_QUIC)
        for command in (("unbound", "-d", "-c", str(config)), quic):
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", name, *command], cwd=ROOT, stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
        time.sleep(1.0)
        yield name, authority.ca_file
    finally:
        for process in processes:
            process.kill()
            process.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", name)


@NEEDS_NAMESPACES
@pytest.mark.parametrize(("protocol", "uid"), [("doh", "1AB23cd"), ("dot", "1ab23cd"), ("doq", "9quic")])
def test_a_preset_by_resolver_id_needs_nothing_else(
    preset: tuple[str, Path], tmp_path: Path, protocol: str, uid: str
) -> None:
    name, ca_file = preset
    config = tmp_path / "preset.toml"
    config.write_text(
        f'[dns]\ncd_uid = "{uid}"\ncd_protocol = "{protocol}"\ncd_client = "my-phone"\nca_file = "{ca_file}"\n'
    )
    process = subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, "-m", "netstack", "dns", "--listen", "127.0.0.1:5354",
         "--config", str(config)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        shown = subprocess.run(
            ["ip", "netns", "exec", name, "dig", "@127.0.0.1", "-p", "5354", "+short", "+time=6", "+tries=1",
             "a.example"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    finally:
        process.terminate()
        said = process.communicate(timeout=10)[1]
    assert shown.strip() == ADDRESS, said


@NEEDS_NAMESPACES
def test_curl_with_doh_of_its_own_passes_the_engine_and_opens_nothing(network, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    authority = Authority(tmp_path)
    pem, key = authority.issue(UNNAMED)
    config = tmp_path / "unbound.conf"
    config.write_text(
        f"""server:
  username: ""
  chroot: ""
  directory: "{tmp_path}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  root-hints: ""
  interface: {UNNAMED}@443
  https-port: 443
  tls-service-key: "{key}"
  tls-service-pem: "{pem}"
  access-control: 0.0.0.0/0 allow
  local-data: "hidden.example. 60 IN A {SERVER}"
remote-control:
  control-enable: no
"""
    )
    network.serve("unbound", "-d", "-c", str(config))
    time.sleep(1.0)
    words = ("curl", "-sS", "--max-time", "8", "--doh-insecure", "--doh-url", f"https://{UNNAMED}/dns-query",
             "http://hidden.example/5")  # fmt: skip
    done = network.exec("--enforcement", "off", "--", *words)
    assert done.stdout == "xxxxx", done.stderr
    done = network.exec("-v", "--", *words)
    assert done.returncode != 0 and not done.stdout, "neither the server by number nor what it says is believed"
    assert f"-> {UNNAMED}:443" in done.stderr
