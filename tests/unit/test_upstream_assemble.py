"""Which resolvers a configuration makes."""

import pytest

from netstack.config import CacheConfig, Config, DnsConfig
from netstack.core.errors import ConfigError
from netstack.core.stats import Stats
from netstack.upstream.assemble import make_resolver
from netstack.upstream.proxy import ProxyResolver


def made(*, cache="auto", **dns):
    config = Config(dns=DnsConfig(**dns), cache=CacheConfig(use=cache))
    return make_resolver(config, None, None, Stats(), lambda event: None)


def test_without_any_setting_it_is_the_proxy_alone():
    resolver = made(servers=("192.0.2.1", "[2001:db8::1]:5353"))
    assert type(resolver) is ProxyResolver
    assert [str(server.endpoint) for server in resolver.servers] == ["192.0.2.1:53", "[2001:db8::1]:5353"]


@pytest.mark.parametrize("url", ["192.0.2.9", "192.0.2.9:53", "udp://192.0.2.9", "udp://192.0.2.9:53"])
def test_plain_upstreams_take_the_place_of_the_servers(url):
    resolver = made(upstreams=(url,))
    assert [str(server.endpoint) for server in resolver.servers] == ["192.0.2.9:53"]


@pytest.mark.parametrize("url", ["ftp://192.0.2.9", "udp://", "udp://name.example", "192.0.2.9:0", ""])
def test_an_upstream_that_cannot_be_is_named(url):
    with pytest.raises(ConfigError, match=r"dns\.upstreams"):
        made(upstreams=(url,))


def test_the_cache_is_there_when_it_is_wanted():
    assert type(made(cache="off")) is ProxyResolver
    resolver = made(cache="on")
    assert type(resolver).__name__ == "CacheStage"
    assert type(resolver.inner) is ProxyResolver
