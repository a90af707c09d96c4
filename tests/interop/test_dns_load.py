"""`netstack dns` under load while its upstream dies, comes back, sleeps, or sits behind another network."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.interop.dns_load import Load, burst
from tests.interop.dns_matrix import dig, resident, serving
from tests.interop.dns_servers import NAME, Dnsdist, QuicServer, Unbound
from tests.interop.hostile_dns import STREAMS, TRANSPORTS, HostileServers

ABSENT = [program for program in ("dig", "unbound", "dnsperf") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(ABSENT) or find_spec("cryptography") is None, reason=f"needs {ABSENT or 'cryptography'}"),
]
if find_spec("h2") is None or find_spec("aioquic") is None:
    pytest.skip("needs h2 and aioquic", allow_module_level=True)

NOERROR, SERVFAIL = 0, 2


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hostile = HostileServers(folder)
        self.certificate = self.hostile.authority.issue(NAME, "127.0.0.1")
        self.unbound = Unbound(folder, self.certificate)
        self.unbound.start()

    def url(self, transport: str) -> str:
        port = {"udp": self.unbound.plain, "tcp": self.unbound.plain, "tls": self.unbound.dot,
                "https": self.unbound.doh}[transport]  # fmt: skip
        return f"{transport}://127.0.0.1:{port}"

    def config(self, text: str) -> str:
        file = self.folder / f"{time.monotonic_ns()}.toml"
        file.write_text(text)
        return str(file)

    def stop(self) -> None:
        self.hostile.stop()
        self.unbound.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("load"))
    try:
        yield made
    finally:
        made.stop()


def test_a_thousand_queries_to_a_black_hole_delay_nobody_else(place: Place) -> None:
    with ThreadPoolExecutor() as pool:  # a server for each transport, side by side: they only wait
        for _ in pool.map(lambda transport: flood_a_black_hole(place, transport), TRANSPORTS):
            pass


def flood_a_black_hole(place: Place, transport: str) -> None:
    hole = place.hostile.site(transport, "black hole")
    config = place.config(
        f'[dns]\nupstreams = ["{place.url("udp")}"]\nca_file = "{place.hostile.ca_file}"\n'
        f'[[split]]\nupstreams = ["{hole.url()}"]\nsuffixes = ["dead.test"]\n'
    )
    with serving("--cache", "off", "--config", config) as (process, port):
        dead: list = []
        flood = threading.Thread(target=lambda: dead.extend(burst(port, [f"n{n}.dead.test" for n in range(1000)], 7)))
        before = resident(process.pid)
        flood.start()
        time.sleep(0.3)
        live = Load(port, "example", rate=100)
        time.sleep(2)
        others = live.stop()
        flood.join()
        grown = resident(process.pid) - before
    assert {one.code for one in others} == {NOERROR}
    assert statistics.median(one.took for one in others) < 0.05, transport
    assert max(one.took for one in others) < 0.5, transport
    assert {one.code for one in dead} == {SERVFAIL} and len(dead) == 1000, transport
    assert max(one.took for one in dead) < 5.0, "nobody waits longer"
    assert grown < 24 * 1024


def test_a_black_hole_before_a_healthy_one_costs_a_moment_once(place: Place) -> None:
    pairs = [*((each, "failover") for each in TRANSPORTS), ("tls", "parallel"), ("udp", "fastest")]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda pair: burst_beside_a_black_hole(place, *pair), pairs):
            pass


def burst_beside_a_black_hole(place: Place, transport: str, strategy: str) -> None:
    hole = place.hostile.site(transport, "black hole")
    with serving(
        "--cache", "off", "--upstream", hole.url(), "--upstream", place.url("udp"), "--strategy", strategy,
        "--ca-file", place.hostile.ca_file,
    ) as (_process, port):  # fmt: skip
        first = burst(port, [f"a{number}.example" for number in range(1000)], 7)
        later = Load(port, "example", rate=200)
        time.sleep(1.7)  # long enough that the dead one is looked at again
        asked = later.stop()
    case = (transport, strategy)
    assert {one.code for one in first} == {NOERROR} and max(one.took for one in first) < 2.0, case
    assert {one.code for one in asked} == {NOERROR} and max(one.took for one in asked) < 0.7, case


def test_a_server_that_was_lost_in_thought_is_used_again_at_once(place: Place) -> None:
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda transport: wake_a_server(place, transport), TRANSPORTS):
            pass


def wake_a_server(place: Place, transport: str) -> None:
    """300 queries that are taken and never answered must not use up the streams of a connection."""
    site = place.hostile.site(transport, "well")
    with serving("--cache", "off", "--upstream", site.url(), "--ca-file", place.hostile.ca_file) as (_process, port):
        assert dig(port, "first.example").code == "NOERROR"
        site.swallows = True
        lost = burst(port, [f"lost{number}.example" for number in range(300)], 6)
        site.swallows = False
        assert {one.code for one in lost} == {SERVFAIL} and max(one.took for one in lost) < 5.0, transport
        for number in range(5):
            probe = dig(port, f"again{number}.example")
            assert probe.code == "NOERROR" and probe.seconds < 1.0, (transport, str(probe))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls", "https"])
def test_a_restarted_upstream_serves_within_a_second(place: Place, transport: str) -> None:
    with serving("--cache", "off", "--upstream", place.url(transport), "--ca-file", place.hostile.ca_file) as (
        _process, port,
    ):  # fmt: skip
        load = Load(port, "example")
        time.sleep(0.5)
        place.unbound.stop()
        time.sleep(0.3)
        place.unbound.start()
        ready = time.monotonic()
        time.sleep(1.5)
        asked = load.stop()
    assert max(one.took for one in asked) < 5.0 and all(one.answered for one in asked)
    late = [one for one in asked if one.sent > ready + 1.0]
    assert late and {one.code for one in late} == {NOERROR} and max(one.took for one in late) < 0.5
    if transport != "udp":  # UDP is told of each refusal, and passes it on
        assert {one.code for one in asked} == {NOERROR}, "it was gone for less than a client would notice"


def test_an_upstream_that_was_gone_for_long_serves_within_a_second(place: Place) -> None:
    """While it is gone its clients learn that at once, and however many they are, it is not called all the time."""
    with serving("--cache", "off", "--upstream", place.url("tls"), "--ca-file", place.hostile.ca_file) as (
        _process, port,
    ):  # fmt: skip
        load = Load(port, "example")
        time.sleep(0.3)
        place.unbound.stop()
        gone = time.monotonic()
        time.sleep(3)
        place.unbound.start()
        ready = time.monotonic()
        time.sleep(1.7)
        asked = load.stop()
    absent = [one for one in asked if gone + 1.6 < one.sent < ready - 0.5]
    assert len(absent) > 50 and {one.code for one in absent} == {SERVFAIL} and max(one.took for one in absent) < 0.5
    late = [one for one in asked if one.sent > ready + 1.0]
    assert late and {one.code for one in late} == {NOERROR} and max(one.took for one in late) < 0.5


def test_a_restarted_quic_upstream_serves_within_a_second(place: Place) -> None:
    server = QuicServer(place.certificate)
    with serving(
        "--cache", "off", "--upstream", f"quic://127.0.0.1:{server.port}", "--ca-file", place.hostile.ca_file
    ) as (_process, port):
        load = Load(port, "example", rate=100)
        time.sleep(0.5)
        server.stop()
        time.sleep(0.3)
        server = QuicServer(place.certificate, server.port)
        ready = time.monotonic()
        try:
            time.sleep(2.5)
            asked = load.stop()
        finally:
            server.stop()
    assert max(one.took for one in asked) < 5.0 and all(one.answered for one in asked)
    late = [one for one in asked if one.sent > ready + 1.0]
    assert late and {one.code for one in late} == {NOERROR} and max(one.took for one in late) < 0.5


def test_a_connection_is_used_again_and_closed_when_idle(place: Place) -> None:
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda transport: use_a_connection(place, transport), STREAMS):
            pass


def use_a_connection(place: Place, transport: str) -> None:
    site = place.hostile.site(transport, "well")
    config = place.config(
        f'[dns]\nupstreams = ["{site.url()}"]\nca_file = "{place.hostile.ca_file}"\nidle = 0.5\n[cache]\nuse = "off"\n'
    )
    with serving("--config", config) as (_process, port):
        for number in range(3):
            assert dig(port, f"one{number}.example").code == "NOERROR"
            time.sleep(0.2)
        burst(port, [f"more{number}.example" for number in range(200)], 5)
        last = time.monotonic()
        assert (site.connections, site.queries, site.ended) == (1, 203, []), transport
        end = last + 3
        while not site.ended and time.monotonic() < end:
            time.sleep(0.02)
        assert site.ended and 0.4 < site.ended[0] - last < 1.5, "closed by the client, in its time"
        assert dig(port, "again.example").code == "NOERROR" and site.connections == 2


@pytest.mark.parametrize("transport", ["tls", "https"])
def test_dnsperf_over_encrypted_upstreams_loses_nothing(place: Place, transport: str) -> None:
    with serving("--cache", "off", "--upstream", place.url(transport), "--ca-file", place.hostile.ca_file) as (
        _process, port,
    ):  # fmt: skip
        perfect(place, port)


@pytest.mark.skipif(shutil.which("dnsdist") is None, reason="needs dnsdist")
def test_a_server_that_closes_after_some_queries_loses_nothing(place: Place) -> None:
    settings = ("setMaxTCPQueriesPerConnection(50)", "setMaxTCPConnectionsPerClient(0)")
    dnsdist = Dnsdist(place.folder, place.certificate, place.unbound.plain, *settings)
    try:
        url = f"tls://127.0.0.1:{dnsdist.dot}"
        with serving("--cache", "off", "--upstream", url, "--ca-file", place.hostile.ca_file) as (_process, port):
            perfect(place, port, "-Q", "1000")
    finally:
        dnsdist.stop()


def perfect(place: Place, port: int, *words: str) -> None:
    """dnsperf, and every query answered."""
    names = place.folder / "names"
    names.write_text("".join(f"w{number}.example A\n" for number in range(2000)))
    shown = subprocess.run(
        ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", names, "-c", "4", "-q", "1000", "-l", "2", *words],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search(r"Queries lost:\s+0 ", shown), shown
    assert re.search(r"NOERROR \d+ \(100\.00%\)", shown), shown
