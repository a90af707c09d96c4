"""The controller's life cycle, on real threads with an in-memory device."""

import threading
import time
from collections.abc import Callable

import dns.message
import pytest

from netstack.codec import load
from netstack.config import make_config
from netstack.controller import BAD_PIN, PacketCaptureController, State
from netstack.core.errors import ConfigError, NetstackError, StateError
from netstack.core.events import CaptivePortalChanged, EngineError, LockdownChanged, StateChanged
from netstack.core.flow import Endpoint
from netstack.core.network import Network
from netstack.link.queue import PacketQueueTunnel
from netstack.testing.world import World


class Host:
    """A host app that keeps notes."""

    def __init__(self) -> None:
        self.protected: list[int] = []
        self.closed = 0
        self.messages: list[str] = []

    def protect_socket(self, fd: int) -> bool:
        self.protected.append(fd)
        return True

    def close_packet_io(self) -> None:
        self.closed += 1

    def exit(self, message: str) -> None:
        self.messages.append(message)


def make_tunnel(config, stats, emit, runtime):
    return PacketQueueTunnel(load("pure"), config.tunnel.mtu, lambda packets: None, stats=stats, emit=emit)


def broken_tunnel(config, stats, emit, runtime):
    raise NetstackError("no such device")


def wait_for(controller: PacketCaptureController, *states: State) -> State:
    deadline = time.monotonic() + 5.0
    while controller.state not in states and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    assert controller.state in states
    return controller.state


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5.0
    while not done() and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    assert done()


@pytest.fixture
def controller():
    made = PacketCaptureController(make_config({"dns": {"servers": ["127.0.0.1:9"]}}), Host())
    yield made
    made.stop(pin=made._pin)


def test_life_cycle_with_events(controller: PacketCaptureController) -> None:
    seen: list[str] = []
    controller.subscribe(lambda event: seen.append(event.state) if isinstance(event, StateChanged) else None)
    assert controller.state is State.CREATED and not controller.is_running()
    controller.start(make_tunnel)
    assert controller.is_running()
    wait_for(controller, State.RUNNING)
    assert controller.stats()["packets_in"] == 0
    assert controller.stop() == 0
    assert controller.state is State.STOPPED and not controller.is_running()
    assert seen == ["starting", "running", "stopping", "stopped"]
    assert controller._callback.closed == 1


def test_restart_many_times_leaves_no_thread_or_descriptor(controller: PacketCaptureController) -> None:
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    threads = threading.active_count()
    for _ in range(20):
        assert controller.stop(restart=True) == 0
        wait_for(controller, State.RUNNING)
    assert threading.active_count() == threads
    controller.stop()
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)


def test_stop_is_idempotent_and_fast_in_any_state(controller: PacketCaptureController) -> None:
    begun = time.monotonic()
    assert controller.stop() == 0
    assert controller.stop() == 0
    controller.start(make_tunnel)
    assert controller.stop() == 0
    assert controller.stop() == 0
    assert time.monotonic() - begun < 2.0
    assert controller.state is State.STOPPED


def test_wrong_pin_tears_nothing_down() -> None:
    controller = PacketCaptureController(make_config({}), pin=4711)
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    assert controller.stop() == BAD_PIN == 126
    assert controller.stop(restart=True, pin=1) == 126
    assert controller.state is State.RUNNING
    assert controller.stop(pin=4711) == 0
    assert controller.state is State.STOPPED


def test_start_twice_is_an_error(controller: PacketCaptureController) -> None:
    controller.start(make_tunnel)
    with pytest.raises(StateError, match="cannot start"):
        controller.start(make_tunnel)


def test_a_failed_start_is_said_and_can_be_repaired(controller: PacketCaptureController) -> None:
    errors: list[EngineError] = []
    controller.subscribe(lambda event: errors.append(event) if isinstance(event, EngineError) else None)
    controller.start(broken_tunnel)
    wait_for(controller, State.FAILED)
    assert [error.message for error in errors] == ["no such device"] and errors[0].fatal
    assert controller._callback.messages == ["no such device"]
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)


def test_stop_from_a_subscriber_does_not_lock_up(controller: PacketCaptureController) -> None:
    def sink(event) -> None:
        if isinstance(event, StateChanged) and event.state == "running":
            controller.stop()

    controller.subscribe(sink)
    controller.start(make_tunnel)
    wait_for(controller, State.STOPPED)


def test_a_broken_subscriber_is_dropped_and_others_go_on(controller: PacketCaptureController) -> None:
    seen: list[object] = []

    def broken(event) -> None:
        raise RuntimeError("subscriber's bug")

    controller.subscribe(broken)
    controller.subscribe(seen.append)
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    assert len(seen) == 2


