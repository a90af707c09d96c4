"""The small loop: order, timers, other threads, signals, defects, ending."""

import os
import signal
import threading
import time

import pytest

from netstack.runtime.loop import Loop, describe_defect
from netstack.runtime.poller import EnginePoller


@pytest.fixture
def loop():
    poller = EnginePoller()
    made = Loop(poller, lambda problem: made.defects.append(problem))
    made.defects = []
    yield made
    made.close()
    assert len(poller) == 0
    poller.close()


def run(loop, seconds=5.0):
    """Until something stops it; it is a failure when the time is over first."""
    late = []
    loop.call_later(seconds, lambda: (late.append(True), loop.stop()))
    loop.run_forever()
    assert not late


def test_calls_are_made_in_order_and_new_ones_in_the_next_turn(loop):
    made = []
    loop.call_soon(lambda: (made.append(1), loop.call_soon(made.append, 3), loop.call_soon(loop.stop)))
    loop.call_soon(made.append, 2)
    run(loop)
    assert made == [1, 2, 3]


def test_stop_before_the_run_still_does_what_was_asked_for(loop):
    made = []
    loop.call_soon(made.append, 1)
    loop.stop()
    run(loop)
    assert made == [1]


def test_timers_fire_in_order_and_not_early(loop):
    made = []
    begin = time.monotonic()
    loop.call_later(0.03, lambda: (made.append(("late", time.monotonic() - begin)), loop.stop()))
    loop.call_at(begin + 0.01, made.append, "first")
    loop.call_at(begin + 0.01, made.append, "second")
    run(loop)
    assert made[:2] == ["first", "second"]
    assert made[2][1] >= 0.03


def test_another_thread_ends_the_wait(loop):
    made = []
    other = threading.Timer(0.02, lambda: loop.call_soon_threadsafe(lambda: (made.append(1), loop.stop())))
    other.start()
    run(loop)
    other.join()
    assert made == [1]


def test_calls_of_many_threads_are_all_made_once(loop):
    made = []

    def ask(number):
        for each in range(200):
            loop.call_soon_threadsafe(made.append, (number, each))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()

    def wait():
        for thread in threads:
            thread.join()
        loop.call_soon_threadsafe(loop.stop)

    watch = threading.Thread(target=wait)
    watch.start()
    run(loop)
    watch.join()
    assert len(made) == 800
    for number in range(4):
        assert [each for who, each in made if who == number] == list(range(200))


def test_a_full_wake_up_descriptor_loses_no_call(loop):
    made = []
    for _ in range(70_000):  # a pipe holds 65,536
        loop.call_soon_threadsafe(made.append, 1)
    loop.call_soon(loop.stop)
    run(loop)
    assert len(made) == 70_000


def test_closed_loop_says_so():
    poller = EnginePoller()
    other = Loop(poller, print)
    other.close()
    with pytest.raises(RuntimeError):
        other.call_soon_threadsafe(print)
    poller.close()


def test_defect_costs_one_callback(loop):
    loop.call_soon(lambda: {}["no"])
    loop.call_soon(loop.stop)
    run(loop)
    assert [type(each) for each in loop.defects] == [KeyError]
    assert describe_defect(loop.defects[0]).startswith("internal error: KeyError('no') at <lambda>:")
    assert describe_defect(ValueError("x")) == "internal error: ValueError('x')"


def test_reader_is_called_while_readable_and_no_longer(loop):
    made = []
    inside, outside = os.pipe()
    loop.add_reader(inside, lambda number: (made.append(os.read(inside, number)), len(made) == 2 and loop.stop()), 1)
    os.write(outside, b"ab")
    run(loop)
    assert made == [b"a", b"b"]
    loop.remove_reader(inside)
    os.close(inside)
    os.close(outside)


@pytest.mark.parametrize("when", [0.0, 0.02])
def test_signal_ends_the_wait_and_its_old_meaning_comes_back(loop, when):
    before = signal.getsignal(signal.SIGUSR1)
    made = []
    loop.add_signal_handler(signal.SIGUSR1, lambda name: (made.append(name), loop.stop()), "usr1")
    loop.add_signal_handler(signal.SIGUSR2, made.append, "usr2")
    if when:
        threading.Timer(when, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    else:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    run(loop)
    assert made == ["usr1"]
    loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == before
    loop.close()
    assert signal.getsignal(signal.SIGUSR2) == before
    assert signal.set_wakeup_fd(-1) == -1
    loop.close = lambda: None


def test_signal_handlers_are_for_the_main_thread(loop):
    raised = []

    def ask():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except ValueError as problem:
            raised.append(problem)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(raised) == 1
