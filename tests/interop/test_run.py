"""`netstack run` with real programs: a device that is moved to another namespace while it is served."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.interop.conftest import PREFIX, RESOLVER, SERVER, SERVER6, UNNAMED, ip, missing

pytestmark = pytest.mark.interop

RUN = (sys.executable, "-m", "netstack", "run")
CURL = ("curl", "-sS", "--max-time", "10", "-w", "%{http_code}")


class Served:
    """`netstack run` in the host's namespace, its device in the app's, configured from outside as a user would."""

    def __init__(self, network, *options, device="nst0"):
        self.network = network
        self.app = f"{PREFIX}-app"
        self.device = device
        self.process = network.start(*RUN, "--tun", device, *options, stdin=subprocess.DEVNULL)

    def await_ready(self, timeout=10.0):
        assert select.select([self.process.stdout], [], [], timeout)[0], "never ready"
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def move(self):
        ip("netns", "add", self.app)
        ip("-n", self.app, "link", "set", "lo", "up")
        ip("-n", self.network.host, "link", "set", self.device, "netns", self.app)
        ip("-n", self.app, "address", "add", "10.92.7.2/24", "dev", self.device)
        ip("-n", self.app, "address", "add", "fd00:92::2/64", "dev", self.device, "nodad")
        ip("-n", self.app, "link", "set", self.device, "up")
        ip("-n", self.app, "route", "add", "default", "dev", self.device)
        ip("-n", self.app, "-6", "route", "add", "default", "dev", self.device)

    def run(self, *command, **settings):
        return self.network.run(*command, namespace=self.app, **settings)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            out, err = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", self.app)
        return out, err


@pytest.fixture
def serve(network):
    """Start `netstack run`; everything is gone afterwards."""
    running = []

    def start(*options, move=True):
        served = Served(network, *options)
        running.append(served)
        served.await_ready()
        if move:
            served.move()
        return served

    yield start
    for served in running:
        served.stop()


def test_ready_comes_soon_and_whatever_the_resolvers_do(network):
    started = time.monotonic()
    served = Served(network, "--dns", "192.0.2.254")
    try:
        served.await_ready()
        assert time.monotonic() - started < 2
    finally:
        served.stop()


@pytest.mark.parametrize("offload", ["auto", "off"])
@pytest.mark.parametrize("codec", ["pure", "auto"])
def test_device_served_across_a_move_carries_both_families(serve, offload, codec):
    served = serve("--enforcement", "off", "--offload", offload, "--codec", codec)
    for address in (SERVER, f"[{SERVER6}]"):
        done = served.run(*CURL, "-o", "/dev/null", "-w", "%{size_download}", f"http://{address}/3000000")
        assert done.stdout == "3000000", done.stderr


def test_strict_enforcement_with_dns_to_any_server(serve, need):
    need("dig")
    served = serve("--dns", RESOLVER, "-v")
    refused = served.run(*CURL, f"http://{UNNAMED}/5")
    assert refused.returncode == 7
    early = served.run(*CURL, f"http://{SERVER}/5")
    assert early.returncode == 7
    assert served.run("dig", "+short", "@198.51.100.9", "www.example.test").stdout == f"{SERVER}\n"
    assert served.run("dig", "+short", "@10.0.0.1", "www.example.test", "AAAA").stdout == f"{SERVER6}\n"
    assert served.run(*CURL, f"http://{SERVER}/5").stdout == "xxxxx200"
    assert served.run(*CURL, f"http://[{SERVER6}]/5").stdout == "xxxxx200"
    _, err = served.stop()
    assert "BLOCKED hardcoded IP: 10.92.7.2:" in err and f"{UNNAMED}:80" in err


def test_own_addresses_are_configurable(serve, need):
    need("ping")
    served = serve("--tun-address", "198.18.0.1,fd00:1::1", "--enforcement", "off")
    assert served.run("ping", "-c1", "-W2", "198.18.0.1").returncode == 0
    assert served.run("ping", "-6", "-c1", "-W2", "fd00:1::1").returncode == 0


def test_dead_resolver_delays_no_other_traffic(serve, need):
    need("dig")
    served = serve("--dns", "192.0.2.254", "--enforcement", "off")
    asking = served.network.start("dig", "+tries=1", "+time=8", "www.example.test", "@10.0.0.1", namespace=served.app)
    started = time.monotonic()
    assert served.run(*CURL, f"http://{SERVER}/5").stdout == "xxxxx200"
    assert time.monotonic() - started < 1.5
    out, _ = asking.communicate(timeout=10)
    assert "SERVFAIL" in out
    assert time.monotonic() - started < 7


def test_refused_and_unreachable_are_told_apart(serve):
    served = serve("--enforcement", "off")
    program = (
        "import socket, sys\n"
        f"for host, port in (({SERVER!r}, 81), ('192.0.2.254', 80)):\n"
        "    try: socket.create_connection((host, port), 8)\n"
        "    except OSError as problem: print(type(problem).__name__, problem.errno)\n"
    )
    done = served.run(sys.executable, "-c", program)
    assert done.stdout.splitlines() == ["ConnectionRefusedError 111", "OSError 113"], done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_ends_it_cleanly_and_the_device_goes(serve, number, status):
    served = serve(move=False)
    served.process.send_signal(number)
    assert served.process.wait(5) == status
    assert served.process.stderr.read() == ""
    assert "nst0" not in served.network.run("ip", "-br", "link").stdout


def test_deleted_device_is_one_line_and_status_1(serve):
    served = serve()
    served.run("ip", "link", "del", "nst0")
    assert served.process.wait(5) == 1
    err = served.process.stderr.read()
    assert err.startswith("netstack: the packet device is gone") and err.count("\n") == 1


def test_busy_device_is_one_line(serve, network):
    served = serve(move=False)
    done = network.run(*RUN, "--tun", served.device)
    assert done.returncode == 1
    assert done.stderr.startswith("netstack: nst0: the device is busy") and done.stderr.count("\n") == 1


def test_name_of_another_kind_of_device_is_one_line(network):
    done = network.run(*RUN, "--tun", "up0")
    assert done.returncode == 1
    assert done.stderr.startswith("netstack: up0:") and done.stderr.count("\n") == 1


def test_existing_device_is_served_with_its_own_mtu(network):
    ip("-n", network.host, "tuntap", "add", "mode", "tun", "name", "nst1")
    try:
        ip("-n", network.host, "link", "set", "nst1", "mtu", "1300")
        served = Served(network, "--enforcement", "off", device="nst1")
        try:
            served.await_ready()
            assert "mtu 1300" in network.run("ip", "link", "show", "nst1").stdout
            served.move()
            done = served.run(*CURL, "-o", "/dev/null", "-w", "%{size_download}", f"http://{SERVER}/100000")
            assert done.stdout == "100000"
        finally:
            served.stop()
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("-n", network.host, "link", "del", "nst1")


def test_inherited_descriptor_is_served(network):
    program = (
        "import os, subprocess, sys; from netstack.link.linux import open_tun\n"
        "device = open_tun('nst2', offload=False); os.set_inheritable(device.fd, True)\n"
        "sys.exit(subprocess.call([*sys.argv[1:], '--fd', str(device.fd)], pass_fds=[device.fd]))"
    )
    process = network.start(sys.executable, "-c", program, *RUN, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=10)


def test_pcap_and_events_of_a_served_device(serve, tmp_path):
    pcap, events = tmp_path / "out.pcapng", tmp_path / "out.ndjson"
    served = serve("--enforcement", "audit", "--pcap", str(pcap), "--events", str(events))
    assert served.run(*CURL, f"http://{SERVER}/5").stdout == "xxxxx200"
    served.stop()
    opened = [event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "flow_opened"]
    assert opened[0]["verdict"]["would_block"] is True
    assert pcap.stat().st_size > 500


def test_idle_engine_uses_no_time(serve):
    served = serve("--enforcement", "off")
    served.run(*CURL, f"http://{SERVER}/5")
    time.sleep(0.3)

    def wakes():
        with open(f"/proc/{served.process.pid}/status", encoding="utf-8") as status:
            return int(next(line for line in status if line.startswith("voluntary")).split()[1])

    before = wakes()
    time.sleep(2)
    assert wakes() - before <= 6


def test_without_namespaces_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in missing()
    monkeypatch.undo()
    assert "no-such-program" in missing("no-such-program")
