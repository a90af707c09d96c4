"""The live engine under load and faults: many flows, memory, floods, dying far ends, descriptors, devices and hosts.

Responsible for: the rows of the reliability figures that need real sockets, threads or a kernel.
Refuses to know: what can be shown on a virtual clock (see tests/reliability).

Seconds by default; NETSTACK_RELIABILITY_SECONDS=60 holds the flows for a minute. Everything is in namespaces of its
own, named nsrel and the process id.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.interop.conftest import RESOLVER, SERVER, SERVER6, Network, ip, missing
from tests.interop.test_run import CURL, RUN, Served
from tests.reliability.settings import seconds

pytestmark = pytest.mark.interop

NAME = f"nsrel{os.getpid()}"
LARGEST = 50_000  # KiB of resident memory
SILENT = "192.0.2.77"  # packets to it go to a neighbour that does not exist

FAR_ENDS = """
import resource, selectors, socket, struct, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE); resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sel = selectors.DefaultSelector()
def listen(host, port):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if port == 102: s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.bind((host, port)); s.listen(4096); s.setblocking(False)
    sel.register(s, selectors.EVENT_READ, ('accept', port))
for host in sys.argv[1:]:
    for port in (8, 101, 102, 103): listen(host, port)
stalled = []
while True:
    for key, _ in sel.select():
        what, port = key.data
        s = key.fileobj
        try:
            if what == 'accept':
                c, _ = s.accept()
                if port == 102: stalled.append(c); continue
                if port == 103: c.sendall(b'bye'); c.shutdown(socket.SHUT_WR)
                sel.register(c, selectors.EVENT_READ, ('talk', port))
                continue
            octets = s.recv(65536)
            if port == 101:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); octets = b''
            if octets and port == 8: s.setblocking(True); s.sendall(octets); s.setblocking(False)
        except OSError:
            octets = b''
        if not octets: sel.unregister(s); s.close()
"""

ECHOES = """
import json, resource, selectors, socket, sys, time
host, tcp, udp, lasting = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE); resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sel = selectors.DefaultSelector(); sockets = []; failed = []
for number in range(tcp + udp):
    kind = socket.SOCK_STREAM if number < tcp else socket.SOCK_DGRAM
    try:
        s = socket.socket(socket.AF_INET, kind); s.settimeout(10)
        s.connect((host, 8 if number < tcp else 7)); s.settimeout(5)
        sockets.append(s)
    except OSError as problem: failed.append(str(problem))
rounds = 0; end = time.monotonic() + lasting; bad = 0; again = 0
while not rounds or time.monotonic() < end:
    rounds += 1
    for at in range(0, len(sockets), 200):
        part = sockets[at:at + 200]
        for number, s in enumerate(part):
            try: s.send(b'%d/%d' % (rounds, number))
            except OSError as problem: failed.append(str(problem))
        for number, s in enumerate(part):
            wanted = b'%d/%d' % (rounds, number)
            try: heard = s.recv(2000)
            except TimeoutError:
                again += 1
                if s.type == socket.SOCK_DGRAM: continue
                heard = b''
            except OSError as problem: failed.append(str(problem)); heard = b''
            if heard != wanted: bad += 1
