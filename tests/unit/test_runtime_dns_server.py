"""The stand-alone resolver as a whole, its loop turned by hand; loopback only, no upstream."""

import socket
import struct
import time

import pytest

from netstack.config import Config, DnsConfig, FilterConfig, ServerConfig, make_config
from netstack.core.errors import ConfigError, NetstackError
from netstack.core.events import EngineError, QueryAnswered, QueryFailed
from netstack.core.network import Network
from netstack.dns.stage import Stage
from netstack.policy.lockdown import LockdownStage
from netstack.runtime.dns_server import DnsServer


def dns_query(name, *, id):
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!HHHHHH", id, 0x0100, 1, 0, 0, 0) + wire + struct.pack("!HH", 1, 1)


def dns_answer(query, address):
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(address)
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + query[12:] + record


class Resolver:
    """Answers at once, or not at all; `breaks` makes it raise."""

    def __init__(self):
        self.silent = False
        self.breaks = False
        self.closed = False
        self.cancelled = []
        self.over_tcp = []

    def start(self, owner):
        self.owner = owner

    def query(self, token, message, now, over_tcp=False):
        if self.breaks:
            raise RuntimeError("broken")
        self.over_tcp.append(over_tcp)
        if not self.silent:
            self.owner.on_answer(token, dns_answer(message, "192.0.2.1"), now)

    def cancel(self, token):
        self.cancelled.append(token)

    def close(self):
        self.closed = True

    def next_timeout(self):
        return None

    def on_timeout(self, now):
        pass


