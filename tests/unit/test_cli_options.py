"""Shared options: configuration, resolvers, event output."""

import argparse
import io
import json

import pytest

from netstack.cli import options as module
from netstack.cli.options import (
    EventOutput,
    add_engine_options,
    add_output_options,
    address_pair,
    event_output,
    has_ipv6,
    host_network,
    host_resolvers,
    load_configuration,
    make_configuration,
)
from netstack.config import Config, make_config
from netstack.core.errors import ConfigError, NetstackError
from netstack.core.events import EngineError, StateChanged
from netstack.core.network import Network


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    add_output_options(parser)
    parser.add_argument("--tun-address", type=address_pair)
    return parser.parse_args(arguments)


def test_options_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "netstack.toml"
    path.write_text('[tunnel]\nmtu = 1400\naddress = "10.9.0.1"\n[policy]\nenforcement = "off"\nquic = "allow"\n')
    config = make_configuration(
        parse("--config", str(path), "--mtu", "1300", "--enforcement", "audit"), servers=("1.1.1.1",)
    )
    assert config.tunnel.mtu == 1300
    assert config.tunnel.address == "10.9.0.1"
    assert (config.policy.enforcement, config.policy.quic) == ("audit", "allow")
    assert config.dns.servers == ("1.1.1.1",)


def test_resolvers_come_from_options_then_file_then_host(tmp_path, monkeypatch):
    path = tmp_path / "netstack.toml"
    path.write_text('[dns]\nservers = ["192.0.2.1"]\n')
    monkeypatch.setattr(module, "host_resolvers", lambda: ("192.0.2.3",))
    both = parse("--config", str(path), "--dns", "192.0.2.2", "--dns", "[2001:db8::1]:5353")
    assert make_configuration(both).dns.servers == ("192.0.2.2", "[2001:db8::1]:5353")
    assert make_configuration(parse("--config", str(path))).dns.servers == ("192.0.2.1",)
    assert make_configuration(parse()).dns.servers == ("192.0.2.3",)


def test_options_of_the_resolver(tmp_path):
    path = tmp_path / "netstack.toml"
    path.write_text('[dns]\nupstreams = ["tcp://192.0.2.1"]\n[filter]\nblock = ["a"]')
    config = make_configuration(parse("--config", str(path), "--block", "b", "--allow", "c"), servers=("192.0.2.9",))
    assert config.dns.upstreams == ("tcp://192.0.2.1",)
    assert (config.filter.block, config.filter.allow) == (("a", "b"), ("c",))
    assert config.cache.use == "auto"
    assert make_configuration(parse("--config", str(path), "--dns", "192.0.2.2")).dns.upstreams == ()
    more = ["--strategy", "fastest", "--bootstrap", "192.0.2.5", "--ca-file", "ca.pem"]
    config = make_configuration(parse("--upstream", "192.0.2.3", "--cache", "on", *more))
    assert (config.dns.strategy, config.dns.bootstrap, config.dns.ca_file) == ("fastest", ("192.0.2.5",), "ca.pem")
    assert config.dns.upstreams == ("192.0.2.3",)
    assert config.cache.use == "on"


def test_the_blocking_state_by_option(tmp_path):
    path = tmp_path / "netstack.toml"
    path.write_text('[lockdown]\nnetwork_check = true\nports = [80]\n')
    lockdown = make_configuration(parse("--config", str(path)), servers=("192.0.2.1",)).lockdown
    assert (lockdown.blocking, lockdown.network_check, lockdown.ports) == (False, True, (80,))
    for option, wanted in [("off", (False, False)), ("on", (True, False)), ("leak-free", (True, True))]:
        options = parse("--config", str(path), "--lockdown", "--network-check", option)
        lockdown = make_configuration(options, servers=("192.0.2.1",)).lockdown
        assert lockdown.blocking and (lockdown.network_check, lockdown.leak_free) == wanted


def test_behind_a_tunnel_auto_stays_for_who_knows_more():
    assert make_configuration(parse(), servers=("192.0.2.1",)).answers.strip_h3 == "auto"


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        ("fd000000000000000000000000000002 04 40 00 82 eth0\n", True),
        ("20010db8000000000000000000000001 01 80 00 80 lo\n", True),
        ("fe8000000000000000fc00fffe000001 04 40 20 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\n", False),
        ("", False),
    ],
)
def test_whether_there_is_ipv6(tmp_path, lines, has):
    path = tmp_path / "if_inet6"
    path.write_text(lines)
    assert has_ipv6(str(path)) is has


def test_a_host_that_says_nothing_of_ipv6(tmp_path):
    assert has_ipv6(str(tmp_path / "if_inet6")) is False, "proc is there, the file is not: switched off"
    assert has_ipv6(str(tmp_path / "nowhere" / "if_inet6")) is None


def test_the_hosts_network(tmp_path, monkeypatch):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.9\nnameserver fe80::1%eth0\n")
    monkeypatch.setattr(module, "RESOLV_CONF", str(resolv))
    monkeypatch.setattr(module, "has_ipv6", lambda: False)
    assert host_network(Config()) == Network(servers=("192.0.2.9",), has_ipv6=False)
    resolv.write_text("")
    assert host_network(Config(), family=False) == Network()
    named = make_config({"dns": {"network_servers": ["192.0.2.8"]}})
    resolv.write_text("nameserver 192.0.2.9\n")
    assert host_network(named).servers == (), "those of the configuration are meant"


def test_what_somebody_asked_for_is_said_each_time():
    words = io.StringIO()
    output = EventOutput(verbose=False, words=words)
    for where in ("resolver", "resolver", "list", "list", "config", "config"):
        output(EngineError(0.0, where, "bad"))
    said = [line.split()[1] for line in words.getvalue().splitlines()]
    assert said == ["resolver:", "list:", "list:", "config:", "config:"]


