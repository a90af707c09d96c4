"""Another network is noticed, and nothing else is."""

import socket

import pytest

from netstack.config import make_config
from netstack.runtime.route_watch import PROBES, SETTLED, RouteWatch, destinations_of, ways_to


class Desk:
    def __init__(self) -> None:
        self.poller_calls: list[tuple[bool, bool]] = []
        desk = self

        class Poller:
            def watch(self, fd: int, socket: object, readable: bool, writable: bool) -> None:
                desk.poller_calls.append((readable, writable))

        self.ways = ("192.0.2.9", "")
        self.later = []
        self.changes = 0
        self.watch = RouteWatch(Poller(), self.call_later, self.changed, look=lambda destinations: self.ways)
        if not self.watch.open():
            pytest.skip("no netlink here")

    def call_later(self, seconds: float, callback) -> None:
        assert seconds == SETTLED
        self.later.append(callback)

    def changed(self) -> None:
        self.changes += 1

    def settle(self) -> None:
        due, self.later = self.later, []
        for callback in due:
            callback()


def test_many_messages_are_one_look_and_the_same_way_is_no_change() -> None:
    desk = Desk()
    for _ in range(5):
        desk.watch.on_readable(desk.watch, 0.0)
    assert len(desk.later) == 1
    desk.settle()
    assert desk.changes == 0
    desk.watch.close()


def test_another_way_out_is_told_once_each_time() -> None:
    desk = Desk()
    for number, ways in enumerate([("", ""), ("192.0.2.9", ""), ("192.0.2.10", "2001:db8::9")], 1):
        desk.ways = ways
        desk.watch.told()
        desk.settle()
        assert desk.changes == number
        desk.watch.told()
        desk.settle()
        assert desk.changes == number
    desk.watch.close()


def test_closing_is_final() -> None:
    desk = Desk()
    desk.watch.told()
    desk.watch.close()
    desk.watch.close()
    desk.ways = ("", "")
    desk.settle()
    assert desk.changes == 0 and desk.poller_calls == [(True, False), (False, False)]
    desk.watch.on_readable(desk.watch, 0.0)
    desk.settle()
    assert desk.changes == 0


def test_ways_are_found_without_sending() -> None:
    assert ways_to(["127.0.0.1"]) == ("127.0.0.1",)
    assert len(ways_to(PROBES)) == 2
    assert ways_to(["::1"])[0] in ("::1", "" if not socket.has_ipv6 else "::1")


def test_upstreams_by_address_matter_and_loopback_does_not() -> None:
    config = make_config({
        "dns": {"upstreams": ["tls://198.51.100.1#dns.example", "https://dns.example/q", "udp://127.0.0.1:5300"],
                "bootstrap": ["198.51.100.2", "[2001:db8::2]:53"]},
        "split": [{"upstreams": ["udp://198.51.100.3"], "suffixes": ["corp.example"]}],
    })  # fmt: skip
    assert destinations_of(config) == (*PROBES, "198.51.100.1", "198.51.100.3", "198.51.100.2", "2001:db8::2")
    config = make_config({"dns": {"servers": ["198.51.100.9", "127.0.0.1:5354"]}})
    assert destinations_of(config) == (*PROBES, "198.51.100.9")