print(json.dumps({'open': len(sockets), 'failed': failed[:3], 'rounds': rounds, 'bad': bad, 'late': again}), flush=True)
sys.stdin.read()
"""

FLOOD = """
import socket, struct, sys, time
def checksum(octets):
    total = sum(struct.unpack('!%dH' % (len(octets) // 2), octets))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target = socket.inet_aton(sys.argv[1])
for number in range(int(sys.argv[2])):
    source = socket.inet_aton('10.92.7.%d' % (3 + number % 250))
    head = struct.pack('!HHIIBBHHH', 1024 + number // 250, 80, number, 0, 0x50, 2, 65535, 0, 0)
    total = checksum(source + target + struct.pack('!HH', 6, 20) + head)
    head = head[:16] + struct.pack('!H', total) + head[18:]
    packet = struct.pack('!BBHHHBBH', 0x45, 0, 40, 0, 0, 64, 6, 0) + source + target + head
    raw.sendto(packet, (sys.argv[1], 0))
    if number % 100 == 99: time.sleep(0.004)
"""


class Lab(Network):
    """The servers of the other tests and far ends that fail, under this file's names."""

    def __init__(self):
        super().__init__()
        self.host, self.net = f"{NAME}-host", f"{NAME}-net"

    def up(self):
        sweep()
        super().up()
        self.serve(sys.executable, "-c", FAR_ENDS, SERVER, SERVER6)
        ip("-n", self.host, "neigh", "add", SILENT, "lladdr", "02:00:00:00:00:77", "dev", "up0", "nud", "permanent")


def sweep():
    """Remove the namespaces of test runs that were killed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for name, number in re.findall(r"^(nsrel(\d+)-\w+)", listed, re.MULTILINE):
        if not os.path.exists(f"/proc/{number}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.fixture(scope="module")
def lab():
    reason = missing("dnsmasq", "curl")
    if reason:
        pytest.skip(reason)
    made = Lab()
    try:
        made.up()
        yield made
    finally:
        made.down()


class Engine(Served):
    """`netstack run` for an app's namespace; `prefix` runs before it."""

    def __init__(self, lab, *options, prefix=()):
        self.network, self.app, self.device = lab, f"{NAME}-app", "nsrel0"
        self.process = lab.start(*prefix, *RUN, "--tun", self.device, *options, stdin=subprocess.DEVNULL)

    def pid(self):
        """Of the engine: `ip netns exec` and prlimit become it."""
        return self.process.pid

    def resident(self):
        with open(f"/proc/{self.pid()}/status", encoding="utf-8") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid()}/fd"))

    def used(self):
        """Processor seconds so far."""
        with open(f"/proc/{self.pid()}/stat", encoding="utf-8") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def python(self, program, *arguments, timeout=30):
        return self.run(sys.executable, "-c", program, *map(str, arguments), timeout=timeout)

    def assert_serves(self, within=1.0):
        started = time.monotonic()
        done = self.run(*CURL, f"http://{SERVER}/5")
        assert done.stdout == "xxxxx200", done.stderr
        assert time.monotonic() - started < within + 0.5  # the half second is curl's own start


@pytest.fixture
def serve(lab):
    running = []

    def start(*options, **more):
        engine = Engine(lab, *options, **more)
        running.append(engine)
        engine.await_ready()
        engine.move()
        return engine

    yield start
    for engine in running:
        _, err = engine.stop()
        assert "Traceback" not in err and "internal error" not in err, err


def hold(engine, tcp, udp, lasting):
    """Flows that echo for so many seconds and stay open until the process that is returned is told to end."""
    holder = engine.network.start(
        sys.executable, "-c", ECHOES, SERVER, str(tcp), str(udp), str(lasting), namespace=engine.app,
        stdin=subprocess.PIPE,
    )  # fmt: skip
    line = holder.stdout.readline()
    assert line, holder.stderr.read()
    return holder, json.loads(line)


def release(holder):
    holder.stdin.close()
    holder.wait(10)
    holder.stdout.close()
    holder.stderr.close()


@pytest.mark.parametrize("codec", ["auto", "pure"])
def test_a_thousand_flows_of_each_kind_echo(serve, codec):
    engine = serve("--enforcement", "off", "--codec", codec)
    idle = engine.descriptors()
    holder, told = hold(engine, 1000, 1000, seconds(3.0))
    try:
        assert told["open"] == 2000, told
        assert told["bad"] == 0 and told["late"] <= 2 * told["rounds"], told
        assert engine.descriptors() >= idle + 2000
    finally:
        release(holder)
    end = time.monotonic() + 5
    while engine.descriptors() > idle + 1000 and time.monotonic() < end:
        time.sleep(0.05)
    assert engine.descriptors() <= idle + 1000, "the sockets of TCP flows that ended are closed"


def test_memory_with_500_flows_and_after_a_flood_of_30000_syns(serve):
    engine = serve("--enforcement", "off", "--offload", "off")
    holder, told = hold(engine, 500, 0, 1.0)
    try:
        assert told["open"] == 500 and told["bad"] == 0
        assert engine.resident() < LARGEST
        flood = engine.python(FLOOD, SILENT, 30_000)
        assert flood.returncode == 0, flood.stderr
        engine.assert_serves()
        assert engine.resident() < LARGEST
    finally:
        release(holder)
    before = engine.used()
    time.sleep(1.0)
    assert engine.used() - before < 0.6, "half-open flows cost next to nothing"


def test_an_idle_engine_uses_no_time(serve):
    engine = serve("--enforcement", "off")
    holder, _ = hold(engine, 50, 50, 0.1)
    try:
        time.sleep(0.5)
        before = engine.used()
        time.sleep(2.0)
        assert engine.used() - before <= 0.03
    finally:
        release(holder)


FAULTS = """
import socket, sys, time
def ended(host, port, octets):
    s = socket.socket(); s.settimeout(7)
    started = time.monotonic()
    try:
        s.connect((host, port))
        s.sendall(octets)
        heard = b''
        while True:
            piece = s.recv(1000)
            if not piece: how = 'end after ' + heard.decode(); break
            heard += piece
    except OSError as problem: how = type(problem).__name__ + ' ' + str(problem.errno)
    print(port, how, round(time.monotonic() - started, 1))
for host, port in (a.rsplit(':', 1) for a in sys.argv[1:]): ended(host, int(port), b'x')
"""


@pytest.mark.parametrize("codec", ["auto", "pure"])
def test_far_ends_that_fail_end_as_they_should_and_the_next_flow_works(serve, tmp_path, codec):
    config = tmp_path / "config.toml"
    config.write_text("[tcp]\ndial_timeout = 4.0\n")
    engine = serve("--enforcement", "off", "--config", str(config), "--codec", codec)
    done = engine.python(FAULTS, f"{SERVER}:81", f"{SERVER}:101", f"{SERVER}:103", f"{SILENT}:80")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [" ".join(line[:-1]) for line in lines] == [
        "81 ConnectionRefusedError 111", "101 ConnectionResetError 104", "103 end after bye", "80 OSError 113",
    ], done.stdout + done.stderr  # fmt: skip
    assert max(float(line[-1]) for line in lines) < 6.0
    engine.assert_serves()


def test_a_stalled_far_end_holds_little_and_delays_nobody(serve):
    engine = serve("--enforcement", "off", "--offload", "off")
    before = engine.resident()
    program = (
        "import socket, sys\n"
        "made = [socket.create_connection((sys.argv[1], 102), 5) for _ in range(20)]\n"
        "total = 0\n"
        "for s in made:\n"
        "    s.setblocking(False)\n"
        "import time; end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    for s in made:\n"
        "        try: total += s.send(bytes(65536))\n"
        "        except BlockingIOError: pass\n"
        "    time.sleep(0.01)\n"
        "print(total, flush=True); sys.stdin.read()\n"
    )
    holder = engine.network.start(
        sys.executable, "-c", program, SERVER, namespace=engine.app, stdin=subprocess.PIPE
    )
    try:
        assert int(holder.stdout.readline()) > 0
        engine.assert_serves()
        assert engine.resident() - before < 20 * 256 + 2000
    finally:
        release(holder)


@pytest.mark.parametrize("codec", ["auto", "pure"])
def test_without_descriptors_flows_are_refused_and_then_work_again(serve, need, codec):
    need("prlimit")
    engine = serve("--enforcement", "off", "--codec", codec, prefix=("prlimit", "--nofile=40:40"))
    holder, told = hold(engine, 60, 5, 0.0)
    try:
        assert told["failed"], told
        assert told["open"] - told["bad"] >= 15, told
        assert engine.process.poll() is None
    finally:
        release(holder)
    time.sleep(0.3)
    engine.assert_serves()


def test_many_half_open_scans_and_names_from_a_kernel(serve, need):
    need("dig")
    engine = serve("--dns", RESOLVER, "--offload", "off")
    program = (
        "import socket, struct\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setblocking(False)\n"
        "for number in range(20000):\n"
        "    name = b'n%d' % number\n"
        "    octets = struct.pack('!6H', number & 65535, 256, 1, 0, 0, 0) + bytes([len(name)]) + name + "
        "b'\\x04test\\0\\0\\1\\0\\1'\n"
        "    try: s.sendto(octets, ('10.0.0.1', 53))\n"
        "    except OSError: pass\n"
    )
    assert engine.python(program).returncode == 0
    started = time.monotonic()
    assert engine.run("dig", "+short", "+tries=3", "+time=1", "@10.0.0.1", "www.example.test").stdout == f"{SERVER}\n"
    assert time.monotonic() - started < 2
    engine.assert_serves()
    assert engine.resident() < LARGEST


def test_ipv6_alone_carries_traffic(serve, need):
    need("dig")
    engine = serve("--dns", RESOLVER)
    ip("-n", engine.app, "-4", "address", "flush", "dev", engine.device)
    gateway = "fd00:6e65:7473::1"
    assert engine.run("dig", "+short", f"@{gateway}", "www.example.test", "AAAA").stdout == f"{SERVER6}\n"
    done = engine.run(*CURL, "-o", "/dev/null", "-w", "%{size_download}", f"http://[{SERVER6}]/1000000")
    assert done.stdout == "1000000", done.stderr


@pytest.mark.parametrize("option", ["--events", "--pcap"])
def test_an_output_that_cannot_be_written_stops_no_traffic(serve, option):
    engine = serve("--enforcement", "off", option, "/dev/full")
    engine.assert_serves()
    engine.process.terminate()
    assert engine.process.wait(5) == 0


def test_a_reader_of_events_that_goes_away_stops_no_traffic(serve, tmp_path):
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    heard = []

    def read_one():
        with open(fifo, encoding="utf-8") as file:
            heard.append(file.readline())

    reader = threading.Thread(target=read_one, daemon=True)
    reader.start()
    engine = serve("--enforcement", "off", "--events", str(fifo))
    engine.assert_serves()
    reader.join(5)
    assert json.loads(heard[0])
    engine.assert_serves()
    engine.process.terminate()
    assert engine.process.wait(5) == 0


def test_a_reader_of_events_that_stalls_stops_no_traffic(serve, tmp_path):
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        engine = serve("--enforcement", "off", "--events", str(fifo))
        program = (
            "import socket, sys\n"
            "for number in range(600):\n"
            "    s = socket.create_connection((sys.argv[1], 8), 5); s.close()\n"
        )
        done = engine.python(program, SERVER, timeout=20)
        assert done.returncode == 0, done.stderr
        engine.assert_serves()
    finally:
        os.close(end)


def test_killed_exec_leaves_nothing(lab):
    """SIGKILL gives it no chance to tidy up."""

    def seen():
        found = set(os.listdir("/tmp")) - {"pytest-of-root"}
        names = set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()
        with open("/proc/mounts", encoding="utf-8") as mounts:
            return found, names, mounts.read()

    before = seen()
    process = lab.start(
        sys.executable, "-m", "netstack", "exec", "--dns", RESOLVER, "--", "sh", "-c", "echo $$; exec sleep 987",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    process.stdout.close()
    process.stderr.close()
    end = time.monotonic() + 2
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child}")
    after = seen()
    assert after[1:] == before[1:]
    assert not [name for name in after[0] - before[0] if "netstack" in name or name.startswith("tmp")]
