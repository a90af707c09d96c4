"""Tunnels for a device, the packet file, the descriptor limit."""

import os
import resource
import signal
import struct
import threading
import types

import pytest

from netstack.cli import serving
from netstack.cli.serving import make_tunnel, pcap_tracer, raise_descriptor_limit
from netstack.codec.pure import PureCodec
from netstack.config import Config, make_config
from netstack.core.errors import NetstackError
from netstack.core.network import Network
from netstack.core.stats import Stats
from netstack.link.decorators import TracingTunnel
from netstack.link.fd import FdTunnel
from netstack.link.linux import TunDevice


def test_tunnel_is_traced_only_when_there_is_a_tracer(tmp_path):
    runtime = types.SimpleNamespace(codec=PureCodec())
    stats = Stats()
    for path, kind in ((None, FdTunnel), (str(tmp_path / "x.pcapng"), TracingTunnel)):
        inside, outside = os.pipe()
        with pcap_tracer(path) as tracer:
            tunnel = make_tunnel(TunDevice(inside, "tun0", False), 1400, runtime, stats, id, tracer)
            assert type(tunnel) is kind
            assert tunnel.mtu == 1400 and tunnel.stats is stats
            tunnel.close()
        os.close(outside)


def test_packets_are_written_as_pcapng_with_the_time_of_day(tmp_path):
    path = tmp_path / "x.pcapng"
    with pcap_tracer(str(path)) as tracer:
        tracer.packet_in(b"E" + bytes(19), 1.0)
        tracer.packet_out(b"E" + bytes(23), 1.0)
    written = path.read_bytes()
    assert struct.unpack_from("<I", written)[0] == 0x0A0D0D0A
    assert b"E" + bytes(19) in written and b"E" + bytes(23) in written


def test_file_that_cannot_be_made_is_said():
    with pytest.raises(NetstackError, match="No such file"), pcap_tracer("/nonexistent/x"):
        pass


def test_descriptor_limit_is_raised_to_the_hard_one():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(100, limits[1]), limits[1]))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limits[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Runtime:
    """Takes the place of LiveRuntime, and writes down what is asked of it."""

    def __init__(self):
        self.poller = self.loop = self
        self.handlers = {}
        self.changed = []
        self.events = []
        self.given = None
        self.problem = None

    def add_signal_handler(self, number, callback):
        self.handlers[number] = callback

    def call_later(self, seconds, callback):
        callback()

    def emit(self, event):
        self.events.append(event)

    def reconfigure(self, config):
        if self.problem:
            raise self.problem
        self.given = config

    def change(self, change):
        change(self, 1.0)

    def network_told(self, network, now):
        self.changed.append(("told", network))

    def network_changed(self, network, now):
        self.changed.append(("changed", network))


def hang_up(runtime):
    runtime.handlers[signal.SIGHUP]()
    for thread in threading.enumerate():
        if thread.name == "reload":
            thread.join(5)


def test_hangup_takes_over_what_is_read_and_says_what_cannot_be_used(monkeypatch):
    monkeypatch.setattr(serving, "host_network", lambda config: Network(name="here"))
    runtime, config = Runtime(), Config()
    serving.reload_on_hangup(runtime, lambda: config)
    hang_up(runtime)
    assert runtime.given is config and runtime.changed == [("told", Network(name="here"))]
    runtime.problem = NetstackError("x.toml: no good")
    hang_up(runtime)
    [event] = runtime.events
    assert event.where == "config" and event.message == "x.toml: no good (the settings of before stay in force)"
    assert len(runtime.changed) == 1


def test_another_network_is_noticed(monkeypatch):
    watches = []

    class Watch:
        def __init__(self, poller, call_later, changed, destinations):
            watches.append(self)
            self.changed, self.destinations = changed, destinations

        def open(self):
            self.opened = True

    monkeypatch.setattr("netstack.runtime.route_watch.RouteWatch", Watch)
    monkeypatch.setattr(serving, "host_network", lambda config: Network(name="there"))
    runtime = Runtime()
    serving.watch_network(runtime, make_config({"dns": {"servers": ["198.51.100.7"]}}))
    assert watches[0].opened and "198.51.100.7" in watches[0].destinations
    watches[0].changed()
    assert runtime.changed == [("changed", Network(name="there"))]
