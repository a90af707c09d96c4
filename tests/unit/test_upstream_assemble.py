"""Which resolvers a configuration makes."""


import pytest

from netstack.config import (
    AnswersConfig,
    CacheConfig,
    CaptiveConfig,
    Config,
    DnsConfig,
    FilterConfig,
    PolicyConfig,
    RuleConfig,
    SplitConfig,
    make_config,
)
from netstack.core.errors import ConfigError
from netstack.core.network import Network
from netstack.core.stats import Stats
from netstack.dns.cache import CacheStage
from netstack.dns.stage import Stage, find_stage
from netstack.dns.synthetic import wire_name
from netstack.policy.captive import CaptivePortal
from netstack.upstream.assemble import answers_in_force, local_minute, make_resolver
from netstack.upstream.proxy import ProxyResolver


def made(*, cache="auto", answers=None, **dns):
    config = Config(
        dns=DnsConfig(**dns),
        cache=CacheConfig(use=cache),
        answers=AnswersConfig(**({"rebind": "off"} | (answers or {}))),
        policy=PolicyConfig(quic="allow"),
    )
    return make(config)


def make(config, **host):
    return make_resolver(config, None, None, Stats(), lambda event: None, **host)


def stages(resolver):
    names = []
    while True:
        names.append(type(resolver).__name__)
        if not isinstance(resolver, Stage):
            return names
        resolver = resolver.inner


def test_without_any_setting_it_is_the_proxy_alone():
    resolver = made(servers=("[2001:db8::1]:5353",))
    assert type(resolver) is ProxyResolver
    assert [str(server.endpoint) for server in resolver.servers] == ["[2001:db8::1]:5353"]


@pytest.mark.parametrize("where", ["servers", "upstreams"])
@pytest.mark.parametrize("strategy", ["failover", "parallel"])
def test_several_plain_servers_are_a_group_so_that_one_that_is_dead_is_looked_at_beside_live_queries(where, strategy):
    resolver = made(**{where: ("192.0.2.1", "[2001:db8::1]:5353"), "strategy": strategy})
    assert type(resolver).__name__ == "UpstreamGroup"
    assert [member.label for member in resolver.members] == ["udp://192.0.2.1:53", "udp://[2001:db8::1]:5353"]
    assert all(type(member.resolver) is ProxyResolver for member in resolver.members)


@pytest.mark.parametrize("url", ["192.0.2.9", "192.0.2.9:53", "udp://192.0.2.9", "udp://192.0.2.9:53"])
def test_plain_upstreams_take_the_place_of_the_servers(url):
    resolver = made(upstreams=(url,))
    assert [str(server.endpoint) for server in resolver.servers] == ["192.0.2.9:53"]


@pytest.mark.parametrize(
    ("upstreams", "strategy"),
    [
        (("tcp://192.0.2.9",), "failover"),
        (("udp://192.0.2.9", "tls://192.0.2.9#dns.example"), "failover"),
        (("udp://192.0.2.9", "udp://192.0.2.10"), "parallel"),
    ],
)
def test_other_upstreams_are_a_group(upstreams, strategy):
    resolver = made(upstreams=upstreams, strategy=strategy)
    assert type(resolver).__name__ == "UpstreamGroup"
    assert len(resolver.members) == len(upstreams)


def test_a_name_without_bootstrap_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match="--bootstrap"):
        made(upstreams=("tls://dns.example",))
    with pytest.raises(ConfigError, match="none"):
        made(upstreams=("tls://192.0.2.9",), ca_file=str(tmp_path / "none.pem"))


@pytest.mark.parametrize("url", ["ftp://192.0.2.9", "udp://", "udp://name.example", "192.0.2.9:0", ""])
def test_an_upstream_that_cannot_be_is_named(url):
    with pytest.raises(ConfigError, match=r"dns\.upstreams"):
        made(upstreams=(url,))


def test_the_cache_is_there_when_it_is_wanted():
    assert type(made(cache="off")) is ProxyResolver
    resolver = made(cache="on")
    assert type(resolver).__name__ == "CacheStage"
    assert type(resolver.inner) is ProxyResolver