@pytest.mark.parametrize(
    ("text", "pair"),
    [("10.0.0.1", ("10.0.0.1", "")), ("fd00::1", ("", "fd00::1")), ("fd00:0::1, 10.0.0.1", ("10.0.0.1", "fd00::1"))],
)
def test_address_pair(text, pair):
    assert address_pair(text) == pair


def test_own_addresses_that_are_not_given_keep_their_defaults():
    config = make_configuration(parse("--tun-address", "198.18.0.1"), servers=("192.0.2.1",))
    assert (config.tunnel.address, config.tunnel.address6) == ("198.18.0.1", "fd00:6e65:7473::1")


def test_resolv_conf_is_read_as_its_manual_says(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1 # first\n  nameserver\t2001:db8::1\n"
        "nameserver fe80::1%eth0\nnameserver nonsense\nnameserver\n"
    )
    assert host_resolvers(str(path)) == ("192.0.2.1", "2001:db8::1")
    path.write_text("")
    assert host_resolvers(str(path)) == ("127.0.0.1",)
    assert host_resolvers(str(tmp_path / "absent")) == ("127.0.0.1",)


STARTED = StateChanged(1.0, "running", "firewall")
TROUBLE = EngineError(2.0, "dialer", "no route")


def test_quiet_output_says_each_error_once():
    words = io.StringIO()
    output = EventOutput(verbose=False, words=words)
    for event in (STARTED, TROUBLE, TROUBLE, EngineError(3.0, "tunnel", "gone", fatal=True)):
        output(event)
    assert words.getvalue() == "[ERROR] dialer: no route\n"


def test_verbose_output_says_everything():
    words = io.StringIO()
    output = EventOutput(verbose=True, words=words)
    for event in (STARTED, TROUBLE, TROUBLE):
        output(event)
    assert words.getvalue().count("\n") == 3


def test_json_lines_hold_the_event_and_the_time_of_day():
    lines = io.StringIO()
    EventOutput(verbose=False, lines=lines, words=io.StringIO())(STARTED)
    told = json.loads(lines.getvalue())
    assert (told["event"], told["at"], told["state"]) == ("state_changed", 1.0, "running")
    assert told["time"] > 1e9


def test_reader_that_went_away_ends_only_its_output():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    words = io.StringIO()
    output = EventOutput(verbose=True, lines=Broken(), words=words)
    output(STARTED)
    output(STARTED)
    assert words.getvalue().count("\n") == 2
    EventOutput(verbose=True, words=Broken())(STARTED)


def test_event_file_is_written_and_closed(tmp_path):
    path = tmp_path / "events"
    with event_output(parse("--events", str(path))) as emit:
        emit(STARTED)
        assert path.read_text().count("\n") == 1  # whoever follows the file sees it at once
    with pytest.raises(NetstackError, match="No such file"), event_output(parse("--events", "/nonexistent/x")):
        pass


def test_events_on_standard_output(capfd):
    with event_output(parse("--events", "-")) as emit:
        emit(STARTED)
    assert json.loads(capfd.readouterr().out)["event"] == "state_changed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[dns]\nupstreams = "x"', "dns.upstreams: a list is wanted"),
        ('[dns]\nupstreams = ["ftp://x"]', "dns.upstreams: upstream 'ftp://x'"),
        ("[dns]\nservers = []", "dns.servers: at least one"),
        ('[dns]\nnetwork_servers = ["x"]', "dns.network_servers: 'x'"),
        ('[[rules]]\naction = "rewrite"', "rule 1: `to` is wanted"),
        ('[[rules]]\naction = "drop"\nschedule = ["8"]', "rule 1: '8' is not a time"),
        ('[[rules]]\naction = "drop"\nnames = ["/(/"]', "not a regular expression"),
        ('[[rules]]\naction = "drop"\nservers = ["h"]', "rule 1: 'h' is not an IP address"),
        ('[[rules]]\naction = "allow"\nstorm = "drop"', "rule 1: storm: 'drop'"),
        ("[lockdown]\nports = [0]", "lockdown.ports: 0 is not a port"),
        ('[captive]\nnames = ["a..b"]', "captive.names: 'a..b' is not a host name"),
        ('[answers]\ndns64 = "zz"', "answers.dns64: 'zz'"),
        ("[answers]\nstrip_h3 = true", "answers.strip_h3: str is wanted"),
        ('[answers]\nrebind_allow = ["..."]', "answers.rebind_allow: '...' is not a name"),
        ('[[split]]\nsuffixes = ["a"]', "split[1].upstreams: at least one"),
        ('[[split]]\nsuffixes = ["a"]\nupstreams = ["ftp://x"]', "split[1].upstreams: upstream 'ftp://x'"),
        ('[[split]]\nsearch = ["a..b"]\nupstreams = ["192.0.2.1"]', "split[1].search: 'a..b'"),
        ('[filter]\nsinkhole = ["no"]', "filter.sinkhole: 'no'"),
        ("[filter]\nstorm = -1", "filter.storm: must be above zero"),
        ("[policy]\nquic_ports = [99999]", "policy.quic_ports: 99999 is not a port"),
        ("[cache]\noctets = -5", "cache.octets: must be above zero"),
        ("x = [1", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, text, words):
    path = tmp_path / "netstack.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_configuration(parse("--config", str(path)), servers=("192.0.2.1",))
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_octets_that_are_no_text_are_no_configuration(tmp_path):
    path = tmp_path / "netstack.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_configuration(str(path))
