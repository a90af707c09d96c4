"""asyncio inside the small loop: callbacks, timers, sockets, tasks and their end."""

import asyncio
import socket

import pytest

from netstack.runtime.asyncio_guest import GuestLoop
from netstack.runtime.loop import Loop
from netstack.runtime.poller import EnginePoller


@pytest.fixture
def host():
    poller = EnginePoller()
    made = Loop(poller, lambda problem: made.defects.append(problem))
    made.defects = []
    yield made
    made.close()
    assert len(poller) == 0
    poller.close()
    assert made.defects == []


def test_tasks_sleep_and_talk_while_the_host_runs(host):
    guest = GuestLoop(host)
    made = []

    async def talk(ours):
        await asyncio.sleep(0.01)
        made.append(asyncio.get_running_loop() is guest)
        await guest.sock_sendall(ours, b"hello")
        made.append(await guest.sock_recv(ours, 10))
        host.stop()

    async def answer(theirs):
        made.append(await guest.sock_recv(theirs, 10))
        await guest.sock_sendall(theirs, b"world")

    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    host.call_later(5, host.stop)
    tasks = [guest.create_task(answer(theirs)), guest.create_task(talk(ours))]
    host.run_forever()
    assert made == [True, b"hello", b"world"]
    assert all(task.done() for task in tasks)
    guest.finish()
    ours.close()
    theirs.close()


def test_another_thread_reaches_the_guest(host):
    guest = GuestLoop(host)
    made = []

    async def ask():
        made.append(await asyncio.to_thread(lambda: 7))
        host.stop()

    host.call_later(5, host.stop)
    task = guest.create_task(ask())
    host.run_forever()
    assert made == [7]
    assert task.done()
    guest.run_until_complete(guest.shutdown_default_executor())
    guest.finish()


def test_guest_without_work_costs_no_turn(host):
    guest = GuestLoop(host)
    turns = []
    real = guest.run_forever
    guest.run_forever = lambda: (turns.append(1), real())
    guest.call_soon(lambda: None)
    host.call_later(0.05, host.stop)
    host.run_forever()
    assert len(turns) == 1
    guest.finish()


def test_tasks_left_over_are_cancelled_and_may_clean_up(host):
    guest = GuestLoop(host)
    made = []

    async def wait():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            made.append("cleaned")

    task = guest.create_task(wait())
    host.call_soon(host.stop)
    host.run_forever()
    guest.finish()
    assert made == ["cleaned"]
    assert task.cancelled()
    assert guest.is_closed()
