"""Changes while a run is on, through a whole engine whose resolver asks scripted sockets."""

import json
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset

from netstack.config import Config, make_config
from netstack.core.events import CaptivePortalChanged, EngineError, LockdownChanged, QueryFailed
from netstack.core.flow import Endpoint
from netstack.core.network import Network
from netstack.core.packet import ACK, RST, SYN
from netstack.runtime.changes import Changes
from netstack.runtime.seeded import SeededEntropy
from netstack.testing.world import SERVER, World
from netstack.upstream.source import ResolverSource

ONE, TWO, OWN = "192.0.2.1", "192.0.2.2", "192.0.2.7"
GATEWAY = Endpoint.of("10.0.0.1", 53)


class Run(World):
    """A run: engine, source and changes. `asked` are the queries that left, by server, oldest first."""

    def __init__(self, table: dict[str, Any], network: Network | None = None) -> None:
        config = make_config({"dns": {"servers": [ONE]}} | table)
        super().__init__(config)
        self.source = ResolverSource(
            self.dialer, SeededEntropy(1), self.stats, self.events.append, network=network  # type: ignore[arg-type]
        )
        self.engine.use_resolver(self.source.first(config), 0.0)
        self.changes = Changes(self.engine, self.source, config, self.events.append, 0.0)
        self.ident = 0

    def ask(self, name: str, kind: str = "A") -> None:
        self.ident += 1
        query = dns.message.make_query(name, kind, id=self.ident)
        source = Endpoint.of("10.0.0.2", 40000 + self.ident)
        self.tunnel.app.give(self.udp_packet(query.to_wire(), source=source, destination=GATEWAY))
        self._settle()

    def asked(self) -> list[tuple[str, str]]:
        """Server and name of each query that waits for its answer."""
        return [(str(to).rpartition(":")[0], str(query.question[0].name)[:-1]) for _, to, query in self._open()]

    def _open(self) -> list[tuple[Any, Endpoint, dns.message.Message]]:
        return [
            (socket, to, dns.message.from_wire(bytes(octets)))
            for socket in self.datagrams
            if not socket.closed
            for octets, to in socket.sent
        ]

    def answer(self, address: str = "203.0.113.9") -> None:
        """Every open query gets this address."""
        for socket, to, query in self._open():
            response = dns.message.make_response(query)
            kind = query.question[0].rdtype
            if kind == 1:
                response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
            socket.incoming.append((response.to_wire(), to))
            socket.sent.clear()
        self._settle()

    def told(self) -> list[dns.message.Message]:
        return [dns.message.from_wire(bytes(packet.payload)) for packet in self.received()]

    def reconfigure(self, table: dict[str, Any]) -> None:
        self.changes.reconfigure(self.changes.prepare(make_config({"dns": {"servers": [ONE]}} | table)), self.now)
        self._settle()

    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, LockdownChanged)]


# --- settings ---


def test_queries_on_their_way_are_answered_by_the_old_upstreams_and_new_ones_by_the_new() -> None:
    run = Run({})
    run.ask("one.example")
    run.reconfigure({"dns": {"servers": [TWO]}})
    run.ask("two.example")
    assert run.asked() == [(ONE, "one.example"), (TWO, "two.example")]
    old = run.engine.bridge._retired[0][1]
    run.answer()
    assert [message.answer[0][0].address for message in run.told()] == ["203.0.113.9"] * 2
    run.run(run.config.dns.timeout)
    assert not run.engine.bridge._retired and all(socket.closed for socket in run.datagrams if socket.owner is old)
    assert not any(isinstance(event, QueryFailed) for event in run.events)


def test_a_query_that_the_old_upstream_never_answers_still_ends_in_time() -> None:
    run = Run({})
    run.ask("one.example")
    run.run(1.0)
    run.reconfigure({"dns": {"servers": [TWO]}})
    [late] = [dns.message.from_wire(bytes(packet.payload)) for packet in run.run(run.config.dns.timeout)]
    assert late.rcode() == dns.rcode.SERVFAIL
    assert not run.engine.bridge._retired


