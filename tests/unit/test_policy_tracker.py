"""Leases: how they begin, what holds them, how they end."""

from ipaddress import ip_address

from netstack.config import LimitsConfig, TrackerConfig
from netstack.policy.tracker import NAMES_KEPT, IpTracker

ADDRESS = b"\xc0\0\2\1"
OTHER = b"\xc0\0\2\2"


def tracker(capacity: int = 100, **settings) -> IpTracker:  # type: ignore[no-untyped-def]
    return IpTracker(TrackerConfig(**settings), LimitsConfig(tracked_addresses=capacity))


def numbered(number: int) -> bytes:
    return b"\xc6\x33" + number.to_bytes(2, "big")


def test_the_four_moments_of_the_original() -> None:
    t = tracker()
    assert t.lookup(ADDRESS, 0.0) is None and t.was_known(ADDRESS, 0.0) is None
    assert t.learn("example.com", ADDRESS, 60, 1.0)
    lease = t.lookup(ADDRESS, 2.0)
    assert lease is not None and lease.name == "example.com"
    assert t.lookup(ADDRESS, 300.9) is not None
    assert t.lookup(ADDRESS, 302.0) is None
    assert t.was_known(ADDRESS, 302.0) == 1.0


def test_a_lease_is_the_ttl_within_bounds() -> None:
    for settings, ttl, lasts in (
        ({}, None, 300.0), ({}, 0, 300.0), ({}, 300, 300.0), ({}, 7200, 7200.0), ({}, 2**31 - 1, 86_400.0),
        ({"use_ttl": False}, 7200, 300.0), ({"lease": 10.0, "lease_max": 20.0}, 15, 15.0),
    ):  # fmt: skip
        t = tracker(**settings)
        t.learn("a.test", ADDRESS, ttl, 100.0)
        assert t.lookup(ADDRESS, 100.0 + lasts - 0.1) is not None, ttl
        assert t.lookup(ADDRESS, 100.0 + lasts) is None, ttl


def test_learning_again_extends_and_never_shortens() -> None:
    t = tracker()
    t.learn("a.test", ADDRESS, 1000, 0.0)
    t.learn("a.test", ADDRESS, 10, 50.0)
    assert t.lookup(ADDRESS, 999.0) is not None
    t.learn("a.test", ADDRESS, 1000, 900.0)
    assert t.lookup(ADDRESS, 1899.0) is not None and t.lookup(ADDRESS, 1900.0) is None


def test_what_is_never_leased() -> None:
    t = tracker()
    for text in ("0.0.0.0", "127.0.0.1", "::", "::1", "224.0.0.1", "169.254.9.9", "255.255.255.255", "fe80::1"):
        packed = ip_address(text).packed
        assert not t.learn("block.test", packed, 60, 0.0)
        assert t.lookup(packed, 0.0) is None
    assert len(t) == 0


def test_a_flow_holds_its_lease_and_lingers_after() -> None:
    t = tracker(linger=60.0)
    t.learn("a.test", ADDRESS, 0, 0.0)
    assert t.lookup(ADDRESS, 299.0) is not None
    t.pin(ADDRESS)
    t.pin(ADDRESS)
    assert t.lookup(ADDRESS, 5000.0) is not None, "held by two flows"
    t.unpin(ADDRESS, 5000.0)
    assert t.lookup(ADDRESS, 6000.0) is not None, "held by one"
    t.unpin(ADDRESS, 6000.0)
    assert t.lookup(ADDRESS, 6059.0) is not None, "lingers"
    assert t.lookup(ADDRESS, 6060.0) is None
    assert t.was_known(ADDRESS, 6070.0) == 10.0