def test_answers_are_edited_above_the_cache():
    resolver = made(cache="on", answers={"rebind": "remove", "dns64": "64:ff9b::/96"})
    names = [type(resolver).__name__, type(resolver.inner).__name__]
    assert names == ["AnswerStage", "CacheStage"]


def test_a_prefix_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"answers\.dns64"):
        made(answers={"dns64": "nonsense"})


@pytest.mark.parametrize(
    ("config", "has_ipv6", "wanted"),
    [
        ({}, None, {"strip_h3": "on", "aaaa": "pass", "rebind": "off"}),
        ({"policy": {"quic": "allow"}}, True, {"strip_h3": "off", "aaaa": "pass", "rebind": "off"}),
        ({"answers": {"strip_h3": "off"}}, None, {"strip_h3": "off"}),
        ({}, False, {"aaaa": "auto"}),
        ({"answers": {"aaaa": "filter"}}, True, {"aaaa": "filter"}),
        ({"dns": {"upstreams": ["tls://9.9.9.9"]}}, None, {"rebind": "remove"}),
        ({"dns": {"upstreams": ["https://dns.example/"], "bootstrap": ["192.0.2.1"]}}, None, {"rebind": "remove"}),
        ({"dns": {"upstreams": ["https://dns.example/"], "bootstrap": ["192.168.1.1"]}}, None, {"rebind": "off"}),
        ({"dns": {"upstreams": ["tls://9.9.9.9", "udp://192.168.1.1"]}}, None, {"rebind": "off"}),
        ({"dns": {"upstreams": ["udp://127.0.0.1:5399"]}}, None, {"rebind": "off"}),
        ({"dns": {"servers": ["9.9.9.9"]}}, None, {"rebind": "off"}),
        ({"dns": {"cd_uid": "abc123"}}, None, {"rebind": "remove"}),
        ({"answers": {"rebind": "refuse"}}, None, {"rebind": "refuse"}),
    ],
)
def test_what_auto_means(config, has_ipv6, wanted):
    answers = answers_in_force(make_config(config), Network(has_ipv6=has_ipv6))
    assert {key: getattr(answers, key) for key in wanted} == wanted


def test_behind_a_tunnel_h3_goes_by_default_because_quic_does():
    assert stages(make(Config())) == ["AnswerStage", "ProxyResolver"]
    assert stages(make(Config(policy=PolicyConfig(quic="allow")))) == ["ProxyResolver"]


def test_what_the_host_says_of_the_network():
    config = make_config({"policy": {"quic": "allow"}, "answers": {"dns64": "discover"}})
    stage = make(config, network=Network(has_ipv6=False, nat64="2001:db8:64::/96", servers=("192.0.2.7",)))
    assert stages(stage) == ["AnswerStage", "ProxyResolver"]
    assert not stage.has_ipv6 and stage.prefixes and stage._discover_at is None
    assert [str(server.endpoint) for server in stage._discovery.servers] == ["192.0.2.7:53"]
    nobody_said = make(config)
    assert nobody_said._discovery is nobody_said.inner
    with pytest.raises(ConfigError, match="dns64"):
        make(config, network=Network(nat64="nonsense"))


def test_a_portal_is_below_the_rules_and_above_the_cache():
    portal = CaptivePortal(CaptiveConfig(), lambda event: None)
    config = make_config(
        {"filter": {"bypass": "on"}, "cache": {"use": "on"}, "dns": {"network_servers": ["192.0.2.7:5353"]}}
    )
    chain = make(config, portal=portal)
    assert stages(chain) == ["RuleStage", "CaptiveStage", "AnswerStage", "CacheStage", "ProxyResolver"]
    assert [str(server.endpoint) for server in chain.inner._network.servers] == ["192.0.2.7:5353"]
    chain.close()
    assert not portal._changed, "a chain that is gone is not told of the portal"


def test_rules_know_the_network_from_the_start():
    config = make_config({"rules": [{"action": "refused", "networks": ["office"]}]})
    assert make(config, network=Network(name="office")).network == "office"


