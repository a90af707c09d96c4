"""The resolver that a configuration asks for.

Responsible for: which stages stand between the bridge and the upstreams, and in which order.
Refuses to know: what any of them does.

Only what is configured is built and imported: without a setting for it, no stage costs anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from netstack.config import AnswersConfig, Config, parse_server
from netstack.core.errors import ConfigError
from netstack.core.events import EventSink
from netstack.core.flow import Endpoint
from netstack.core.network import Network
from netstack.core.ports import Dialer, Entropy, FlowLookup, FlowOwner, Resolver
from netstack.core.record import fields, replace
from netstack.core.stats import Stats
from netstack.dns.stage import Stage
from netstack.upstream.proxy import ProxyResolver

if TYPE_CHECKING:
    from netstack.dns.lists import Lists
    from netstack.dns.split import SplitStage
    from netstack.policy.captive import CaptivePortal
    from netstack.upstream.transports import Transports
    from netstack.upstream.url import UpstreamUrl

MinuteOfWeek = Callable[[float], float]
"""From the engine's clock to minutes since Monday 00:00 local time."""


def make_resolver(
    config: Config,
    dialer: Dialer,
    entropy: Entropy,
    stats: Stats,
    emit: EventSink,
    *,
    minute_of_week: MinuteOfWeek | None = None,
    apps: FlowOwner | FlowLookup | None = None,
    network: Network | None = None,
    portal: CaptivePortal | None = None,
    lists: Lists | None = None,
) -> Resolver:
    """The chain of resolvers for `config`, rules first. Raises ConfigError. Opens no socket.

    `apps` tells rules that name apps whose a flow is; without it every app is unknown. `minute_of_week` tells the
    local time to rules with a schedule; the system's clock when not given. `network` is what the host says of the
    network, `portal` what it knows of a captive portal. `lists` are those of `config`, when they are open already.
    """
    network = network or Network()
    resolver = _upstreams(config, dialer, entropy, stats, emit)
    scope = None
    if config.split:
        split = _split_stage(config, resolver, dialer, entropy, stats, emit)
        resolver, scope = split, split.label_of
    if config.cache.use == "on":
        from netstack.dns.cache import CacheStage

        resolver = CacheStage(resolver, config.cache, scope=scope)
    answers = answers_in_force(config, network)
    if answers != _UNTOUCHED:
        own = network_resolver(config, network, dialer, entropy, stats) if answers.dns64 == "discover" else None
        resolver = _answer_stage(answers, resolver, own, network)
    if portal is not None:
        from netstack.policy.captive import CaptiveStage

        resolver = CaptiveStage(resolver, network_resolver(config, network, dialer, entropy, stats), portal)
    resolver = with_rules(config, resolver, stats, emit, minute_of_week or local_minute, apps=apps, lists=lists)
    if network.name and isinstance(resolver, Stage):
        resolver.set_network(network.name, 0.0)
    return resolver


_UNTOUCHED = AnswersConfig(strip_h3="off", aaaa="pass", rebind="off")


def answers_in_force(config: Config, network: Network) -> AnswersConfig:
    """`config.answers` with every auto decided, and names of split DNS among those that may have private addresses."""
    answers = config.answers
    changes: dict[str, Any] = {}
    if answers.strip_h3 == "auto":
        changes["strip_h3"] = "on" if config.policy.quic == "block" else "off"
    if answers.aaaa == "auto" and network.has_ipv6 is not False:
        changes["aaaa"] = "pass"
    if answers.rebind == "auto":
        changes["rebind"] = "remove" if _asks_the_internet(config) else "off"
    if config.split and changes.get("rebind", answers.rebind) != "off":
        internal = [suffix for split in config.split for suffix in (*split.suffixes, *split.search) if suffix != "."]
        changes["rebind_allow"] = (*answers.rebind_allow, *internal)
    answers = replace(answers, **changes)
    return replace(answers, synthetic_ttl=_UNTOUCHED.synthetic_ttl) if _is_idle(answers) else answers


