"""Settings: defaults, TOML, profiles, and errors that name the key."""

from pathlib import Path

import pytest

from netstack.config import Config, load_config, make_config, parse_server
from netstack.core.errors import ConfigError


def test_defaults_are_valid() -> None:
    config = Config()
    assert config.tracker.lease == 300.0
    assert config.policy.enforcement == "strict"


def test_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "netstack.toml"
    path.write_text('mode = "dns-only"\n[tunnel]\nmtu = 1400\n[dns]\nservers = ["192.0.2.1", "[2001:db8::1]:5353"]\n')
    config = load_config(path)
    assert config.mode == "dns-only"
    assert config.tunnel.mtu == 1400
    assert config.dns.servers == ("192.0.2.1", "[2001:db8::1]:5353")


def test_seed_profile_can_be_overridden() -> None:
    config = make_config({"profile": "seed", "udp": {"stun_timeout": 60}})
    assert config.udp.timeout == 30.0
    assert config.udp.stun_timeout == 60.0
    assert config.tracker.use_ttl is False
    assert make_config({"profile": "seed", "udp": {"timeout": 5.0}}).udp.timeout == 5.0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"tcp": {"windw": 1}}, r"tcp\.windw: no such setting; did you mean tcp\.window\?"),
        ({"tnnel": {}}, r"tnnel: no such setting; did you mean tunnel\?"),
        ({"tunnel": {"mtu": 100}}, r"tunnel\.mtu: must be 576\.\.65535, got 100"),
        ({"tunnel": {"mtu": "big"}}, r"tunnel\.mtu: int is wanted, got 'big'"),
        ({"tunnel": {"mtu": True}}, r"tunnel\.mtu: int is wanted, got True"),
        ({"tunnel": {"address": "10.0.0.300"}}, r"tunnel\.address: '10\.0\.0\.300' is not an IP address"),
        ({"tunnel": {"address": "::1"}}, r"tunnel\.address: '::1' is not an IPv4 address"),
        ({"policy": {"enforcement": "hard"}}, r"policy\.enforcement: 'hard' is not one of off, audit, strict"),
        ({"tcp": {"rto_min": -1}}, r"tcp\.rto_min: must be above zero"),
        ({"limits": {"tcp_flows": 0}}, r"limits\.tcp_flows: must be above zero"),
        ({"dns": {"servers": "192.0.2.1"}}, r"dns\.servers: a list is wanted"),
        ({"dns": {"servers": ["dns.example"]}}, r"'dns\.example' is not an IP address"),
        ({"tcp": 5}, r"tcp: a table is wanted"),
        ({"profile": "gold"}, r"profile: 'gold' is not one of default, seed"),
    ],
)
def test_errors_name_the_key(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(table)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot read: No such file"):
        load_config(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("mode = ")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(bad)
    bad.write_text("[tcp]\nwindw = 1\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: tcp\.windw"):
        load_config(bad)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:853", ("2001:db8::1", 853)),
    ],
)
def test_servers(text: str, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize(
    "text", ["", "name", "192.0.2.1:0", "192.0.2.1:70000", "192.0.2.1:x", "[::1", "[::1]x", "[::1]:"]
)
def test_bad_servers(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_server(text)
