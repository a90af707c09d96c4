"""The IP tracker: which addresses DNS answers gave away, to whom they belong, and for how long.

Responsible for: leases of resolved addresses, pins by live flows, the memory of what has expired.
Refuses to know: verdicts, DNS messages, sockets.

An address is allowed while its lease runs, while a flow that opened under the lease lives (pinned), and
for a linger after the last such flow ended. A lease lasts as long as the record's TTL, but at least
`lease` and at most `lease_max` seconds: apps keep answers for hours, and the seeds' fixed five minutes
broke them. Every lease has exactly one entry in a heap of expiry times; an extended lease is put back when its
old entry surfaces, so learning an address again costs no heap operation.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from netstack.config import LimitsConfig, TrackerConfig
from netstack.core.address import format_address
from netstack.core.flow import Endpoint
from netstack.policy.lan import is_leasable

NAMES_KEPT = 8  # names (and apps) remembered for one address; a CDN address has hundreds
GONE_KEPT = 8192  # expired leases remembered, so that a refusal can say "expired" instead of "never resolved"
SHED_LOOKS = 64  # pinned leases passed over in search of one to shed


class Lease:
    """One address. Times are on the engine's clock. `held`: flows that opened under the lease still live."""

    __slots__ = ("address", "apps", "expires", "held", "linger_until", "names")

    def __init__(self, address: bytes, expires: float) -> None:
        self.address = address
        self.expires = expires
        self.linger_until = 0.0
        self.held = False
        self.names: dict[str, float] = {}  # name -> when its own claim ends
        self.apps: set[str] = set()

    @property
    def name(self) -> str:
        """The name that was resolved last."""
        return next(reversed(self.names), "")

    def end(self) -> float:
        """When the lease stopped or will stop to allow, pins aside."""
        return self.expires if self.expires > self.linger_until else self.linger_until