def test_who_comes_with_a_shorter_time_limit_does_not_wait_for_those_with_a_longer_one() -> None:
    run = Run({})
    run.ask("one.example")
    run.reconfigure({"dns": {"servers": [ONE], "timeout": 2.0}})
    run.run(1.0)
    run.ask("two.example")
    assert not run.run(1.6)
    [second] = run.run(0.5)
    assert bytes(second.payload)[:2] == b"\0\2" and not run.run(1.5)
    [first] = run.run(0.5)
    assert bytes(first.payload)[:2] == b"\0\1"
    run.ask("three.example")
    assert not run.run(1.6) and len(run.run(0.5)) == 1
    assert not run.engine.bridge._mixed


def test_another_network_asks_again_what_waits_at_the_old_upstreams() -> None:
    run = Run({})
    run.ask("one.example")
    run.reconfigure({"dns": {"servers": [TWO]}})
    before = list(run.datagrams)
    run.changes.network_changed(Network(), run.now)
    run._settle()
    assert all(socket.closed for socket in before) and run.asked() == [(ONE, "one.example")]


def test_a_reload_of_lists_under_way_leaves_queries_and_flows_alone(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("ads.example\n")
    table = {"filter": {"block": [str(names)]}, "policy": {"enforcement": "off"}}
    run = Run(table)
    run.send(run.tcp_packet(SYN, 1000))
    run.streams[0].connect()
    [syn_ack] = run.run()
    run.send(run.tcp_packet(ACK, 1001, syn_ack.seq + 1))
    run.ask("www.example")
    chain = run.engine.resolver
    names.write_text("ads.example\nwww.example\n")
    run.changes.reconfigure(run.changes.prepare(), run.now)
    assert run.engine.resolver is chain
    run.answer()
    run.ask("www.example")
    first, second = run.told()
    assert first.answer and second.rcode() == dns.rcode.NXDOMAIN
    assert not run.streams[0].closed and not run.streams[0].aborted


def test_what_is_postponed_moves_to_the_new_chain_under_its_rules() -> None:
    hold = {"action": "postpone", "names": ["slow.example"]}
    for rules, asked in [([hold], []), ([], [(TWO, "slow.example")]), ([{**hold, "action": "nxdomain"}], [])]:
        run = Run({"rules": [hold]})
        run.ask("slow.example")
        assert not run.asked()
        run.reconfigure({"dns": {"servers": [TWO]}, "rules": rules})
        assert run.asked() == asked
        if rules == [hold]:
            run.run(2.0)
            assert run.asked() == [(TWO, "slow.example")], "it keeps its time"
        elif rules:
            assert run.told()[0].rcode() == dns.rcode.NXDOMAIN


def test_a_change_that_no_longer_fits_is_an_event() -> None:
    run = Run({})
    prepared = run.changes.prepare(make_config({"rules": [{"action": "drop"}], "dns": {"servers": [ONE]}}))
    run.reconfigure({"dns": {"servers": [TWO]}})
    run.source._prepare = broken  # type: ignore[method-assign]
    before = run.changes.config
    run.changes.reconfigure(prepared, run.now)
    assert run.changes.config is before
    [event] = [event for event in run.events if isinstance(event, EngineError)]
    assert event.where == "config" and "broken" in event.message and "stay in force" in event.message


def broken(config: Config, *lists: Any) -> Any:
    from netstack.core.errors import ConfigError

    raise ConfigError("broken")


# --- the blocking state ---


def test_what_waits_when_the_blocking_begins_is_refused_at_once() -> None:
    run = Run({})
    run.ask("one.example")
    run.reconfigure({"dns": {"servers": [TWO]}})
    run.ask("two.example")
    run.changes.block_network("tunnel down", run.now)
    assert [message.rcode() for message in run.told()] == [dns.rcode.REFUSED] * 2
    run.answer()
    assert not run.told() and not len(run.engine.tracker)


def test_only_the_check_resolves_at_the_networks_own_resolver_and_only_its_ports_pass() -> None:
    run = Run({"lockdown": {"network_check": True}, "rules": [{"action": "nxdomain", "names": ["x.example"]}]},
              Network(servers=(OWN,)))  # fmt: skip
    run.changes.block_network("tunnel down", run.now)
    for name in ("www.example", "x.example", "www.captive.apple.com"):
        run.ask(name)
    assert [message.rcode() for message in run.told()] == [dns.rcode.REFUSED] * 3
    run.ask("captive.apple.com")
    assert run.asked() == [(OWN, "captive.apple.com")], "as the system would have"
    check, ssh = Endpoint.of("203.0.113.9", 80), Endpoint.of("203.0.113.9", 22)
    assert run.send(run.tcp_packet(SYN, 1, destination=check))[0].flags & RST
    run.answer()
    assert run.told()[0].answer
    run.send(run.tcp_packet(SYN, 1000, destination=check))
    run.streams[-1].connect()
    [syn_ack] = run.run()
    run.send(run.tcp_packet(ACK, 1001, syn_ack.seq + 1, destination=check))
    assert not syn_ack.flags & RST and run.send(run.tcp_packet(SYN, 1, destination=ssh))[0].flags & RST
    run.run(1000.0)
    assert not run.streams[-1].closed, "until the state ends"
    run.changes.allow_network("tunnel up", run.now)
    run.run()
    assert run.streams[-1].closed or run.streams[-1].aborted, "the lease was the check's alone"
    run.ask("x.example")
    assert run.told()[-1].rcode() == dns.rcode.NXDOMAIN, "rules see the flow again"
    assert run.states() == ["blocking", "open"]


def test_it_begins_blocked_when_configured_and_the_configuration_may_end_it() -> None:
    run = Run({"lockdown": {"blocking": True}})
    run.ask("www.example")
    assert run.told()[0].rcode() == dns.rcode.REFUSED
    run.reconfigure({})
    run.ask("www.example")
    assert run.asked() == [(ONE, "www.example")] and run.states() == ["blocking", "open"]
    run.reconfigure({"lockdown": {"blocking": True}})
    assert run.states() == ["blocking", "open", "blocking"]


def test_a_failure_shuts_the_check_until_it_is_switched_on_anew() -> None:
    run = Run({"lockdown": {"network_check": True}})
    run.changes.block_network("", run.now)
    run.changes.network_check_failed("bind", "port 53 is in use", run.now)
    run.changes.network_check_failed("bind", "port 53 is in use", run.now)
    run.ask("captive.apple.com")
    assert run.told()[0].rcode() == dns.rcode.REFUSED
    run.changes.allow_network_check(False, run.now)
    run.changes.allow_network_check(True, run.now)
    run.ask("captive.apple.com")
    assert run.asked() == [(ONE, "captive.apple.com")]
    events = [event for event in run.events if isinstance(event, LockdownChanged)]
    assert [event.state for event in events].count("failed") == 1 and "port 53 is in use" in events[1].why
    run.reconfigure({"lockdown": {"network_check": True}})
    assert run.states()[-1] == "blocking", "a reload does not end what the host began"


def test_switching_the_check_off_takes_back_what_it_let_pass() -> None:
    run = Run({"lockdown": {"network_check": True}})
    run.changes.block_network("", run.now)
    assert run.changes.is_blocking
    run.ask("captive.apple.com")
    run.answer()
    run.told()
    check = Endpoint.of("203.0.113.9", 80)
    run.send(run.tcp_packet(SYN, 1000, destination=check))
    run.streams[-1].connect()
    [syn_ack] = run.run()
    run.send(run.tcp_packet(ACK, 1001, syn_ack.seq + 1, destination=check))
    run.changes.allow_network_check(False, run.now)
    assert run.streams[-1].aborted or run.streams[-1].closed
    assert any(packet.flags & RST for packet in run.run())
    assert run.send(run.tcp_packet(SYN, 2000, destination=check))[0].flags & RST
    run.ask("captive.apple.com")
    assert run.told()[0].rcode() == dns.rcode.REFUSED


def test_without_a_blocking_state_nothing_is_made() -> None:
    run = Run({})
    chain = run.engine.resolver
    run.changes.allow_network("", run.now)
    assert run.engine.resolver is chain and run.source.lockdown is None and not run.states()


# --- the network ---


def test_a_name_is_forgotten_by_name() -> None:
    run = Run({"cache": {"use": "on"}})
    for name in ("www.example", "a.www.example", "other.example"):
        run.ask(name)
    run.answer()
    run.told()
    assert run.changes.flush_cache("www.example") == 2 and run.changes.flush_cache() == 1
    run.ask("www.example")
    assert run.asked() == [(ONE, "www.example")]


def test_no_ipv6_answers_aaaa_empty_until_there_is_some() -> None:
    run = Run({})
    run.ask("www.example", "AAAA")
    assert run.asked() == [(ONE, "www.example")]
    run.answer()
    run.told()
    run.changes.network_changed(Network(has_ipv6=False), run.now)
    run.ask("www.example", "AAAA")
    [empty] = run.told()
    assert not run.asked() and empty.rcode() == 0 and not empty.answer
    run.changes.network_told(Network(has_ipv6=True), run.now)
    run.ask("www.example", "AAAA")
    assert run.asked() == [(ONE, "www.example")]


def test_a_portals_names_are_asked_of_the_network_until_the_host_says_that_it_let_us_through() -> None:
    run = Run({"cache": {"use": "on"}}, Network(servers=(OWN,)))
    run.ask("www.example")
    run.answer()
    run.told()
    run.changes.captive_portal(
        run.now, api_url="https://portal.example/api",
        answer=json.dumps({"captive": True, "user-portal-url": "https://login.portal.example/"}),
    )  # fmt: skip
    for name in ("login.portal.example", "portal.example", "captive.apple.com", "other.example"):
        run.ask(name)
    assert run.asked() == [
        (OWN, "login.portal.example"), (OWN, "portal.example"), (OWN, "captive.apple.com"), (ONE, "other.example"),
    ]  # fmt: skip
    run.changes.captive_portal(run.now, answer={"captive": False})
    run.ask("portal.example")
    assert run.asked()[-1] == (ONE, "portal.example")
    told = [event for event in run.events if isinstance(event, CaptivePortalChanged)]
    assert [(event.state, event.url) for event in told] == [
        ("captive", "https://login.portal.example/"), ("clear", "https://login.portal.example/"),
    ]  # fmt: skip


def test_the_allowance_ends_by_itself() -> None:
    run = Run({"captive": {"limit": 20.0}}, Network(servers=(OWN,)))
    run.changes.captive_portal(run.now, captive=True, url="http://login.portal.example/")
    run.run(19.0)
    assert run.changes.portal.allowing
    run.run(2.0)
    assert not run.changes.portal.allowing
    [began, ended] = [event for event in run.events if isinstance(event, CaptivePortalChanged)]
    assert (began.state, ended.state, ended.why) == ("captive", "ended", "time is over")


def test_settings_reach_a_portal_that_is_known_and_another_network_forgets_it() -> None:
    run = Run({}, Network(servers=(OWN,)))
    run.changes.captive_portal(run.now, captive=True)
    run.reconfigure({"captive": {"limit": 0.0}})
    assert not run.changes.portal.allowing
    run.reconfigure({})
    run.changes.network_changed(Network(servers=(TWO,)), run.now)
    assert not run.changes.portal.captive and run.changes.network.servers == (TWO,)
    run.changes.captive_portal(run.now, captive=True)
    run.ask("captive.apple.com")
    assert run.asked() == [(TWO, "captive.apple.com")]
    assert SERVER.port == 80
