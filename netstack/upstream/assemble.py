"""The resolver that a configuration asks for.

Responsible for: which stages stand between the bridge and the upstreams, and in which order.
Refuses to know: what any of them does.

Only what is configured is built and imported: without a setting for it, no stage costs anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from netstack.config import AnswersConfig, Config
from netstack.core.errors import ConfigError
from netstack.core.events import EventSink
from netstack.core.ports import Dialer, Entropy, FlowOwner, Resolver
from netstack.core.record import fields
from netstack.core.stats import Stats
from netstack.upstream.proxy import ProxyResolver

if TYPE_CHECKING:
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
    apps: FlowOwner | None = None,
) -> Resolver:
    """The chain of resolvers for `config`, rules first. Raises ConfigError.

    `apps` tells rules that name apps whose a flow is; without it every app is unknown. `minute_of_week` tells the
    local time to rules with a schedule; the system's clock when not given.
    """
    resolver = _upstreams(config, dialer, entropy, stats, emit)
    if config.split:
        resolver = _split_stage(config, resolver, dialer, entropy, stats, emit)
    if config.cache.use == "on":
        from netstack.dns.cache import CacheSettings, CacheStage

        kept = _fields(config.cache)
        del kept["use"]
        resolver = CacheStage(resolver, CacheSettings(**kept))
    if config.answers != AnswersConfig():
        resolver = _answer_stage(config, resolver)
    return with_rules(config, resolver, stats, emit, minute_of_week or _local_minute, apps=apps)


def with_rules(
    config: Config,
    inner: Resolver,
    stats: Stats,
    emit: EventSink,
    minute_of_week: MinuteOfWeek,
    *,
    apps: FlowOwner | None = None,
) -> Resolver:
    """`inner` behind the rules and lists of `config`; `inner` itself when there are none. Raises ConfigError."""
    filter = config.filter
    if not (config.rules or filter.block or filter.allow or filter.doh_hosts or filter.bypass == "on"):
        return inner
    from netstack.dns.lists import Lists
    from netstack.dns.rules import RuleSettings, RuleStage
    from netstack.dns.ruleset import Rule

    kept = _fields(filter)
    block, allow = kept.pop("block"), kept.pop("allow")
    settings = RuleSettings(**{
        **kept, "bypass": filter.bypass != "off", "rules": tuple(Rule(**_fields(rule)) for rule in config.rules),
    })  # fmt: skip
    return RuleStage(
        inner, settings, Lists(block, allow), stats=stats, emit=emit, apps=apps, minute_of_week=minute_of_week
    )


def _local_minute(now: float) -> float:
    """Minutes since Monday 00:00, as this host's clock and time zone say."""
    time_ = time.localtime()
    return time_.tm_wday * 1440 + time_.tm_hour * 60 + time_.tm_min + time_.tm_sec / 60


def _split_stage(
    config: Config, inner: Resolver, dialer: Dialer, entropy: Entropy, stats: Stats, emit: EventSink
) -> Resolver:
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


def _answer_stage(config: Config, inner: Resolver) -> Resolver:
    from netstack.dns.answers import AnswerSettings, AnswerStage
    from netstack.policy.lan import classify

    kept = _fields(config.answers)
    internal = [suffix for split in config.split for suffix in (*split.suffixes, *split.search) if suffix != "."]
    kept["rebind_allow"] = (*kept["rebind_allow"], *internal)
    try:
        return AnswerStage(inner, AnswerSettings(**kept), scope_of=classify)
    except ValueError as problem:
        raise ConfigError(f"answers.dns64: {problem}") from None


def _fields(table: Any) -> dict[str, Any]:
    """A table of the configuration as the settings of the stage that has the same fields."""
    return {name: getattr(table, name) for name in fields(table)}


def _upstreams(config: Config, dialer: Dialer, entropy: Entropy, stats: Stats, emit: EventSink) -> Resolver:
    dns = config.dns
    if not dns.upstreams and not dns.cd_uid:
        return ProxyResolver(dialer, dns.servers, entropy, timeout=dns.timeout, stats=stats)
    upstreams = [_upstream(each) for each in dns.upstreams]
    if dns.cd_uid:
        from netstack.upstream.url import control_d

        preset = control_d(dns.cd_uid, dns.cd_protocol, client=dns.cd_client, hostname=dns.cd_hostname)
        upstreams.insert(0, preset)
    if dns.strategy == "failover" and all(upstream.scheme == "udp" for upstream in upstreams):
        endpoints = [upstream.endpoint for upstream in upstreams]  # what the proxy does by itself, faster
        return ProxyResolver(dialer, endpoints, entropy, timeout=dns.timeout, stats=stats)
    return _transports(config, dialer, entropy, stats, emit).group(upstreams)


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


def _upstream(text: str) -> UpstreamUrl:
    from netstack.upstream.url import parse_upstream

    try:
        return parse_upstream(text)
    except ConfigError as problem:
        raise ConfigError(f"dns.upstreams: {problem}") from None
