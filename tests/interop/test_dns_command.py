"""`netstack dns` with real clients (dig, kdig, dnsperf) before real resolvers (unbound, dnsmasq), on loopback."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.dns import NAME, Place, free_port, rate, running

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        any(shutil.which(each) is None for each in ("dig", "kdig", "dnsperf", "dnsmasq", "unbound", "openssl")),
        reason="needs dig, kdig, dnsperf, dnsmasq, unbound and openssl",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An unbound that knows everything below bench., on plain DNS, DoT and DoH."""
    place = Place(tmp_path_factory.mktemp("dns"))
    place.make_certificates()
    with running(place.upstream(), place.plain):
        yield place


@contextlib.contextmanager
def serving(*options, port=None):
    """`netstack dns` on a free port, once it said ready."""
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "netstack", "dns", "--listen", f"127.0.0.1:{port}", "--listen", f"[::1]:{port}",
         *map(str, options)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.port = port
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield process
    finally:
        process.terminate()
        process.out, process.err = process.communicate(timeout=10)
    assert process.returncode == 0, process.err
    assert "Traceback" not in process.err


def dig(port, *words, program="dig", server="127.0.0.1"):
    shown = subprocess.run(
        [program, f"@{server}", "-p", str(port), "+time=2", "+retry=1", *words],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return shown.stdout


@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("words", [(), ("+tcp",), ("+dnssec",), ("+noedns",)])
@pytest.mark.parametrize("program", ["dig", "kdig"])
def test_a_client_is_answered(place, server, words, program):
    with serving("--upstream", f"udp://127.0.0.1:{place.plain}") as process:
        shown = dig(process.port, "www.bench", *words, program=program, server=server)
    assert "192.0.2.1" in shown and "NOERROR" in shown


@pytest.mark.parametrize("scheme", ["udp", "tcp", ""])
def test_plain_upstreams(place, scheme):
    url = f"{scheme}://127.0.0.1:{place.plain}" if scheme else f"127.0.0.1:{place.plain}"
    with serving("--upstream", url) as process:
        assert "192.0.2.1" in dig(process.port, "www.bench", "+short")


def test_pipelined_queries_over_one_connection(place):
    with serving("--upstream", f"udp://127.0.0.1:{place.plain}") as process:
        names = [f"p{number}.bench" for number in range(20)]
        shown = dig(process.port, "+tcp", "+keepopen", "+short", *names, program="kdig")
    assert shown.split() == ["192.0.2.1"] * 20


def test_load_over_udp_and_tcp_loses_nothing(place):
    names = place.file("load", "".join(f"w{number}.bench A\n" for number in range(500)))
    with serving("--upstream", f"udp://127.0.0.1:{place.plain}") as process:
        assert rate(process.port, names, 1) > 1000  # raises when anything is lost or fails
        words = ["-s", "127.0.0.1", "-p", str(process.port), "-d", names, "-l", "1", "-c", "4", "-q", "200"]
        shown = subprocess.run(["dnsperf", "-m", "tcp", *words], capture_output=True, text=True, check=True).stdout
    assert "Queries lost:         0" in shown and "NOERROR" in shown


def test_it_forwards_to_dnsmasq_too(place):
    port = free_port()
    with running(place.dnsmasq(port), port), serving("--upstream", f"127.0.0.1:{port}") as process:
        assert "192.0.2.1" in dig(process.port, "www.bench", "+short")


def test_ready_whatever_the_upstream_does_and_an_answer_for_every_query():
    with serving("--upstream", f"udp://127.0.0.1:{free_port()}") as process:
        started = time.monotonic()
        assert "SERVFAIL" in dig(process.port, "www.bench", "+time=6")
        assert time.monotonic() - started < 6


def test_service_goes_on_after_the_upstream_restarted(place, tmp_path):
    other = Place(tmp_path)
    other.make_certificates()
    with serving("--upstream", f"udp://127.0.0.1:{other.plain}", "--cache", "off") as process:
        with running(other.upstream(), other.plain):
            assert "192.0.2.1" in dig(process.port, "one.bench", "+short")
        dig(process.port, "two.bench", "+time=1", "+retry=0")
        with running(other.upstream(), other.plain):
            assert "192.0.2.1" in dig(process.port, "three.bench", "+short", "+time=1")


def test_block_and_allow_lists_and_their_reload(place, tmp_path):
    block, allow, made = tmp_path / "block", tmp_path / "allow", tmp_path / "made"
    block.write_text("ads.bench\n0.0.0.0 exact.bench\n")
    allow.write_text("good.ads.bench\n")
    quiet = {"cwd": ROOT, "check": True, "capture_output": True}
    subprocess.run([sys.executable, "-m", "netstack", "dns", "compile", block, "-o", made], **quiet)
    upstream = f"127.0.0.1:{place.plain}"
    for listed in (block, made):
        with serving("--upstream", upstream, "--block", listed, "--allow", allow) as process:
            assert "NXDOMAIN" in dig(process.port, "x.ads.bench")
            assert "NXDOMAIN" in dig(process.port, "exact.bench")
            assert "192.0.2.1" in dig(process.port, "below.exact.bench", "+short")
            assert "192.0.2.1" in dig(process.port, "good.ads.bench", "+short")
    with serving("--upstream", upstream, "--block", block) as process:
        block.write_text("other.bench\n")
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 5
        while "NXDOMAIN" not in dig(process.port, "other.bench"):
            assert time.monotonic() < end
            time.sleep(0.3)
        time.sleep(1.1)
        assert "192.0.2.1" in dig(process.port, "x.ads.bench", "+short")


def test_the_query_log_and_the_counters(place, tmp_path):
    log = tmp_path / "log.ndjson"
    with serving("--upstream", f"127.0.0.1:{place.plain}", "--log", log) as process:
        dig(process.port, "www.bench")
        dig(process.port, "www.bench", "+tcp")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked = [line for line in lines if line["event"] == "query_answered"]
    assert [(line["name"], line["type"], line["addresses"]) for line in asked] == [
        ("www.bench", "A", ["192.0.2.1"])
    ] * 2
    assert lines[-1]["event"] == "counters" and lines[-1]["dns_answers"] == 2


def test_malformed_messages_never_a_traceback(place):
    with serving("--upstream", f"127.0.0.1:{place.plain}") as process:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for size in (0, 1, 11, 12, 13, 40, 512, 4000):
                for _ in range(20):
                    client.sendto(os.urandom(size), ("127.0.0.1", process.port))
        for octets in (b"\0\0", b"\xff\xff" + os.urandom(3000), b"GET / HTTP/1.0\r\n\r\n", os.urandom(5000)):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", process.port), 2) as client:
                client.sendall(octets)
        assert "192.0.2.1" in dig(process.port, "www.bench", "+short")


def test_a_port_that_is_taken_is_one_line():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        shown = subprocess.run(
            [sys.executable, "-m", "netstack", "dns", "--listen", f"127.0.0.1:{port}", "--upstream", "192.0.2.1"],
            cwd=ROOT, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert shown.returncode == 1
    assert shown.stderr == f"netstack: cannot listen on 127.0.0.1:{port} (UDP): Address already in use\n"


@pytest.mark.parametrize("scheme", ["tls", "https"])
def test_encrypted_upstreams(place, scheme):
    pytest.importorskip("h2")
    url = {
        "tls": f"tls://127.0.0.1:{place.tls}#{NAME}",
        "https": f"https://127.0.0.1:{place.https}/dns-query#{NAME}",
    }[scheme]
    with serving("--upstream", url, "--ca-file", place.ca) as process:
        assert "192.0.2.1" in dig(process.port, "www.bench", "+short")
    with serving("--upstream", url) as process:  # the system does not know this authority
        assert "SERVFAIL" in dig(process.port, "www.bench", "+time=6")
    assert "certificate" in process.err


def test_split_dns_rules_and_answers_by_configuration(place, tmp_path):
    file = tmp_path / "resolver.toml"
    file.write_text(
        f"""
[dns]
upstreams = ["udp://127.0.0.1:{free_port()}"]
[[split]]
upstreams = ["udp://127.0.0.1:{place.plain}"]
suffixes = ["corp.bench"]
[[rules]]
action = "rewrite"
names = ["=here.corp.bench"]
to = ["192.0.2.200"]
[[rules]]
action = "refused"
types = ["TXT"]
[answers]
ttl_max = 60
"""
    )
    with serving("--config", file) as process:
        assert "192.0.2.1" in dig(process.port, "wiki.corp.bench", "+short")
        assert "192.0.2.200" in dig(process.port, "here.corp.bench", "+short")
        assert "REFUSED" in dig(process.port, "wiki.corp.bench", "TXT")
        assert "\t60\tIN" in dig(process.port, "ttl.corp.bench")
        assert "SERVFAIL" in dig(process.port, "www.bench", "+time=6")
