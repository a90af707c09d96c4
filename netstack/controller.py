"""What a host app holds: one object that starts, stops, restarts and reports an engine.

Responsible for: the life cycle (created, starting, running, stopping, stopped, failed), the PIN, mode
switches, network changes, statistics, events to subscribers; all of it callable from any thread.
Refuses to know: packets, and any platform; the bindings hand it a tunnel factory and callbacks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

from netstack.config import Config, parse_server
from netstack.core.errors import ConfigError, NetstackError, StateError
from netstack.core.events import EngineError, Event, EventSink, StateChanged
from netstack.core.network import Network
from netstack.core.ports import FlowOwner, Tunnel
from netstack.core.record import replace
from netstack.core.stats import Stats
from netstack.dns.dns64 import parse_prefix
from netstack.link import collision
from netstack.runtime.changes import Changes
from netstack.runtime.live import LiveRuntime

STOP_DEADLINE = 2.0  # seconds until stop() returns, whatever happens
BAD_PIN = 126


class State(StrEnum):
    """Of a controller."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class HostCallback(Protocol):
    """What the host app provides (the original netstack's PacketAppCallback)."""

    def protect_socket(self, fd: int) -> bool:
        """Keep this socket out of the tunnel (VpnService.protect). False or an exception fails the flow."""

    def close_packet_io(self) -> None:
        """The engine no longer uses the tunnel."""

    def exit(self, message: str) -> None:
        """The engine ended by itself; `message` says why."""


TunnelFactory = Callable[[Config, Stats, EventSink, LiveRuntime], Tunnel]


