"""Changes while real programs are at work: SIGHUP under load, the blocking state and its network check, networks."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.interop.conftest import SERVER, SERVER6, ip
from tests.interop.test_run import CURL, Served

ROOT = Path(__file__).resolve().parents[2]
OWN = "203.0.113.54"  # the resolver that the network itself has
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq"),
]


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return udp.getsockname()[1]


@contextlib.contextmanager
def dnsmasq(port, address):
    """Every name below test has this address."""
    process = subprocess.Popen(
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
         "--pid-file=", f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces",
         f"--address=/test/{address}", "--local-ttl=0"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: address_of("up.test", port) == address)
        yield
    finally:
        process.kill()
        process.wait()


def wait_for(done, seconds=5.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def ask(name, port, kind="A", timeout=6.0):
    with contextlib.suppress(dns.exception.Timeout, OSError):
        return dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", timeout, port)
    return None


def address_of(name, port):
    answer = ask(name, port, timeout=1.0)
    return str(answer.answer[-1][0]) if answer is not None and answer.answer else ""


class Resolver:
    """`netstack dns` with a configuration that may be written anew."""

    def __init__(self, folder, text):
        self.port, self.file = free_port(), folder / "netstack.toml"
        self.write(text)
        self.errors = folder / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "netstack", "dns", "--config", str(self.file)],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert self.process.stdout.readline() == b"ready\n", self.errors.read_text()

    def write(self, text):
        self.file.write_text(f'{text}\n[server]\nlisten = ["127.0.0.1:{self.port}"]\n')

    def hang_up(self, text=None):
        if text is not None:
            self.write(text)
        self.process.send_signal(signal.SIGHUP)

    def close(self):
        self.process.terminate()
        assert self.process.wait(10) == 0
        assert "Traceback" not in self.errors.read_text()


@pytest.fixture
def resolver(tmp_path):
    made = []

    def start(text):
        made.append(Resolver(tmp_path, text))
        return made[-1]

    yield start
    for each in made:
        each.close()


class Load(threading.Thread):
    """Asks all the time; `failures` are queries without a good answer, `seen` the addresses in their order."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.port, self.number = port, number
        self.seen, self.failures, self.count, self.over = [], [], 0, False

    def run(self):
        while not self.over:
            self.count += 1
            answer = ask(f"l{self.number}-{self.count}.test", self.port)
            if answer is None or answer.rcode() != 0 or not answer.answer:
                self.failures.append(answer)
            elif not self.seen or self.seen[-1] != str(answer.answer[-1][0]):
                self.seen.append(str(answer.answer[-1][0]))


