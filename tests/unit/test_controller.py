"""The controller's life cycle, on real threads with an in-memory device."""

import threading
import time
from collections.abc import Callable

import pytest

from netstack.codec import load
from netstack.config import make_config
from netstack.controller import BAD_PIN, PacketCaptureController, State
from netstack.core.errors import ConfigError, NetstackError, StateError
from netstack.core.events import EngineError, StateChanged
from netstack.link.queue import PacketQueueTunnel


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