def test_rules_come_first(tmp_path):
    names = tmp_path / "names"
    names.write_text("ads.example\n")
    config = Config(
        filter=FilterConfig(block=(str(names),)),
        rules=(RuleConfig(action="refused", names=("x.example",)),),
        answers=AnswersConfig(strip_ech=True),
    )
    resolver = make_resolver(config, None, None, Stats(), lambda event: None)
    assert [type(resolver).__name__, type(resolver.inner).__name__] == ["RuleStage", "AnswerStage"]
    assert len(resolver.lists) == 1


@pytest.mark.parametrize(
    "filter",
    [FilterConfig(doh_hosts="built-in"), FilterConfig(bypass="on"), FilterConfig(sinkhole=("192.0.2.1",), bypass="on")],
)
def test_a_filter_without_lists(filter):
    resolver = make_resolver(Config(filter=filter), None, None, Stats(), lambda event: None)
    assert type(resolver).__name__ == "RuleStage"


def test_a_held_query_leaves_time_for_its_answer():
    for timeout, held in [(5.0, (2.0, 1.0)), (1.0, (0.8, 0.5))]:
        stage = make(make_config({"dns": {"timeout": timeout}, "rules": [{"action": "postpone"}]}))
        assert (stage._settings.postpone, stage._settings.app_wait) == held


def test_a_list_or_rule_that_cannot_be_used_is_named(tmp_path):
    for config, words in [
        (Config(filter=FilterConfig(block=(str(tmp_path / "none"),))), "none: cannot be read"),
        (Config(rules=(RuleConfig(action="explode"),)), "explode"),
        (Config(filter=FilterConfig(bypass="on", sinkhole=("nonsense",))), "sinkhole"),
    ]:
        with pytest.raises(ConfigError, match=words):
            make_resolver(config, None, None, Stats(), lambda event: None)


def test_the_local_time_is_minutes_of_the_week():
    assert 0 <= local_minute(0.0) < 7 * 24 * 60


def test_what_the_cache_keeps_is_scoped_by_who_answered():
    split = (
        SplitConfig(upstreams=("192.0.2.1",), suffixes=("corp.example",), search=("lab.example",)),
        SplitConfig(upstreams=("192.0.2.2",), suffixes=("x.corp.example",)),
    )
    cache = find_stage(make(Config(split=split, cache=CacheConfig(use="on"))), CacheStage)
    names = ["a.corp.example", "a.x.corp.example", "lab.example", "wiki", "example", "www.example", "localhost"]
    labels = [cache._scope(wire_name(name)) for name in names]
    assert labels == [b"1", b"2", b"1", b"search", b"search", b"", b""]
    assert cache._scope(bytes(1)) == b""


def test_split_dns_is_below_the_cache_and_its_names_are_internal():
    split = (SplitConfig(upstreams=("192.0.2.1",), suffixes=("corp.example",), search=("lab.example",)),)
    config = Config(split=split, cache=CacheConfig(use="on"), answers=AnswersConfig(rebind="remove"))
    assert answers_in_force(config, Network()).rebind_allow == ("corp.example", "lab.example")
    resolver = make_resolver(config, None, None, Stats(), lambda event: None)
    names = [type(resolver).__name__, type(resolver.inner).__name__, type(resolver.inner.inner).__name__]
    assert names == ["AnswerStage", "CacheStage", "SplitStage"]
    assert b"\x04corp\x07example\0" in resolver._allow


def test_an_upstream_or_suffix_of_a_split_that_cannot_be_is_named():
    for settings, words in [
        ({"upstreams": ("ftp://x",), "suffixes": ("corp.example",)}, r"split\[1\].upstreams"),
        ({"upstreams": ("192.0.2.1",), "suffixes": ("not..a.name",)}, "split"),
    ]:
        config = Config(split=(SplitConfig(**settings),))
        with pytest.raises(ConfigError, match=words):
            make_resolver(config, None, None, Stats(), lambda event: None)
    with pytest.raises(ConfigError, match=r"split\[1\]\.suffixes"):
        Config(split=(SplitConfig(upstreams=("192.0.2.1",)),))


def test_control_d_comes_first():
    pytest.importorskip("h2")
    resolver = made(cd_uid="1ab23cd", upstreams=("192.0.2.9",))
    assert [member.label for member in resolver.members] == ["https://dns.controld.com", "udp://192.0.2.9"]
    with pytest.raises(ConfigError, match="Control D"):
        made(cd_uid="no id")