class IpTracker:
    """Leases by packed address. A look-up is one dictionary access; also a TimerOwner for its sweep."""

    __slots__ = (
        "_capacity", "_clock", "_config", "_gone", "_heap", "_leases", "_pins", "_sweep_at", "shed", "timer_at",
    )  # fmt: skip

    def __init__(self, config: TrackerConfig, limits: LimitsConfig | None = None) -> None:
        self._config = config
        self._capacity = (limits or LimitsConfig()).tracked_addresses
        self._leases: dict[bytes, Lease] = {}
        self._heap: list[tuple[float, bytes]] = []  # (expiry when pushed, address): one entry for each lease
        self._pins: dict[bytes, int] = {}  # flows to an address, leased or not
        self._gone: dict[bytes, tuple[float, str]] = {}  # address -> (when it ended, last name)
        self._clock = 0.0  # the latest `now` seen; a pin follows the look-up that allowed its flow
        self._sweep_at: float | None = None
        self.shed = 0  # live leases given up for want of room
        self.timer_at: float | None = None

    def __len__(self) -> int:
        return len(self._leases)

    def reconfigure(self, config: TrackerConfig, limits: LimitsConfig | None = None) -> None:
        """New durations for leases from now on; leases that run keep theirs."""
        self._config = config
        if limits is not None:
            self._capacity = limits.tracked_addresses

    # --- learning ---

    def learn(self, name: str, address: bytes, ttl: int | None, now: float, app: str | None = None) -> bool:
        """Lease `address` (packed) to `name`; `ttl` in seconds, None when unknown.

        False when the address may never be leased.
        """
        if not is_leasable(address):
            return False
        if now > self._clock:
            self._clock = now
        expires = now + self._duration(ttl)
        lease = self._leases.get(address)
        if lease is None:
            if len(self._leases) >= self._capacity:
                self._make_room(now)
            lease = self._leases[address] = Lease(address, expires)
            self._gone.pop(address, None)
            heapq.heappush(self._heap, (expires, address))
            if self._sweep_at is None:
                self._sweep_at = now + self._config.sweep
        elif expires > lease.expires:
            lease.expires = expires
        if address in self._pins:
            lease.held = True
        names = lease.names
        until = names.pop(name, 0.0)  # last in order is the name resolved last
        names[name] = expires if expires > until else until
        if len(names) > NAMES_KEPT:
            del names[min(names, key=names.__getitem__) if min(names.values()) < expires else next(iter(names))]
        if app is not None and len(lease.apps) < NAMES_KEPT:
            lease.apps.add(app)
        return True

    def _duration(self, ttl: int | None) -> float:
        config = self._config
        if ttl is None or not config.use_ttl or ttl <= config.lease:
            return config.lease
        return min(float(ttl), max(config.lease_max, config.lease))

    def _make_room(self, now: float) -> None:
        """Shed one lease: of those without a flow, the one that ends first."""
        heap = self._heap
        passed: list[tuple[float, bytes]] = []
        while heap:
            planned, address = heapq.heappop(heap)
            lease = self._leases[address]
            if lease.end() > planned:
                heapq.heappush(heap, (lease.end(), address))
            elif lease.held and len(passed) < SHED_LOOKS:
                passed.append((planned, address))
            else:
                break
        else:  # every lease has a flow
            lease = self._leases[passed.pop(0)[1]]
        self._forget(lease)
        if lease.end() > now:
            self.shed += 1
        for entry in passed:
            heapq.heappush(heap, entry)

    def _forget(self, lease: Lease) -> None:
        """Move a lease (whose heap entry is gone) to the memory of ended ones."""
        del self._leases[lease.address]
        gone = self._gone
        gone[lease.address] = (lease.end(), lease.name)
        if len(gone) > GONE_KEPT:
            del gone[next(iter(gone))]

    def end(self, address: bytes, now: float) -> None:
        """Take back what was leased: `address` is expired from now on, also for flows that live."""
        lease = self._leases.get(address)
        if lease is not None:
            lease.expires = min(lease.expires, now)
            lease.linger_until = min(lease.linger_until, now)
            lease.held = False

    # --- looking up ---

    def lookup(self, address: bytes, now: float) -> Lease | None:
        """The lease that allows `address` now, or None."""
        self._clock = now
        lease = self._leases.get(address)
        if lease is None:
            return None
        if lease.expires > now or lease.held or lease.linger_until > now:
            return lease
        return None

    def was_known(self, address: bytes, now: float) -> float | None:
        """Seconds since the address stopped being allowed; None when no answer ever named it (or long ago)."""
        lease = self._leases.get(address)
        if lease is not None:
            return max(0.0, now - lease.end())
        gone = self._gone.get(address)
        return None if gone is None else max(0.0, now - gone[0])

    def name_of(self, address: bytes) -> str:
        """The name last resolved to `address`, live or expired; empty when unknown."""
        lease = self._leases.get(address)
        if lease is not None:
            return lease.name
        gone = self._gone.get(address)
        return "" if gone is None else gone[1]

    def leases(self) -> Iterable[Lease]:
        """All leases, also ended ones that no sweep has met yet."""
        return list(self._leases.values())

    # --- flows ---

    def pin(self, address: bytes) -> None:
        """A flow to `address` opened. It holds the lease if there is one that allows it now."""
        self._pins[address] = self._pins.get(address, 0) + 1
        lease = self._leases.get(address)
        if lease is not None and lease.end() > self._clock:
            lease.held = True

    def unpin(self, address: bytes, now: float) -> None:
        """A flow to `address` ended. After the last one the address lingers."""
        count = self._pins.get(address, 0)
        if count > 1:
            self._pins[address] = count - 1
            return
        self._pins.pop(address, None)
        lease = self._leases.get(address)
        if lease is not None and lease.held:
            lease.held = False
            lease.linger_until = now + self._config.linger

    # --- time ---

    def sweep(self, now: float) -> int:
        """Remove what has ended; returns how many leases went."""
        if now > self._clock:
            self._clock = now
        heap, swept = self._heap, 0
        while heap and heap[0][0] <= now:
            _, address = heapq.heappop(heap)
            lease = self._leases[address]
            end = lease.end()
            if lease.held:
                heapq.heappush(heap, (max(end, now + self._config.sweep), address))
            elif end > now:
                heapq.heappush(heap, (end, address))
            else:
                self._forget(lease)
                swept += 1
        self._sweep_at = now + self._config.sweep if self._leases else None
        return swept

    def next_timeout(self) -> float | None:
        """The next sweep; None while nothing is tracked."""
        return self._sweep_at

    def on_timeout(self, now: float) -> None:
        """Sweep when it is due."""
        if self._sweep_at is not None and self._sweep_at <= now:
            self.sweep(now)

    def clear(self) -> None:
        """Forget every lease; pins stay, for the flows are still there."""
        self._leases.clear()
        self._heap.clear()
        self._gone.clear()
        self._sweep_at = None

    # --- over a mode switch or a restart ---

    def snapshot(self, now: float) -> dict[str, Any]:
        """Live leases as plain JSON types; times as seconds left, so that another clock can read them."""
        return {
            "leases": [
                {
                    "address": format_address(lease.address),
                    "left": round(lease.end() - now, 3),
                    "names": {name: round(until - now, 3) for name, until in lease.names.items() if until > now},
                    "apps": sorted(lease.apps),
                }
                for lease in self._leases.values()
                if lease.end() > now
            ]
        }

    def restore(self, snapshot: dict[str, Any], now: float) -> int:
        """Take over the leases of a `snapshot`; what cannot be read is left out. Returns how many were taken."""
        taken = 0
        for item in snapshot.get("leases", ()):
            try:
                address = Endpoint.of(item["address"], 0).address
                left = min(float(item["left"]), self._config.lease_max)
                names = {str(name): now + float(until) for name, until in dict(item.get("names", {})).items()}
                apps = {str(app) for app in list(item.get("apps", ()))[:NAMES_KEPT]}
            except (KeyError, TypeError, ValueError):
                continue
            if not left > 0 or not is_leasable(address) or len(self._leases) >= self._capacity:
                continue
            if address not in self._leases:
                lease = Lease(address, now + left)
                lease.names = dict(list(names.items())[-NAMES_KEPT:])
                lease.apps = apps
                self._leases[address] = lease
                lease.held = address in self._pins
                heapq.heappush(self._heap, (lease.expires, address))
                taken += 1
        if self._leases and self._sweep_at is None:
            self._sweep_at = now + self._config.sweep
        return taken