def test_a_held_lease_survives_sweeps() -> None:
    t = tracker()
    t.learn("a.test", ADDRESS, 0, 0.0)
    t.lookup(ADDRESS, 1.0)
    t.pin(ADDRESS)
    for now in range(30, 3000, 30):
        t.sweep(float(now))
    assert t.lookup(ADDRESS, 3000.0) is not None
    t.unpin(ADDRESS, 3000.0)
    t.sweep(3030.0)
    assert len(t) == 1, "lingering"
    for now in (3060.0, 3090.0, 3120.0):
        t.sweep(now)
    assert len(t) == 0


def test_a_pin_gives_no_right_of_its_own() -> None:
    t = tracker()
    t.lookup(ADDRESS, 1.0)
    t.pin(ADDRESS)  # a flow that audit mode let through
    assert t.lookup(ADDRESS, 2.0) is None
    t.unpin(ADDRESS, 3.0)
    assert t.lookup(ADDRESS, 3.0) is None
    t.learn("a.test", ADDRESS, 0, 10.0)
    assert t.lookup(ADDRESS, 400.0) is None, "expired"
    t.pin(ADDRESS)
    assert t.lookup(ADDRESS, 401.0) is None, "a pin does not bring an expired lease back"
    t.unpin(ADDRESS, 402.0)
    t.unpin(ADDRESS, 402.0)
    assert t.lookup(ADDRESS, 403.0) is None


def test_resolving_again_while_a_flow_lives_makes_it_hold() -> None:
    t = tracker()
    t.pin(ADDRESS)
    t.learn("a.test", ADDRESS, 0, 0.0)
    assert t.lookup(ADDRESS, 1000.0) is not None


def test_sweep_forgets_leases_but_remembers_that_they_were() -> None:
    t = tracker()
    assert t.next_timeout() is None
    t.learn("a.test", ADDRESS, 0, 0.0)
    assert t.next_timeout() == 30.0
    t.on_timeout(29.0)
    assert t.next_timeout() == 30.0
    t.learn("b.test", OTHER, 900, 10.0)
    t.on_timeout(330.0)
    assert len(t) == 1 and t.next_timeout() == 360.0
    assert t.was_known(ADDRESS, 330.0) == 30.0 and t.name_of(ADDRESS) == "a.test"
    t.on_timeout(1000.0)
    assert len(t) == 0 and t.next_timeout() is None
    t.learn("a.test", ADDRESS, 0, 2000.0)
    assert t.lookup(ADDRESS, 2000.0) is not None and t.next_timeout() == 2030.0


def test_an_extended_lease_is_swept_at_its_true_end() -> None:
    t = tracker()
    t.learn("a.test", ADDRESS, 0, 0.0)
    t.learn("a.test", ADDRESS, 0, 200.0)
    assert t.sweep(400.0) == 0 and t.lookup(ADDRESS, 499.0) is not None
    assert t.sweep(500.0) == 1


def test_the_cap_sheds_what_ends_first_and_spares_flows() -> None:
    t = tracker(capacity=3)
    for number, ttl in ((1, 900), (2, 400), (3, 1000)):
        t.learn("a.test", numbered(number), ttl, 0.0)
    t.lookup(numbered(2), 1.0)
    t.pin(numbered(2))
    t.learn("b.test", numbered(4), 5000, 1.0)
    assert len(t) == 3 and t.shed == 1
    assert t.lookup(numbered(1), 1.0) is None, "ended first of those without a flow"
    assert t.lookup(numbered(2), 1.0) is not None
    t.learn("b.test", numbered(5), 5000, 1.0)
    assert t.lookup(numbered(3), 1.0) is None


def test_the_cap_holds_even_when_every_lease_has_a_flow() -> None:
    t = tracker(capacity=3)
    for number in range(1, 10):
        t.learn("a.test", numbered(number), 0, 0.0)
        t.lookup(numbered(number), 0.0)
        t.pin(numbered(number))
        assert len(t) <= 3
    assert t.lookup(numbered(9), 0.0) is not None


