"""The resolver that follows another: what is made anew, what stays, what is refused."""

import dataclasses
from pathlib import Path

import pytest

from netstack.config import Config, make_config
from netstack.core.errors import ConfigError
from netstack.core.events import EngineError, Event
from netstack.core.network import Network
from netstack.core.stats import Stats
from netstack.dns.rules import RuleStage
from netstack.dns.stage import find_stage
from netstack.policy.captive import CaptivePortal
from netstack.policy.lockdown import Lockdown, LockdownStage
from netstack.upstream.source import ResolverSource


class Desk:
    """A source, and its resolver as an engine would hold it."""

    def __init__(self, table: dict, **host) -> None:  # type: ignore[no-untyped-def, type-arg]
        self.events: list[Event] = []
        self.source = ResolverSource(None, None, Stats(), self.events.append, **host)  # type: ignore[arg-type]
        self.config = make_config(table)
        self.resolver = self.source.first(self.config)

    def change(self, table: dict | None = None) -> bool:  # type: ignore[type-arg]
        """True when another chain took over."""
        config = self.config if table is None else make_config(table)
        resolver = self.source.follow(self.source.prepare(config), 1.0)
        self.config = config
        if resolver is not None:
            self.resolver = resolver
        return resolver is not None

    @property
    def rules(self) -> RuleStage:
        found = find_stage(self.resolver, RuleStage)
        assert found is not None
        return found

    @property
    def listed(self) -> int:
        return len(self.rules.lists)


def test_other_rules_and_lists_keep_the_chain_and_its_cache(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a.example\n")
    two.write_text("b.example\nc.example\n")
    desk = Desk({"filter": {"block": [str(one)]}, "cache": {"use": "on"}})
    version = desk.rules.version
    assert not desk.change({"filter": {"block": [str(two)]}, "cache": {"use": "on"}, "rules": [{"action": "drop"}]})
    assert desk.listed == 2 and desk.rules.version > version
    two.write_text("b.example\nc.example\nd.example\n")
    assert not desk.change() and desk.listed == 3, "the same settings: files that changed are read again"


def test_other_upstreams_answers_or_first_rules_are_another_chain(tmp_path: Path) -> None:
    desk = Desk({})
    for table in (
        {"dns": {"servers": ["192.0.2.1"]}},
        {"dns": {"servers": ["192.0.2.1"]}, "rules": [{"action": "drop"}]},
        {"dns": {"servers": ["192.0.2.1"]}, "rules": [{"action": "drop"}], "answers": {"strip_ech": True}},
        {"dns": {"servers": ["192.0.2.1"]}, "answers": {"strip_ech": True}},
        {"cache": {"use": "on"}},
    ):
        assert desk.change(table), table
    assert not desk.change({"cache": {"use": "on"}, "mode": "dns-only"}), "no business of the resolver"


def test_a_damaged_list_is_named_and_the_last_good_one_stays(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("a.example\n")
    bad.write_bytes(b"\0\1\2 nonsense ..\n")
    desk = Desk({"filter": {"block": [str(good)]}})
    with pytest.raises(ConfigError, match="bad"):
        desk.change({"filter": {"block": [str(good), str(bad)]}})
    assert desk.listed == 1 and not desk.events, "nothing has changed"
    good.write_bytes(b"\0\1\2 nonsense ..\n")
    assert not desk.change() and desk.listed == 1
    [event] = desk.events
    assert isinstance(event, EngineError) and "good" in event.message and "stays in force" in event.message
    good.unlink()
    assert not desk.change({"filter": {"block": [str(good)], "block_ttl": 3}}) and desk.listed == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"rules": [{"action": "explode"}]}, "explode"),
        ({"dns": {"upstreams": ["ftp://x"]}}, "dns.upstreams"),
        ({"dns": {"upstreams": ["tls://192.0.2.1"], "ca_file": "/nowhere.pem"}}, "nowhere.pem"),
        ({"answers": {"dns64": "nonsense"}}, "answers.dns64"),
    ],
)
def test_what_cannot_be_used_raises_before_anything_changed(table: dict, words: str) -> None:  # type: ignore[type-arg]
    desk = Desk({})
    before = desk.resolver
    with pytest.raises(ConfigError, match=words):
        desk.change(table)
    assert desk.resolver is before and not desk.change()


def test_two_changes_prepared_at_once_both_count() -> None:
    desk = Desk({"rules": [{"action": "drop"}]})
    source, base = desk.source, desk.config
    one = source.prepare(dataclasses.replace(base, dns=dataclasses.replace(base.dns, servers=("192.0.2.1",))))
    two = source.prepare(make_config({"rules": [{"action": "refused"}]}))
    assert source.follow(one, 1.0) is not None
    assert source.follow(two, 1.0) is not None, "the servers of the first are not those of the second"


def test_a_change_that_comes_second_reads_no_list_again(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("a.example\n")
    desk = Desk({"rules": [{"action": "drop"}]})
    listed = desk.source.prepare(make_config({"filter": {"block": [str(names)]}}))
    assert not desk.change({"rules": [{"action": "refused"}]})
    names.unlink()
    resolver = desk.source.follow(listed, 1.0)
    assert resolver is None and desk.listed == 1


def test_what_the_host_learns_changes_only_the_chains_that_it_concerns() -> None:
    desk = Desk({"policy": {"quic": "allow"}})
    desk.source.network = Network(name="home", has_ipv6=True, servers=())
    assert desk.source.renewed() is None
    desk.source.network = Network(has_ipv6=False)
    renewed = desk.source.renewed()
    assert renewed is not None and type(renewed).__name__ == "AnswerStage"
    assert desk.source.renewed() is None
    desk.source.portal = CaptivePortal(desk.config.captive, desk.events.append)
    assert type(desk.source.renewed()).__name__ == "CaptiveStage"


def test_a_blocking_state_is_in_front_of_every_chain_from_then_on() -> None:
    desk = Desk({"dns": {"network_servers": ["192.0.2.7"]}})
    desk.source.lockdown = Lockdown(desk.config.lockdown, desk.events.append)
    stage = desk.source.guarded(desk.resolver)
    assert isinstance(stage, LockdownStage) and stage.inner is desk.resolver
    assert [str(server.endpoint) for server in stage._network.servers] == ["192.0.2.7:53"]  # type: ignore[attr-defined]
    assert desk.change({"dns": {"servers": ["192.0.2.1"]}})
    assert isinstance(desk.resolver, LockdownStage)
    assert desk.resolver._network is desk.resolver.inner, "nobody said which the network's own is"


def test_a_resolver_of_somebody_elses_making_stays() -> None:
    resolver = object()
    desk = Desk({}, make=lambda *parts: resolver)  # type: ignore[arg-type, return-value]
    assert desk.resolver is resolver and not desk.change({"dns": {"servers": ["192.0.2.1"]}})
    assert desk.source.renewed() is None


def test_apps_and_network_reach_the_rules() -> None:
    class Apps:
        def owner_of(self, flow):  # type: ignore[no-untyped-def]
            return "app"

    desk = Desk({"rules": [{"action": "drop"}]}, apps=Apps(), network=Network(name="office"))
    assert desk.rules.network == "office" and desk.rules.app_of(object()) == "app"  # type: ignore[arg-type]
    assert Config() == make_config({})