def test_upstreams_rules_and_lists_change_under_load_without_losing_a_query(resolver, tmp_path):
    one, two, names = free_port(), free_port(), tmp_path / "names"
    names.write_text("ads.test\n")

    def text(port, more=""):
        return f'[dns]\nupstreams = ["udp://127.0.0.1:{port}"]\n[filter]\nblock = ["{names}"]\n{more}'

    with dnsmasq(one, "192.0.2.1"), dnsmasq(two, "192.0.2.2"):
        server = resolver(text(one))
        loads = [Load(server.port, number) for number in range(8)]
        for load in loads:
            load.start()
        for number in range(20):
            names.write_text("".join(f"n{each}.test\n" for each in range(number + 2)) + "ads.test\n")
            time.sleep(0.05)
            server.hang_up(text(two if number % 2 == 0 else one))
            wait_for(lambda number=number: ask(f"n{number + 1}.test", server.port).rcode() == 3)
        names.write_bytes(b"\0\0\0\n")  # damaged: the last good one stays
        server.hang_up(text(two, '[[rules]]\naction = "refused"\nnames = ["no.test"]'))
        wait_for(lambda: ask("no.test", server.port).rcode() == 5)
        assert ask("ads.test", server.port).rcode() == 3
        for load in loads:
            load.over = True
        for load in loads:
            load.join(10)
    assert [load.failures for load in loads] == [[]] * 8
    assert sum(load.count for load in loads) > 500 and {len(load.seen) > 4 for load in loads} == {True}
    assert f"{names}: " in server.errors.read_text() and "stays in force" in server.errors.read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dns\n", "not valid TOML"),
        ("[dns]\nservrs = []\n", "did you mean dns.servers"),
        ('[dns]\nupstreams = ["ftp://x"]\n', "ftp://x"),
        ('[filter]\nblock = ["/nowhere/list"]\n', "/nowhere/list: cannot be read"),
        ('[[rules]]\naction = "explode"\n', "explode"),
        ('[dns]\nca_file = "/nowhere/ca"\nupstreams = ["tls://192.0.2.1"]\n', "/nowhere/ca"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_changes_nothing(resolver, text, words):
    port = free_port()
    with dnsmasq(port, "192.0.2.1"):
        server = resolver(f'[dns]\nupstreams = ["udp://127.0.0.1:{port}"]\n')
        for _ in range(2):
            before = server.errors.read_text()
            server.hang_up(text)
            wait_for(lambda before=before: server.errors.read_text() != before)
            said = server.errors.read_text()[len(before) :]
            assert words in said and "stay in force" in said and said.count("\n") == 1
            assert address_of("www.test", server.port) == "192.0.2.1"


@pytest.mark.parametrize(
    ("check", "address"), [("off", ""), ("on", "192.0.2.1"), ("leak-free", "198.51.100.1")]
)  # fmt: skip
def test_the_blocking_state_of_the_resolver_alone(resolver, check, address):
    port = free_port()
    blocked = (
        f'[dns]\nupstreams = ["udp://127.0.0.1:1"]\nnetwork_servers = ["127.0.0.1:{port}"]\n'
        f'[lockdown]\nblocking = true\nnetwork_check = {str(check != "off").lower()}\nnames = ["check.test"]\n'
        f"leak_free = {str(check == 'leak-free').lower()}\n"
    )
    with dnsmasq(port, "192.0.2.1"):
        server = resolver(blocked)
        assert ask("www.test", server.port).rcode() == dns.rcode.REFUSED
        assert address_of("check.test", server.port) == address
        server.hang_up(f'[dns]\nupstreams = ["udp://127.0.0.1:{port}"]\n')
        wait_for(lambda: address_of("www.test", server.port) == "192.0.2.1")


# --- behind a tunnel ---


@pytest.fixture(scope="module")
def own_resolver(network, tmp_path_factory):
    """The network's own resolver, which knows the network check; the resolv.conf that names it."""
    ip("-n", network.net, "address", "add", f"{OWN}/32", "dev", "lo")
    process = network.start(
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
        "--pid-file=", f"--listen-address={OWN}", "--bind-interfaces", f"--address=/apple.com/{SERVER}",
        f"--address=/test/{SERVER}", "--local-ttl=60", namespace=network.net, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    resolv = tmp_path_factory.mktemp("resolv") / "resolv.conf"
    resolv.write_text(f"nameserver {OWN}\n")
    time.sleep(0.5)
    yield resolv
    process.kill()
    process.wait()
    ip("-n", network.net, "address", "del", f"{OWN}/32", "dev", "lo")


def behind(resolv, *command):
    """`command` with this resolv.conf."""
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {resolv} /etc/resolv.conf; exec "$@"', "sh", *command]


EXEC = (sys.executable, "-m", "netstack", "exec")


def test_only_the_network_check_passes_while_blocking(network, own_resolver, tmp_path):
    events = tmp_path / "events"
    check = "http://captive.apple.com/5"
    script = (
        f"{' '.join(CURL)} {check}; echo; "
        f"{' '.join(CURL)} -m 3 http://www.example.test/5; echo; "  # another name
        f"{' '.join(CURL)} -m 3 http://{SERVER}:22/; echo; "  # another port of the check's address
        f"{' '.join(CURL)} http://{SERVER}/5; echo"  # the check's address and port
    )
    done = network.run(
        *behind(own_resolver, *EXEC, "--upstream", "udp://192.0.2.254", "--lockdown", "--network-check", "on",
                "--enforcement", "off", "--events", str(events), "--", "sh", "-c", script),
    )  # fmt: skip
    assert done.stdout.splitlines() == ["xxxxx200", "000", "000", "xxxxx200"], done.stderr
    assert "Could not resolve" in done.stderr
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    [began] = [line for line in lines if line["event"] == "lockdown_changed"]
    assert (began["state"], began["network_check"]) == ("blocking", True)
    opened = [line["verdict"] for line in lines if line["event"] == "flow_opened"]
    assert {verdict["reason"] for verdict in opened} == {"lockdown"}
    blocked = [line for line in lines if line["event"] == "flow_blocked"]
    assert any(line["flow"]["destination"].endswith(":22") for line in blocked)


@pytest.mark.parametrize("check", ["off", "leak-free"])
def test_nothing_leaves_the_device_without_the_check_or_with_the_leak_free_one(network, own_resolver, check):
    seen = network.start("timeout", "6", "tcpdump", "-nn", "-l", "-i", "up0", "ip", stdin=subprocess.DEVNULL)
    time.sleep(0.7)
    done = network.run(
        *behind(own_resolver, *EXEC, "--lockdown", "--network-check", check, "--",
                "sh", "-c", f"{' '.join(CURL)} -m 3 http://captive.apple.com/5; getent ahostsv4 captive.apple.com"),
    )  # fmt: skip
    out, _ = seen.communicate(timeout=10)
    assert not out.strip(), "packets left the device"
    assert ("198.51.100.1" in done.stdout) == (check == "leak-free")
    assert done.stdout.startswith("000")


def test_hangup_changes_a_tunnel_and_live_flows_survive(network, own_resolver, tmp_path):
    file, names = tmp_path / "netstack.toml", tmp_path / "names"
    names.write_text("four.example.test\n")
    upstreams = f'[dns]\nupstreams = ["udp://{OWN}"]\n'
    file.write_text(upstreams)
    served = Served(network, "--config", str(file), "-v")
    try:
        served.await_ready()
        served.move()
        assert SERVER in served.run("dig", "@10.9.9.9", "+short", "four.example.test").stdout
        slow = network.start(
            *CURL, "--limit-rate", "1000000", "-o", "/dev/null", "-w", "%{size_download}", f"http://{SERVER}/4000000",
            namespace=served.app,
        )
        time.sleep(1.0)
        file.write_text(upstreams + f'[filter]\nblock = ["{names}"]\n')
        served.process.send_signal(signal.SIGHUP)  # `ip netns exec` becomes its command
        wait_for(lambda: "NXDOMAIN" in served.run("dig", "@10.9.9.9", "four.example.test").stdout)
        file.write_text(upstreams + "[lockdwn]\n")
        served.process.send_signal(signal.SIGHUP)  # `ip netns exec` becomes its command
        out, err = slow.communicate(timeout=20)
        assert out == "4000000", err
        file.write_text(upstreams + "[lockdown]\nblocking = true\n")
        served.process.send_signal(signal.SIGHUP)  # `ip netns exec` becomes its command
        wait_for(lambda: "REFUSED" in served.run("dig", "@10.9.9.9", "www.example.test").stdout)
    finally:
        _, err = served.stop()
    assert "did you mean lockdown?" in err and "Traceback" not in err



def test_a_host_without_ipv6_has_aaaa_answered_empty(network, own_resolver):
    ask = ("--", "dig", "+short", "www.example.test", "AAAA")
    with_it = network.exec(*ask)
    try:
        ip("-n", network.host, "-6", "address", "flush", "dev", "up0", "scope", "global")
        without = network.exec(*ask)
    finally:
        ip("-n", network.host, "address", "add", "2001:db8:1::2/64", "dev", "up0", "nodad")
        ip("-n", network.host, "-6", "route", "replace", "default", "via", "2001:db8:1::1")
    assert with_it.stdout.strip() == SERVER6 and not without.stdout.strip(), without.stderr


PORTAL = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if os.path.exists(sys.argv[2]):
            self.send_response(204)
        else:
            self.send_response(302); self.send_header("Location", "http://login.portal.test/")
        self.end_headers()
    def log_message(self, *ignored): pass
http.server.HTTPServer((sys.argv[1], 8080), Handler).serve_forever()
"""


def test_a_captive_portal_is_noticed_its_names_resolve_and_its_end_is_too(network, own_resolver, tmp_path):
    """The upstream is unreachable, as behind a portal; then somebody logs in."""
    address, paid, events = "203.0.113.77", tmp_path / "paid", tmp_path / "events"
    ip("-n", network.net, "address", "add", f"{address}/32", "dev", "lo")
    file = tmp_path / "netstack.toml"
    file.write_text(
        '[dns]\nupstreams = ["udp://192.0.2.254"]\ntimeout = 1.0\n'
        f'[captive]\nwatch = true\nprobe = "http://{address}:8080/generate_204"\n'
    )
    portal = network.start(sys.executable, "-c", PORTAL, address, str(paid), namespace=network.net)
    asking = (
        "sleep 1; for name in captive.apple.com login.portal.test www.test; do "
        "dig +short +time=2 +tries=1 $name; done; "
        f"touch {paid}; sleep 11"
    )
    try:
        done = network.run(
            *behind(own_resolver, *EXEC, "--config", str(file), "--events", str(events), "--", "sh", "-c", asking),
        )
    finally:
        portal.kill()
        ip("-n", network.net, "address", "del", f"{address}/32", "dev", "lo")
    assert done.stdout.split() == [SERVER, SERVER], done.stderr  # and no answer for the third
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    told = [(line["state"], line["url"]) for line in lines if line["event"] == "captive_portal_changed"]
    assert told == [("captive", "http://login.portal.test/"), ("clear", "http://login.portal.test/")]


def test_a_tunnel_notices_another_network_and_serves_within_a_second(network, own_resolver):
    """The way out goes away while queries are asked, and comes back with another address."""
    one = "dig +time=1 +tries=1 +short www.test | xargs -r echo $(date +%s.%N); sleep 0.05"
    asking = f"for n in $(seq 60); do {one}; done"
    process = network.start(*behind(own_resolver, *EXEC, "--dns", OWN, "--", "sh", "-c", asking))
    try:
        time.sleep(1.5)
        ip("-n", network.host, "address", "del", "192.0.2.2/24", "dev", "up0")
        time.sleep(0.5)
        ip("-n", network.host, "address", "add", "192.0.2.3/24", "dev", "up0")
        ip("-n", network.host, "route", "add", "default", "via", "192.0.2.1")
        back = time.time()
        out, err = process.communicate(timeout=40)
        answered = [float(line.split()[0]) for line in out.splitlines() if SERVER in line]
        assert any(at < back - 0.5 for at in answered) and any(at > back for at in answered), err
        assert min(at for at in answered if at > back) - back < 1.0
    finally:
        process.kill()
        ip("-n", network.host, "address", "flush", "dev", "up0", "scope", "global")
        ip("-n", network.host, "address", "add", "192.0.2.2/24", "dev", "up0")
        ip("-n", network.host, "address", "add", "2001:db8:1::2/64", "dev", "up0", "nodad")
        ip("-n", network.host, "route", "replace", "default", "via", "192.0.2.1")
        ip("-n", network.host, "-6", "route", "replace", "default", "via", "2001:db8:1::1")


CLIENT = """
import socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(4)
def send(ident, name, server):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    sock.sendto(struct.pack("!HHHHHH", ident, 0x100, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1", (server, 53))
def receive():
    octets, sender = sock.recvfrom(2048)
    return octets[0] << 8 | octets[1], octets[3] & 15, sender[0]
a, b = "10.9.9.1", "10.9.9.2"
for drops in (1, 15, 1000):
    for ident in range(drops):
        send(ident, "denied.test", a)
        if ident % 100 == 99:
            time.sleep(0.01)  # no device queues a thousand packets while its reader waits for a processor
    send(5000 + drops, "allowed.test", a)
    print(*receive())
send(7001, "denied.test", b)
send(7002, "allowed.test", b)
print(*receive())
started = time.monotonic()
send(8001, "held.test", a)
send(8001, "held.test", a)
send(8002, "allowed.test", a)
print(*receive(), time.monotonic() - started < 0.5)
print(*receive(), 0.9 < time.monotonic() - started < 1.6)
sock.settimeout(0.3)
try:
    print("more", *receive())
except TimeoutError:
    print("no more")
"""


def test_one_socket_with_dropped_postponed_and_allowed_queries(network, own_resolver, tmp_path):
    file, client = tmp_path / "netstack.toml", tmp_path / "client.py"
    client.write_text(CLIENT)
    file.write_text(
        '[filter]\npostpone = 1.0\n[[rules]]\naction = "drop"\nnames = ["denied.test"]\n'
        '[[rules]]\naction = "postpone"\nnames = ["held.test"]\n'
    )
    done = network.run(*EXEC, "--config", str(file), "--dns", OWN, "--", sys.executable, str(client))
    assert done.stdout.splitlines() == [
        "5001 0 10.9.9.1", "5015 0 10.9.9.1", "6000 0 10.9.9.1", "7002 0 10.9.9.2",
        "8002 0 10.9.9.1 True", "8001 0 10.9.9.1 True", "no more",
    ], done.stderr  # fmt: skip
