"""`netstack run`: which device is served, how, and what the end means. Real devices are in tests/interop."""

import os
import signal
import threading

import pytest

from netstack.cli import main
from netstack.cli import run as module
from netstack.core.errors import NetstackError, TunnelClosed
from netstack.link.linux import TunDevice


class Runtime:
    """Takes the place of LiveRuntime: makes the tunnel, says ready, ends as `end` says."""

    made = None
    end = None

    def __init__(self, config, *, emit, codec, network):
        from netstack.codec.pure import PureCodec

        type(self).made = self
        self.config, self.emit, self.codec = config, emit, PureCodec()
        self.stopped_by = None
        self.tunnel = None
        self.loop = self
        self.handlers = {}
        self.network = network
        self.reconfigured = None

    def add_signal_handler(self, number, callback):
        self.handlers[number] = callback

    def reconfigure(self, config):
        self.reconfigured = config

    def change(self, change):
        pass

    def run(self, make_tunnel, *, on_ready, stop_signals):
        from netstack.core.stats import Stats

        assert set(stop_signals) == {signal.SIGTERM, signal.SIGINT}
        self.tunnel = make_tunnel(self.config, Stats(), self.emit, self)
        on_ready()
        self.tunnel.close()
        if isinstance(self.end, Exception):
            raise self.end
        self.stopped_by = self.end


@pytest.fixture
def world(monkeypatch):
    """A machine on which every device can be had; what was asked of it is kept."""

    class World:
        exists = False

    def open_tun(name, *, offload):
        world.opened.append((name, offload))
        inside, outside = os.pipe()
        os.close(outside)
        return TunDevice(inside, name, offload)

    world = World()
    world.opened, world.up = [], []
    Runtime.end = signal.SIGTERM
    monkeypatch.setattr(module, "LiveRuntime", Runtime)
    monkeypatch.setattr(module, "open_tun", open_tun)
    monkeypatch.setattr(module, "bring_up", lambda name, **settings: world.up.append((name, settings)))
    monkeypatch.setattr(module, "_exists", lambda name: world.exists)
    monkeypatch.setattr(module, "_with_mtu_of", lambda name, config: config)
    monkeypatch.setattr(module, "raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(module, "watch_network", lambda runtime, config: None)
    return world


def test_new_device_is_made_brought_up_and_ready_is_said(world, capsys):
    assert main(["run", "--tun", "tun7", "--dns", "192.0.2.1"]) == 0
    assert capsys.readouterr().out == "ready\n"
    assert world.opened == [("tun7", True)]
    assert world.up == [("tun7", {"mtu": 1500, "queue": 1000})]
    assert Runtime.made.config.dns.servers == ("192.0.2.1",)


def test_hangup_reads_the_configuration_again_but_not_the_devices(world, tmp_path):
    path = tmp_path / "netstack.toml"
    path.write_text("[tunnel]\nmtu = 1400\n")
    Runtime.end = NetstackError("over")
    main(["run", "--tun", "tun7", "--dns", "192.0.2.1", "--config", str(path)])
    path.write_text('[tunnel]\nmtu = 1300\n[policy]\nlan = "block"\n')
    Runtime.made.handlers[signal.SIGHUP]()
    for thread in threading.enumerate():
        if thread.name == "reload":
            thread.join()
    config = Runtime.made.reconfigured
    assert (config.tunnel.mtu, config.policy.lan, config.dns.servers) == (1400, "block", ("192.0.2.1",))


def test_existing_device_keeps_its_mtu_and_queue_unless_told(world):
    world.exists = True
    main(["run", "--tun", "tun7", "--dns", "192.0.2.1"])
    main(["run", "--tun", "tun7", "--dns", "192.0.2.1", "--mtu", "1300"])
    assert world.up == [("tun7", {"mtu": None, "queue": None}), ("tun7", {"mtu": 1300, "queue": None})]


def test_device_that_may_not_be_configured_is_served_as_it_is(world, monkeypatch):
    def refuse(name, **settings):
        raise PermissionError

    monkeypatch.setattr(module, "bring_up", refuse)
    assert main(["run", "--tun", "tun7", "--dns", "192.0.2.1"]) == 0


@pytest.mark.parametrize("option", [["--offload", "off"], ["--pcap", "out.pcapng"]])
def test_offloads_are_off_when_told_and_for_packet_files(world, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["run", "--tun", "tun7", "--dns", "192.0.2.1", *option])
    assert world.opened == [("tun7", False)]


def test_interrupt_is_status_130(world):
    Runtime.end = signal.SIGINT
    assert main(["run", "--tun", "tun7", "--dns", "192.0.2.1"]) == 130


def test_lost_device_is_status_1_and_one_line(world, capsys):
    Runtime.end = TunnelClosed("the packet device is gone")
    assert main(["run", "--tun", "tun7", "--dns", "192.0.2.1"]) == 1
    assert capsys.readouterr().err == "netstack: the packet device is gone\n"


def test_inherited_descriptor_is_served_as_what_it_is(world, monkeypatch, capsys):
    inside, outside = os.pipe()
    monkeypatch.setattr(module, "describe_tun", lambda fd: TunDevice(fd, "given", True))
    assert main(["run", "--fd", str(inside), "--dns", "192.0.2.1"]) == 0
    assert Runtime.made.tunnel.offload
    assert world.opened == world.up == []
    assert main(["run", "--fd", str(outside), "--dns", "192.0.2.1", "--pcap", "/dev/null"]) == 2
    assert "offloads" in capsys.readouterr().err
    os.close(outside)


def test_mtu_of_a_device_is_taken_over(monkeypatch):
    from netstack.config import Config

    assert module._with_mtu_of("lo", Config()).tunnel.mtu in (65_535, 1500)  # loopback has 65536, over the limit
    assert module._with_mtu_of("no-such-device", Config()) == Config()
    assert module._exists("lo") and not module._exists("no-such-device")


def test_a_descriptor_that_nothing_can_arrive_on_is_refused(world, tmp_path, capsys):
    with open(tmp_path / "file", "w") as file:
        assert main(["run", "--fd", str(file.fileno()), "--dns", "192.0.2.1"]) == 2
    assert "this is a file, not a device" in capsys.readouterr().err


def test_an_empty_name_is_refused(world, capsys):
    assert main(["run", "--tun", "", "--dns", "192.0.2.1"]) == 2
    assert capsys.readouterr().err == "netstack: --tun: the name is empty\n"
    assert world.opened == []