def test_100000_names_stay_within_the_cap() -> None:
    t = tracker(capacity=1000)
    for number in range(100_000):
        t.learn(f"n{number}.test", b"\x09" + number.to_bytes(3, "big"), number % 2000, number * 0.001)
    assert len(t) == 1000
    assert len(t._heap) == 1000, "one heap entry for each lease"


def test_names_and_apps_of_one_address_are_bounded_and_the_last_is_shown() -> None:
    t = tracker()
    for number in range(50):
        t.learn(f"n{number}.test", ADDRESS, 0, 0.0, app=f"app{number}")
    lease = t.lookup(ADDRESS, 1.0)
    assert lease is not None and len(lease.names) == NAMES_KEPT and len(lease.apps) == NAMES_KEPT
    assert lease.name == "n49.test"
    t.learn("n45.test", ADDRESS, 0, 2.0)
    assert lease.name == "n45.test" and len(lease.names) == NAMES_KEPT


def test_snapshot_and_restore_over_another_clock() -> None:
    t = tracker()
    t.learn("a.test", ADDRESS, 600, 100.0, app="browser")
    t.learn("old.test", OTHER, 0, 0.0)
    snapshot = t.snapshot(350.0)
    assert [item["address"] for item in snapshot["leases"]] == ["192.0.2.1"]
    fresh = tracker()
    assert fresh.restore(snapshot, 7.0) == 1
    lease = fresh.lookup(ADDRESS, 7.0)
    assert lease is not None and lease.name == "a.test" and lease.apps == {"browser"}
    assert fresh.lookup(ADDRESS, 7.0 + 349.0) is not None and fresh.lookup(ADDRESS, 7.0 + 350.0) is None
    assert fresh.next_timeout() == 37.0


def test_restore_leaves_out_what_it_cannot_trust() -> None:
    bad = [
        {}, {"address": "x", "left": 1}, {"address": "127.0.0.1", "left": 9}, {"address": "192.0.2.1", "left": -1},
        {"address": "192.0.2.1", "left": "soon"}, {"address": "192.0.2.1", "left": float("nan")},
    ]  # fmt: skip
    t = tracker()
    assert t.restore({"leases": bad}, 0.0) == 0 and len(t) == 0
    assert t.restore({"leases": [{"address": "192.0.2.1", "left": 10**9}]}, 0.0) == 1
    assert t.lookup(ADDRESS, 86_401.0) is None, "no longer than the configuration allows"


def test_a_lease_taken_back_is_expired_even_for_a_flow_and_can_be_learnt_again() -> None:
    t = tracker()
    t.end(ADDRESS, 0.0)
    t.learn("a.test", ADDRESS, 60, 1.0)
    t.lookup(ADDRESS, 2.0)
    t.pin(ADDRESS)
    t.end(ADDRESS, 3.0)
    assert t.lookup(ADDRESS, 3.0) is None and t.was_known(ADDRESS, 5.0) == 2.0
    t.unpin(ADDRESS, 6.0)
    assert t.lookup(ADDRESS, 6.0) is None, "nothing lingers"
    t.learn("a.test", ADDRESS, 60, 7.0)
    assert t.lookup(ADDRESS, 8.0) is not None
    assert t.sweep(400.0) == 1 and len(t) == 0


def test_clear_forgets_leases() -> None:
    t = tracker()
    t.learn("a.test", ADDRESS, 0, 0.0)
    t.clear()
    assert t.lookup(ADDRESS, 1.0) is None and t.was_known(ADDRESS, 1.0) is None and t.next_timeout() is None
    assert list(t.leases()) == []


def test_reconfigure_changes_leases_to_come() -> None:
    t = tracker()
    t.learn("a.test", ADDRESS, 0, 0.0)
    t.reconfigure(TrackerConfig(lease=10.0), LimitsConfig(tracked_addresses=1))
    assert t.lookup(ADDRESS, 299.0) is not None
    t.learn("b.test", OTHER, 0, 299.0)
    assert len(t) == 1 and t.lookup(OTHER, 309.0) is None