class PacketCaptureController:
    """Starts and stops one engine on a thread of its own.

    ``controller.start(make_tunnel)`` returns at once; `State` changes and errors come as events to the
    subscribers, on the engine's thread.
    """

    def __init__(
        self,
        config: Config | None = None,
        callback: HostCallback | None = None,
        *,
        pin: int = 0,
        flow_owner: FlowOwner | None = None,
    ) -> None:
        """`pin` other than 0 is asked of `stop`; `flow_owner` tells rules whose app a flow is; it is asked on a
        thread of its own, and may take its time (`filter.app_wait`)."""
        self._flow_owner = flow_owner
        self._config = config or Config()
        self._callback = callback
        self._pin = pin
        self._state = State.CREATED
        self._lock = threading.RLock()
        self._subscribers: list[EventSink] = []
        self._runtime: LiveRuntime | None = None
        self._thread: threading.Thread | None = None
        self._make_tunnel: TunnelFactory | None = None
        self._last_stats = Stats()
        self._network = Network()
        self._blocked = ""  # why the host blocks; empty when it does not

    # --- looking ---

    @property
    def state(self) -> State:
        """Where in its life the controller is."""
        return self._state

    @property
    def mode(self) -> str:
        """firewall or dns-only."""
        return self._config.mode

    def is_running(self) -> bool:
        """True from start() until it stops or fails."""
        return self._state in (State.STARTING, State.RUNNING)

    def stats(self) -> dict[str, Any]:
        """Counters as plain JSON types; of the last run when none is on."""
        runtime = self._runtime
        if runtime is not None and runtime.engine is not None:
            self._last_stats = runtime.engine.gauges()
        return self._last_stats.as_dict()

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        """Receive every event; returns what takes the subscription back. A sink that raises is dropped."""
        with self._lock:
            self._subscribers.append(sink)
        return lambda: self._unsubscribe(sink)

    def _unsubscribe(self, sink: EventSink) -> None:
        with self._lock:
            if sink in self._subscribers:
                self._subscribers.remove(sink)

    def _emit(self, event: Event) -> None:
        for sink in list(self._subscribers):
            try:
                sink(event)
            except Exception:
                # a listener's bug must not stop traffic; it is not asked again
                self._unsubscribe(sink)

    def _enter(self, state: State) -> None:
        self._state = state
        self._emit(StateChanged(time.monotonic(), state.value, self._config.mode))

    # --- doing ---

    def start(self, make_tunnel: TunnelFactory) -> None:
        """Start on a thread of its own and return. Raises StateError when already running.

        `make_tunnel` is called on that thread with the configuration, counters, event sink and runtime.
        """
        with self._lock:
            if self._state in (State.STARTING, State.RUNNING, State.STOPPING):
                raise StateError(f"cannot start: the controller is {self._state.value}")
            self._make_tunnel = make_tunnel
            self._enter(State.STARTING)
            self._thread = threading.Thread(target=self._run, name="netstack-engine", daemon=True)
            self._thread.start()

    def start_with_packet_capture(
        self,
        callback: HostCallback,
        tun_address: str,
        device_address: str,
        mtu: int,
        dns_proxy_address: str,
        cd_uid: str,
        provision_id: str,
        custom_hostname: str,
        home_dir: str,
        upstream_proto: str,
        log_level: int,
        log_path: str,
        *,
        make_tunnel: TunnelFactory,
    ) -> None:
        """The original netstack's entry point: the same parameters, in the same order.

        Resolver identity (`cd_uid`, `provision_id`, `custom_hostname`, `upstream_proto`) belongs to the DNS
        proxy at `dns_proxy_address`, which the host runs; the parameters are kept in `host_settings` for it.
        """
        parse_server(dns_proxy_address)
        if upstream_proto not in ("doh", "dot", "doq"):
            raise NetstackError(f"upstream_proto: {upstream_proto!r} is not one of doh, dot, doq")
        if not 0 <= log_level <= 3:
            raise NetstackError(f"log_level: must be 0..3, got {log_level}")
        self._callback = callback
        self.host_settings = {
            "cd_uid": cd_uid, "provision_id": provision_id, "custom_hostname": custom_hostname,
            "home_dir": home_dir, "upstream_proto": upstream_proto, "log_level": log_level, "log_path": log_path,
        }  # fmt: skip
        config = self._config
        self._config = replace(
            config,
            tunnel=replace(
                config.tunnel, address=tun_address, device_address=device_address, mtu=mtu
            ),
            dns=replace(config.dns, servers=(dns_proxy_address,)),
        )
        self.start(make_tunnel)

    def _run(self) -> None:
        message = ""
        runtime = LiveRuntime(
            self._config,
            emit=self._emit,
            protect=self._protect,
            flow_owner=self._flow_owner,
            network=self._network,
            blocked=self._blocked,
        )
        self._runtime = runtime
        try:
            assert self._make_tunnel is not None
            problem = collision.warning(self._config)
            if problem is not None:
                self._emit(EngineError(time.monotonic(), "config", problem))
            runtime.run(self._make_tunnel, on_ready=self._ready)
        except Exception as problem:
            message = str(problem) or type(problem).__name__
            self._emit(EngineError(time.monotonic(), "controller", message, fatal=True))
        if runtime.engine is not None:
            self._last_stats = runtime.engine.gauges()
        self._runtime = None
        self._host(lambda callback: callback.close_packet_io())
        self._enter(State.FAILED if message else State.STOPPED)
        if message:
            self._host(lambda callback: callback.exit(message))

    def _ready(self) -> None:
        self._catch_up()
        with self._lock:
            if self._state is State.STARTING:
                self._enter(State.RUNNING)
        if self._config.captive.watch:
            self.look_for_portal()

    def _catch_up(self) -> None:
        """What the host said while the run was being made; before the first packet."""
        runtime = self._runtime
        changes = runtime.changes if runtime is not None else None
        if runtime is None or changes is None:
            return
        now = time.monotonic()
        if self._config is not runtime.config:
            try:
                changes.reconfigure(changes.prepare(self._config), now)
            except NetstackError as problem:
                self._emit(EngineError(now, "config", f"{problem} (the settings of before stay in force)"))
        if changes.network is not self._network:
            changes.network_told(self._network, now)
        if self._blocked and not changes.is_blocking:
            changes.block_network(self._blocked, now)
        elif changes.is_blocking and not self._blocked and not self._config.lockdown.blocking:
            changes.allow_network("", now)

    def _protect(self, fd: int) -> bool:
        return True if self._callback is None else bool(self._callback.protect_socket(fd))

    def _host(self, call: Callable[[HostCallback], None]) -> None:
        if self._callback is None:
            return
        try:
            call(self._callback)
        except Exception as problem:
            self._emit(EngineError(time.monotonic(), "host", f"callback failed: {problem}"))

    def stop(self, restart: bool = False, pin: int = 0) -> int:
        """Stop, and start again with `restart`. Returns 0, or 126 for a wrong PIN, checked before anything.

        Idempotent; returns within two seconds, from any thread but the engine's own (there it returns at
        once and the engine ends by itself).
        """
        if self._pin:
            import hmac  # with it comes OpenSSL, which a controller without a PIN need not load

            if not hmac.compare_digest(str(pin), str(self._pin)):
                return BAD_PIN
        with self._lock:
            thread, runtime, make_tunnel = self._thread, self._runtime, self._make_tunnel
            if self._state in (State.STARTING, State.RUNNING):
                self._enter(State.STOPPING)
        if thread is None:
            if self._state is State.CREATED:
                self._enter(State.STOPPED)
        elif thread is not threading.current_thread():
            deadline = time.monotonic() + STOP_DEADLINE
            while thread.is_alive() and time.monotonic() < deadline:
                runtime = self._runtime or runtime
                if runtime is not None:
                    runtime.stop()
                thread.join(0.05)
            if not thread.is_alive():
                self._thread = None
        elif runtime is not None:
            runtime.stop()
        if restart and make_tunnel is not None:
            self.start(make_tunnel)
        return 0

    def set_firewall_mode(self, enabled: bool | str) -> None:
        """Switch between firewall and DNS-only while running; live flows that may go on are not cut.

        Takes the provider message's "true" / "false" as well as a bool.
        """
        if isinstance(enabled, str):
            if enabled.lower() not in ("true", "false"):
                raise NetstackError(f"enabled: {enabled!r} is not true or false")
            enabled = enabled.lower() == "true"
        self.reconfigure(replace(self._config, mode="firewall" if enabled else "dns-only"))

    def reconfigure(self, config: Config) -> None:
        """Take over other settings while running: mode, policy, rules, lists, upstreams, answers.

        Queries on their way are answered and live flows that may go on do. Raises ConfigError naming what cannot be
        used, and everything stays as it was. Lists are read before this returns, so large texts are better given on a
        thread that may wait. Listeners, the device and table sizes are those of the start.
        """
        runtime = self._runtime
        if runtime is not None:
            runtime.reconfigure(config)
        self._config = config
        self._emit(StateChanged(time.monotonic(), self._state.value, config.mode))

    def reload(self) -> None:
        """Read the lists again where their files changed; a damaged one stays as it was, and an event names it."""
        self.reconfigure(self._config)

    def flush_cache(self, name: str = "", *, subtree: bool = True) -> None:
        """Forget cached answers for `name` and, with `subtree`, all below it; everything without a name."""
        self._change(lambda changes, now: changes.flush_cache(name, subtree=subtree))

    # --- the blocking state ---

    def block_network(self, why: str = "") -> None:
        """Enter the blocking state: every name and flow is refused but the system's network check, if that may pass.

        Live flows are cut. It outlives `stop` and `start`; before a start it makes that one begin blocked.
        """
        self._blocked = why or "the host"
        self._change(lambda changes, now: changes.block_network(why, now))

    def allow_network(self, why: str = "") -> None:
        """Leave the blocking state; what passed for the network check passes no longer."""
        self._blocked = ""
        if self._config.lockdown.blocking:
            self._config = _with_lockdown(self._config, blocking=False)
        self._change(lambda changes, now: changes.allow_network(why, now))

    def allow_network_check(self, enabled: bool | str) -> None:
        """Whether the system's network check may pass while blocking; takes a provider message's "true" as well.

        Switching it on anew also says that what was reported with `network_check_failed` is mended.
        """
        switch = _switch(enabled)
        self._config = _with_lockdown(self._config, network_check=switch)
        self._change(lambda changes, now: changes.allow_network_check(switch, now))

    def network_check_failed(self, step: str, why: str) -> None:
        """The host could not do its part for the check (bind, install, configure): it stays shut, as one event says."""
        self._change(lambda changes, now: changes.network_check_failed(step, why, now))

    # --- the network ---

    def captive_portal(
        self,
        api_url: str = "",
        *,
        answer: bytes | str | dict[str, Any] | None = None,
        captive: bool | None = None,
        url: str = "",
    ) -> None:
        """What the host learnt of a captive portal, in any combination.

        `api_url` is what the network gave (RFC 8910), `answer` what that API said (RFC 8908), `captive` what a probe
        found, and `url` the page that it was sent to.
        """
        self._change(
            lambda changes, now: changes.captive_portal(now, api_url=api_url, answer=answer, captive=captive, url=url)
        )

    def look_for_portal(self) -> None:
        """Find out whether a captive portal is in the way, past the tunnel and without waiting; the answer is an event.

        The API that `captive_portal` named is asked, `captive.probe` when there is none; again every 10 s while the
        portal is shut. Hosts that do this by themselves tell with `captive_portal` what they found.
        """
        runtime = self._runtime
        if runtime is not None:
            runtime.look_for_portal()

    def network_changed(
        self,
        name: str | None = None,
        *,
        has_ipv6: bool | None = None,
        nat64: str = "",
        servers: Sequence[str] = (),
    ) -> None:
        """The host says that the device is on another network; what it does not say of it is not known.

        `name` is what rules know the network by (None: as before), `servers` its own resolvers. Raises ConfigError for
        what is no server or prefix.
        """
        for server in servers:
            parse_server(server)
        try:
            if nat64:
                parse_prefix(nat64)
        except ValueError as problem:
            raise ConfigError(f"nat64: {problem}") from None
        network = Network(
            name=self._network.name if name is None else name, has_ipv6=has_ipv6, nat64=nat64, servers=tuple(servers)
        )
        self._network = network
        self._change(lambda changes, now: changes.network_changed(network, now))
        if self._config.captive.watch:
            self.look_for_portal()

    def _change(self, change: Callable[[Changes, float], Any]) -> None:
        runtime = self._runtime
        if runtime is not None:
            runtime.change(change)

    def replace_tunnel(self, make_tunnel: TunnelFactory) -> None:
        """Go on with another packet device, as Android makes one when the routes change; live flows stay.

        The old device is closed. When the new one cannot be had the old one stays and an event says so.
        Raises StateError when not running.
        """
        with self._lock:
            runtime = self._runtime
            if runtime is None or not self.is_running():
                raise StateError(f"cannot replace the tunnel: the controller is {self._state.value}")
            self._make_tunnel = make_tunnel
        runtime.replace_tunnel(make_tunnel)


def _switch(enabled: bool | str) -> bool:
    """A bool, or the provider message's "true" and "false"."""
    if isinstance(enabled, bool):
        return enabled
    if enabled.lower() not in ("true", "false"):
        raise NetstackError(f"enabled: {enabled!r} is not true or false")
    return enabled.lower() == "true"


def _with_lockdown(config: Config, **settings: Any) -> Config:
    return replace(config, lockdown=replace(config.lockdown, **settings))