def _is_idle(answers: AnswersConfig) -> bool:
    """True when nothing is made up, so that what made-up answers are like does not matter."""
    return replace(answers, synthetic_ttl=_UNTOUCHED.synthetic_ttl, rebind_allow=()) == _UNTOUCHED


def _asks_the_internet(config: Config) -> bool:
    """True when every upstream is a resolver of the Internet, which has no business with private addresses.

    A resolver of the network, or on this host, may know the names of the network's own hosts; so may `dns.servers`,
    which are what the system uses.
    """
    from netstack.policy.lan import classify

    if not config.dns.upstreams:
        return bool(config.dns.cd_uid)
    for text in config.dns.upstreams:
        upstream = _upstream(text)
        where = [upstream.host] if upstream.is_address else [*upstream.addresses, *config.dns.bootstrap]
        if any(classify(Endpoint.of(parse_server(each)[0], 0).address) for each in where):
            return False
    return True


def network_resolver(
    config: Config, network: Network, dialer: Dialer, entropy: Entropy, stats: Stats
) -> Resolver | None:
    """The network's own resolver; None when nobody said which it is."""
    servers = network.servers or config.dns.network_servers
    if not servers:
        return None
    return ProxyResolver(dialer, servers, entropy, timeout=config.dns.timeout, stats=stats)


def with_rules(
    config: Config,
    inner: Resolver,
    stats: Stats,
    emit: EventSink,
    minute_of_week: MinuteOfWeek,
    *,
    apps: FlowOwner | FlowLookup | None = None,
    lists: Lists | None = None,
) -> Resolver:
    """`inner` behind the rules and lists of `config`; `inner` itself when there are none. Raises ConfigError.

    `lists`: those of `config`, when they are open already.
    """
    filter = config.filter
    if not (config.rules or filter.block or filter.allow or filter.doh_hosts or filter.bypass == "on"):
        return inner
    from netstack.dns.lists import Lists
    from netstack.dns.rules import RuleSettings, RuleStage

    kept: dict[str, Any] = {name: getattr(filter, name) for name in fields(filter)}
    block, allow = kept.pop("block"), kept.pop("allow")
    timeout = config.dns.timeout  # who holds a query must leave time for the answer
    kept |= {"postpone": min(filter.postpone, 0.8 * timeout), "app_wait": min(filter.app_wait, 0.5 * timeout)}
    settings = RuleSettings(**{
        **kept, "bypass": filter.bypass != "off", "rules": config.rules,
    })  # fmt: skip
    if lists is None:
        lists = Lists(block, allow)
    return RuleStage(inner, settings, lists, stats=stats, emit=emit, apps=apps, minute_of_week=minute_of_week)


def check(config: Config) -> None:
    """What can be said of `config` without a file or a socket. Raises ConfigError naming the key."""
    from netstack.dns.dns64 import parse_prefix
    from netstack.dns.ruleset import RuleSet, parse_addresses, parse_name

    RuleSet(config.rules)
    for upstream in config.dns.upstreams:
        _upstream(upstream)
    for number, split in enumerate(config.split, 1):
        for text in split.upstreams:
            _upstream(text, f"split[{number}].upstreams")
        _each(f"split[{number}].suffixes", (text for text in split.suffixes if text != "."), parse_name)
        _each(f"split[{number}].search", split.search, parse_name)
    _each("answers.rebind_allow", config.answers.rebind_allow, parse_name)
    _each("filter.sinkhole", config.filter.sinkhole, lambda text: parse_addresses((text,)))
    if config.answers.dns64 not in ("off", "discover"):
        _each("answers.dns64", (config.answers.dns64,), parse_prefix)


def _each(key: str, texts: Iterable[str], read: Callable[[str], object]) -> None:
    for text in texts:
        try:
            read(text)
        except ValueError as problem:
            raise ConfigError(f"{key}: {problem}") from None