@pytest.fixture
def served():
    """A server that listens, its resolver, and its events."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    resolver, events = Resolver(), []
    config = Config(dns=DnsConfig(timeout=0.05), server=ServerConfig(listen=(f"127.0.0.1:{port}", f"[::1]:{port}")))
    server = DnsServer(config, emit=events.append, make_resolver=lambda *parts: resolver)
    server.listen()
    server.poller.served = server
    server.port = port
    yield server, resolver, events
    server.close()
    server.poller.close()


def rounds(server, client):
    """Turn the loop until `client` has an answer."""
    client.settimeout(0)
    for _ in range(20):
        server.poller.select(0.1)
        try:
            return client.recv(4096)
        except BlockingIOError:
            continue
    raise AssertionError("no answer")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_query_over_udp(served, host):
    server, _, events = served
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, server.port))
        client.send(dns_query("www.example", id=7))
        answer = rounds(server, client)
    assert answer[:2] == b"\0\x07" and bytes([192, 0, 2, 1]) in answer
    assert [type(event) for event in events] == [QueryAnswered]
    assert events[0].addresses == ("192.0.2.1",)
    assert server.stats.dns_answers == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_query_over_tcp(served, host):
    server, resolver, _ = served
    message = dns_query("www.example", id=7)
    with socket.create_connection((host, server.port)) as client:
        client.sendall(struct.pack("!H", len(message)) + message)
        answer = rounds(server, client)
    assert answer[2:4] == b"\0\x07"
    assert resolver.over_tcp == [True]


def test_an_upstream_that_is_silent_is_servfail_in_time(served):
    server, resolver, events = served
    resolver.silent = True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", server.port))
        client.send(dns_query("www.example", id=7))
        answer = rounds(server, client)
    assert answer[3] & 0xF == 2
    assert [type(event) for event in events] == [QueryFailed]
    assert len(resolver.cancelled) == 1


def test_a_defect_costs_one_query_not_the_service(served):
    server, resolver, events = served
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", server.port))
        resolver.breaks = True
        client.send(dns_query("one.example", id=1))
        server.poller.select(0.1)
        resolver.breaks = False
        client.send(dns_query("two.example", id=2))
        assert rounds(server, client)[:2] in (b"\0\x01", b"\0\x02")
    assert any(isinstance(event, EngineError) and "broken" in event.message for event in events)


def test_a_callback_for_later_is_called_once(served):
    server, _, _ = served
    called = []
    server.call_later(0.0, lambda: called.append(1))
    server.poller.select(0.1)
    server.poller.select(0.0)
    assert called == [1]


def test_a_place_that_is_taken_is_named(served):
    server, _, _ = served
    other = DnsServer(server.config, emit=lambda event: None, make_resolver=lambda *parts: Resolver())
    with pytest.raises(NetstackError, match=rf"127.0.0.1:{server.port} \(UDP\)"):
        other.run()
    assert other.resolver.closed


def test_closing_closes_the_resolver_and_every_socket(served):
    server, resolver, _ = served
    client = socket.create_connection(("127.0.0.1", server.port))
    server.poller.select(0.1)
    server.close()
    client.settimeout(2)
    assert client.recv(1) == b""
    client.close()
    assert resolver.closed


def test_a_run_ends_when_told(served):
    config = Config(server=ServerConfig(listen=("127.0.0.1:1",)))
    server = DnsServer(config, emit=lambda event: None, make_resolver=lambda *parts: Resolver())
    server.listen = lambda: None
    server.run(on_ready=server.stop)
    assert server.resolver.closed


def server_of(config, events):
    server = DnsServer(config, emit=events.append)
    server.listen = lambda: None
    return server


def test_lists_are_read_again_on_another_thread(tmp_path):
    names = tmp_path / "names"
    names.write_text("old.example\n")
    config = Config(filter=FilterConfig(block=(str(names),)), server=ServerConfig(listen=("127.0.0.1:1",)))
    events = []
    server = server_of(config, events)
    stage, before = server.resolver, server.resolver.version
    take_over = server._take_over
    sizes = []

    def taken(prepared):
        take_over(prepared)
        sizes.append(len(server.resolver.lists))
        if prepared.problems:
            server.stop()
        else:
            names.unlink()
            server.reload()

    server._take_over = taken
    names.write_text("new.example\nother.example\n")
    server.run(on_ready=server.reload)
    assert server.resolver is stage and server.resolver.version > before
    assert sizes == [2, 2]
    assert [event.where for event in events] == ["list"] and "stays in force" in events[0].message


def test_a_reload_that_cannot_be_used_changes_nothing():
    events = []
    server = server_of(Config(), events)
    resolver = server.resolver

    def emit(event):
        events.append(event)
        server._loop.call_soon_threadsafe(server.stop)

    def read():
        raise ConfigError("x.toml: dns.servrs: no such setting")

    server.emit = emit
    server.run(on_ready=lambda: server.reload(read))
    assert server.resolver is resolver
    assert [(event.where, event.message.count("stay in force")) for event in events] == [("config", 1)]
    server.reload()  # nothing runs any more: nothing happens


def test_other_upstreams_and_a_blocking_state_by_reload():
    events = []
    server = server_of(Config(dns=DnsConfig(servers=("192.0.2.1",))), events)
    new = make_config({"dns": {"servers": ["192.0.2.2"]}, "lockdown": {"blocking": True}})
    take_over = server._take_over

    def taken(prepared):
        take_over(prepared)
        server.stop()

    server._take_over = taken
    server.run(on_ready=lambda: server.reload(lambda: new))
    assert isinstance(server.resolver, LockdownStage) and server.lockdown.blocking
    proxy = server.resolver.inner
    while isinstance(proxy, Stage):
        proxy = proxy.inner
    assert str(proxy.servers[0].endpoint) == "192.0.2.2:53"
    server.changes.allow_network("test", 1.0)
    assert [event.state for event in events] == ["blocking", "open"]
    server.changes.network_changed(Network(name="home"), 2.0)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_answer_that_comes_between_rounds_leaves_at_once(served, kind):
    server, resolver, _ = served
    resolver.silent = True
    asked = dns_query("a.test", id=7)
    framed = struct.pack("!H", len(asked)) + asked if kind == socket.SOCK_STREAM else asked
    with socket.socket(socket.AF_INET, kind) as client:
        client.connect(("127.0.0.1", server.port))
        client.send(framed)
        while not len(server.bridge):
            server.poller.select(1.0)
        server.bridge.refuse_pending(time.monotonic())  # as a command from another thread does
        assert server.next_deadline() == 0.0
        server.poller.select(10.0)
        client.settimeout(0)
        assert client.recv(500)[-len(asked) :][:2] == b"\0\7"
    assert server.next_deadline() != 0.0


def test_another_network_is_read_again_and_a_portal_looked_for(monkeypatch):
    looked = []

    class Watch:
        def __init__(self, change, call_later, protect, emit):
            self.change = change

        def look(self):
            looked.append(self)

    monkeypatch.setattr("netstack.runtime.portal_check.PortalWatch", Watch)
    networks = [Network(servers=("192.0.2.7",)), Network(servers=("192.0.2.8",))]
    server = DnsServer(
        make_config({"captive": {"watch": True}}), emit=lambda event: None, read_network=lambda config: networks[0]
    )
    server.listen = lambda: None
    assert server.changes.network is networks[0]

    def routes():
        networks.pop(0)
        server._on_routes()
        assert server.change(lambda changes, now: server.stop())

    server.run(on_ready=routes)
    assert server.changes.network == Network(servers=("192.0.2.8",))
    assert len(looked) == 2 and looked[0] is looked[1], "at the start and on the other network"
    assert not server.change(lambda changes, now: None), "nothing runs any more"
