"""From URLs to resolvers."""

import importlib.util

import pytest

from netstack.core.errors import ConfigError
from netstack.testing.world import ScriptedDialer, SeededEntropy
from netstack.upstream.connected import ConnectedResolver
from netstack.upstream.proxy import ProxyResolver
from netstack.upstream.transports import Transports, UpstreamSettings
from netstack.upstream.url import control_d


def transports(**settings: object) -> Transports:
    return Transports(ScriptedDialer(), SeededEntropy(), UpstreamSettings(**settings))


def test_each_scheme_has_its_transport() -> None:
    pytest.importorskip("hpack")
    pytest.importorskip("aioquic")
    made = transports(bootstrap=("192.0.2.1",))
    assert isinstance(made.resolver("192.0.2.53"), ProxyResolver)
    for url in ("tcp://192.0.2.53", "tls://dns.test", "https://dns.test", "quic://dns.test"):
        assert isinstance(made.resolver(url), ConnectedResolver)
    assert not made._dialer.streams and not made._dialer.datagrams, "nothing is opened before it is needed"


def test_a_group_has_labels_and_a_strategy() -> None:
    group = transports(strategy="fastest").group(["192.0.2.53", "tls://192.0.2.54#dns.test"])
    assert [member.label for member in group.members] == ["udp://192.0.2.53", "tls://192.0.2.54"]
    with pytest.raises(ConfigError, match="strategy"):
        transports(strategy="x").group(["192.0.2.53"])


def test_a_name_needs_a_bootstrap() -> None:
    with pytest.raises(ConfigError, match=r"--bootstrap ADDR\[:PORT\]") as raised:
        transports().resolver("tls://dns.test")
    assert "dns.test" in str(raised.value)
    with pytest.raises(ConfigError, match="not an IP address"):
        transports(bootstrap=("dns.test",))
    assert isinstance(transports().resolver(control_d("abc", "dot")), ConnectedResolver), "brings its own"


def test_a_file_of_anchors_is_read_early() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        transports(ca_file="nowhere.pem")


@pytest.mark.parametrize(("url", "extra"), [("https://192.0.2.1", "doh"), ("quic://192.0.2.1", "doq")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, url: str, extra: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"netstack-vpn\[{extra}\]"):
        transports().resolver(url)