def local_minute(now: float) -> float:
    """Minutes since Monday 00:00, as this host's clock and time zone say."""
    time_ = time.localtime()
    return time_.tm_wday * 1440 + time_.tm_hour * 60 + time_.tm_min + time_.tm_sec / 60


def _split_stage(
    config: Config, inner: Resolver, dialer: Dialer, entropy: Entropy, stats: Stats, emit: EventSink
) -> SplitStage:
    from netstack.dns.split import SplitGroup, SplitStage

    transports = _transports(config, dialer, entropy, stats, emit)
    groups = []
    for number, split in enumerate(config.split, 1):
        try:
            resolver = transports.group(split.upstreams)
        except ConfigError as problem:
            raise ConfigError(f"split[{number}].upstreams: {problem}") from None
        groups.append(SplitGroup(resolver=resolver, suffixes=split.suffixes, search=split.search, leak=split.leak))
    return SplitStage(inner, groups)


def _answer_stage(answers: AnswersConfig, inner: Resolver, discovery: Resolver | None, network: Network) -> Resolver:
    from netstack.dns.answers import AnswerStage
    from netstack.policy.lan import classify

    try:
        stage = AnswerStage(inner, answers, scope_of=classify, discovery=discovery)
        if network.nat64:
            stage.set_nat64(network.nat64)
    except ValueError as problem:
        raise ConfigError(f"answers.dns64: {problem}") from None
    stage.has_ipv6 = network.has_ipv6 is not False
    return stage


def _upstreams(config: Config, dialer: Dialer, entropy: Entropy, stats: Stats, emit: EventSink) -> Resolver:
    dns = config.dns
    if not dns.upstreams and not dns.cd_uid:
        servers = [Endpoint.of(*parse_server(each)) for each in dns.servers]
        return _plain(config, servers, dialer, entropy, stats, emit)
    upstreams = [_upstream(each) for each in dns.upstreams]
    if dns.cd_uid:
        from netstack.upstream.url import control_d

        preset = control_d(dns.cd_uid, dns.cd_protocol, client=dns.cd_client, hostname=dns.cd_hostname)
        upstreams.insert(0, preset)
    if all(upstream.scheme == "udp" for upstream in upstreams):
        return _plain(config, [upstream.endpoint for upstream in upstreams], dialer, entropy, stats, emit)
    return _transports(config, dialer, entropy, stats, emit).group(upstreams)


def _plain(
    config: Config, servers: list[Endpoint], dialer: Dialer, entropy: Entropy, stats: Stats, emit: EventSink
) -> Resolver:
    """Plain DNS, without anything that encryption needs; several servers are a group of as many resolvers."""
    timeout = config.dns.timeout
    if len(servers) <= 1:
        return ProxyResolver(dialer, servers, entropy, timeout=timeout, stats=stats)
    from netstack.upstream.group import UpstreamGroup

    return UpstreamGroup(
        [(f"udp://{each}", ProxyResolver(dialer, [each], entropy, timeout=timeout, stats=stats)) for each in servers],
        strategy=config.dns.strategy,
        timeout=min(timeout, max(0.2, timeout - 0.2)),
        emit=emit,
    )


def _transports(config: Config, dialer: Dialer, entropy: Entropy, stats: Stats, emit: EventSink) -> Transports:
    from netstack.upstream.transports import Transports, UpstreamSettings

    dns = config.dns
    settings = UpstreamSettings(
        strategy=dns.strategy,
        bootstrap=dns.bootstrap,
        ca_file=dns.ca_file,
        timeout=dns.timeout,
        idle=dns.idle,
        padding=dns.padding,
    )
    return Transports(dialer, entropy, settings, stats=stats, emit=emit)


def _upstream(text: str, key: str = "dns.upstreams") -> UpstreamUrl:
    from netstack.upstream.url import parse_upstream

    try:
        return parse_upstream(text)
    except ConfigError as problem:
        raise ConfigError(f"{key}: {problem}") from None
