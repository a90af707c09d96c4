"""Look-ups of apps on threads of their own."""

import threading
from collections.abc import Iterator

import pytest

from netstack.core.flow import UDP, Endpoint, FiveTuple
from netstack.runtime import owners as module
from netstack.runtime.owners import OwnerThreads


def flow(port: int) -> FiveTuple:
    return FiveTuple(UDP, Endpoint.of("10.0.0.2", port), Endpoint.of("192.0.2.53", 53))


class Host:
    """Answers with the port; hangs while `gate` is shut."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.problems: list[Exception] = []
        self.told: list[tuple[int, str | None]] = []
        self.arrived = threading.Semaphore(0)
        self.lookup = OwnerThreads(self, self.deliver, self.problems.append)

    def owner_of(self, flow: FiveTuple) -> str | None:
        if flow.source.port == 1:
            raise RuntimeError("no such thing")
        if flow.source.port == 2:
            assert self.gate.wait(5)
        return f"app {flow.source.port}"

    def deliver(self, call) -> None:  # type: ignore[no-untyped-def]
        call(7.0)

    def ask(self, port: int) -> None:
        def told(app: str | None, now: float) -> None:
            assert now == 7.0
            self.told.append((port, app))
            self.arrived.release()

        self.lookup.ask_owner_of(flow(port), told)

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.arrived.acquire(timeout=5)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(module, "IDLE", 0.05)
    made = Host()
    yield made
    made.gate.set()
    for thread in threading.enumerate():
        if thread.name == "flow-owner":
            thread.join(5)
            assert not thread.is_alive(), "threads end when there is nothing to ask"


def test_answers_come_by_the_engines_thread_and_a_failure_is_an_unknown_app(host: Host) -> None:
    host.ask(1000)
    host.ask(1)
    host.wait(2)
    assert sorted(host.told) == [(1, None), (1000, "app 1000")]
    assert [str(problem) for problem in host.problems] == ["no such thing"]


def test_a_slow_look_up_does_not_hold_up_the_others(host: Host) -> None:
    host.ask(2)
    host.ask(1001)
    host.wait(1)
    assert host.told == [(1001, "app 1001")]
    host.gate.set()
    host.wait(1)
    assert host.told[1] == (2, "app 2")


def test_with_too_many_waiting_the_app_is_unknown(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(module.WORKERS):
        host.ask(2)
    while not host.lookup._questions.empty():
        threading.Event().wait(0.001)
    for _ in range(module.QUEUED):
        host.ask(1002)
    assert not host.told
    host.ask(1003)
    assert host.told == [(1003, None)]
    host.gate.set()
    host.wait(module.WORKERS + module.QUEUED + 1)