def test_mode_switch_takes_the_provider_messages_forms(controller: PacketCaptureController) -> None:
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    controller.set_firewall_mode("false")
    assert controller.mode == "dns-only"
    controller.set_firewall_mode(True)
    assert controller.mode == "firewall"
    with pytest.raises(NetstackError, match="'maybe' is not true or false"):
        controller.set_firewall_mode("maybe")
    controller.network_changed()
    assert controller.state is State.RUNNING


def test_wrong_settings_raise_and_change_nothing(controller: PacketCaptureController, tmp_path) -> None:
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    runtime = controller._runtime
    assert runtime is not None and runtime.changes is not None
    before = runtime.changes.config
    for table, words in [
        ({"rules": [{"action": "explode"}]}, "explode"),
        ({"filter": {"block": [str(tmp_path / "none")]}}, "none"),
        ({"dns": {"upstreams": ["ftp://x"]}}, "ftp"),
    ]:
        with pytest.raises(ConfigError, match=words):
            controller.reconfigure(make_config(table))
    assert runtime.changes.config is before and controller._config is before
    controller.reconfigure(make_config({"dns": {"servers": ["127.0.0.1:9"]}, "rules": [{"action": "drop"}]}))
    controller.reload()
    wait_until(lambda: runtime.changes is not None and bool(runtime.changes.config.rules))
    for wrong in ({"servers": ["nonsense"]}, {"nat64": "nonsense"}):
        with pytest.raises(ConfigError, match="nonsense"):
            controller.network_changed(**wrong)


def test_the_blocking_state_outlives_stop_and_start(controller: PacketCaptureController) -> None:
    seen: list[LockdownChanged] = []
    controller.subscribe(lambda event: seen.append(event) if isinstance(event, LockdownChanged) else None)
    controller.block_network("always on")  # before there is anything to block
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    assert [(event.state, event.network_check, event.why) for event in seen] == [("blocking", False, "always on")]
    controller.allow_network_check("true")
    wait_until(lambda: len(seen) == 2)
    assert (seen[1].state, seen[1].network_check) == ("blocking", True)
    controller.network_check_failed("bind", "port 53 is in use")
    wait_until(lambda: len(seen) == 3)
    assert (seen[2].state, seen[2].network_check, seen[2].why) == ("failed", False, "bind: port 53 is in use")
    controller.stop(restart=True)
    wait_for(controller, State.RUNNING)
    assert len(seen) == 4 and (seen[3].state, seen[3].network_check) == ("blocking", True)
    controller.allow_network()
    wait_until(lambda: len(seen) == 5)
    controller.stop(restart=True)
    wait_for(controller, State.RUNNING)
    assert seen[-1].state == "open" and len(seen) == 5
    with pytest.raises(NetstackError, match="'maybe'"):
        controller.allow_network_check("maybe")


def test_what_is_said_while_the_run_is_being_made_holds_from_the_first_packet(
    controller: PacketCaptureController,
) -> None:
    def slow(*arguments):
        controller.block_network("always on")
        controller.network_changed("office", has_ipv6=False)
        controller.reconfigure(make_config({"dns": {"servers": ["127.0.0.1:10"]}, "rules": [{"action": "drop"}]}))
        return make_tunnel(*arguments)

    seen: list[str] = []
    controller.subscribe(lambda event: seen.append(event.kind))
    controller.start(slow)
    wait_for(controller, State.RUNNING)
    assert seen.index("lockdown_changed") < len(seen) - 1 - seen[::-1].index("state_changed"), "before it is running"
    changes = controller._runtime.changes if controller._runtime else None
    assert changes is not None and changes.is_blocking and changes.network.name == "office"
    assert changes.config.rules and changes.config.dns.servers == ("127.0.0.1:10",)

    def let_go(*arguments):
        controller.allow_network()
        return make_tunnel(*arguments)

    controller.stop()
    controller.start(let_go)
    wait_for(controller, State.RUNNING)
    changes = controller._runtime.changes if controller._runtime else None
    assert changes is not None and not changes.is_blocking


class Hanging:
    """A host that does not know whose a flow is until the test is over."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def owner_of(self, flow):
        assert self.gate.wait(10)
        return "org.game"


def test_a_host_that_does_not_say_whose_a_flow_is_delays_only_that_query_and_only_so_long() -> None:
    host = Hanging()
    answers: dict[int, tuple[int, float]] = {}
    tunnels: list[PacketQueueTunnel] = []

    def tunnel(config, stats, emit, runtime):
        def write(packets) -> None:
            for packet in packets:
                octets = bytes(packet)
                answers[octets[28] << 8 | octets[29]] = (octets[31] & 15, time.monotonic())

        tunnels.append(PacketQueueTunnel(load("pure"), config.tunnel.mtu, write, stats=stats, emit=emit))
        return tunnels[-1]

    config = {
        "filter": {"app_wait": 0.2, "app_late": "refused"},
        "rules": [
            {"action": "nxdomain", "names": ["x.test"], "apps": ["org.game"]},
            {"action": "nodata", "names": ["y.test"]},
        ],
    }
    controller = PacketCaptureController(make_config(config), flow_owner=host)
    controller.start(tunnel)
    try:
        wait_for(controller, State.RUNNING)
        world = World()
        asked = time.monotonic()
        for ident, name in ((1, "x.test"), (2, "y.test")):
            query = dns.message.make_query(name, "A", id=ident).to_wire()
            tunnels[0].push([world.udp_packet(query, destination=Endpoint.of("10.0.0.1", 53))])
        wait_until(lambda: len(answers) == 2)
        assert answers[2][0] == 0 and answers[2][1] - asked < 0.15
        assert answers[1][0] == 5 and 0.18 < answers[1][1] - asked < 2.0
        host.gate.set()
        query = dns.message.make_query("x.test", "A", id=3).to_wire()
        threading.Event().wait(0.1)
        tunnels[0].push([world.udp_packet(query, destination=Endpoint.of("10.0.0.1", 53))])
        wait_until(lambda: 3 in answers)
        assert answers[3][0] == 3, "told meanwhile"
    finally:
        host.gate.set()
        controller.stop()


def test_portals_and_networks(controller: PacketCaptureController) -> None:
    seen: list[CaptivePortalChanged] = []
    controller.subscribe(lambda event: seen.append(event) if isinstance(event, CaptivePortalChanged) else None)
    controller.captive_portal(captive=True)  # nothing runs: nobody needs to know
    controller.network_changed("home", has_ipv6=False, servers=["192.0.2.7"])
    controller.start(make_tunnel)
    wait_for(controller, State.RUNNING)
    runtime = controller._runtime
    assert runtime is not None and runtime.changes is not None
    assert runtime.changes.network == Network(name="home", has_ipv6=False, servers=("192.0.2.7",))
    controller.captive_portal(
        "https://portal.example/api", answer={"captive": True, "user-portal-url": "https://login.example/"}
    )
    wait_until(lambda: len(seen) == 1)
    assert (seen[0].state, seen[0].url) == ("captive", "https://login.example/")
    controller.network_changed(servers=["[2001:db8::7]:53"])
    wait_until(lambda: len(seen) == 2)
    assert runtime.changes.network == Network(name="home", servers=("[2001:db8::7]:53",))


def test_another_tunnel_while_running(controller: PacketCaptureController) -> None:
    made: list[PacketQueueTunnel] = []
    errors: list[EngineError] = []
    controller.subscribe(lambda event: errors.append(event) if isinstance(event, EngineError) else None)

    def keep(*arguments):
        made.append(make_tunnel(*arguments))
        return made[-1]

    with pytest.raises(StateError, match="controller is created"):
        controller.replace_tunnel(keep)
    controller.start(keep)
    wait_for(controller, State.RUNNING)
    controller.replace_tunnel(keep)
    wait_until(lambda: len(made) == 2 and made[0].gone)
    made[1].push([bytes(20)])
    wait_until(lambda: controller.stats()["packets_in"] == 1)
    controller.replace_tunnel(broken_tunnel)
    wait_until(lambda: len(errors) == 1)
    assert "the old device stays, the new one cannot be had: no such device" in errors[0].message
    made[1].push([bytes(20)])
    wait_until(lambda: controller.stats()["packets_in"] == 2)
    controller.stop()
    assert made[1].gone and controller.state is State.STOPPED


def test_the_originals_entry_point(controller: PacketCaptureController) -> None:
    host = Host()
    arguments = ["10.9.0.1", "10.9.0.2", 1400, "127.0.0.1:5354", "uid", "", "", "/tmp", "doh", 2, "/tmp/log"]
    controller.start_with_packet_capture(host, *arguments, make_tunnel=make_tunnel)
    wait_for(controller, State.RUNNING)
    controller.stop()
    assert host.closed == 1
    for at, bad in ((3, "nowhere"), (8, "smtp"), (9, 7)):
        wrong = list(arguments)
        wrong[at] = bad
        with pytest.raises((ConfigError, NetstackError)):
            controller.start_with_packet_capture(host, *wrong, make_tunnel=make_tunnel)
    assert controller.state is State.STOPPED
