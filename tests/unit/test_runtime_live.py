"""The live runtime with an engine made of string: readiness, time, commands, ends."""

import contextlib
import gc
import os
import signal
import socket
import threading
import time

import pytest

from netstack.config import Config
from netstack.core.errors import TunnelClosed
from netstack.core.events import EngineError
from netstack.core.flow import Endpoint
from netstack.runtime.live import LiveRuntime


class PipeTunnel:
    """A "device" whose packets are octets of a pipe."""

    mtu = 1500
    offload = False

    def __init__(self):
        self.inside, self.outside = os.pipe()
        os.set_blocking(self.inside, False)
        self.closed = 0
        self.stalled = False
        self.gone = False

    def fileno(self):
        return self.inside

    def flush(self):
        pass

    def close(self):
        self.closed += 1
        with contextlib.suppress(OSError):
            os.close(self.inside)
        with contextlib.suppress(OSError):
            os.close(self.outside)


class FakeEngine:
    """Records the calls; `deadline` is its next timeout; `on_packet` is what a packet does."""

    def __init__(self, config, *, tunnel, codec, dialer, resolver, entropy, emit, stats):
        self.tunnel = tunnel
        self.dialer = dialer
        self.resolver = resolver
        self.calls = []
        self.deadline = None
        self.looked = 0
        self.on_packet = lambda octets, now: None
        self.on_socket = lambda socket, now: None

    def on_tunnel_readable(self, now):
        octets = os.read(self.tunnel.inside, 100)
        if not octets:
            raise TunnelClosed("end of pipe")
        self.calls.append(("packet", octets))
        self.on_packet(octets, now)
        return 1

    def on_readable(self, socket, now):
        self.calls.append(("readable", socket))
        self.on_socket(socket, now)

    def on_writable(self, socket, now):
        self.calls.append(("writable", socket))
        self.on_socket(socket, now)

    def next_timeout(self):
        self.looked += 1
        return self.deadline

    def on_timeout(self, now):
        assert self.deadline is not None and now >= self.deadline
        self.calls.append(("timeout", now))
        self.deadline = None

    def flush(self, now):
        self.calls.append(("flush", now))

    def stop(self, now):
        self.calls.append(("stop", now))


class Run:
    """A runtime on a thread of its own."""

    def __init__(self):
        self.events = []
        self.tunnel = PipeTunnel()
        self.failure = None
        self.ready = threading.Event()
        self.runtime = LiveRuntime(
            Config(),
            emit=self.events.append,
            codec="pure",
            make_resolver=lambda config, dialer, entropy, stats, emit: None,
            make_engine=FakeEngine,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def engine(self):
        return self.runtime.engine

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *problem):
        self.runtime.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()

    def _run(self):
        try:
            self.runtime.run(lambda *arguments: self.tunnel, on_ready=self.ready.set)
        except Exception as problem:
            self.failure = problem

    def do(self, function):
        """Run on the engine's thread, wait for the outcome."""
        done = threading.Event()
        outcome = []

        def command(engine, now):
            outcome.append(function(engine, now))
            done.set()

        assert self.runtime.call(command)
        assert done.wait(5)
        return outcome[0]


def until(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


def test_packet_reaches_the_engine_and_one_flush_follows():
    with Run() as run:
        os.write(run.tunnel.outside, b"abc")
        until(lambda: len(run.engine.calls) >= 2)
        assert [name for name, _ in run.engine.calls] == ["packet", "flush"]


def test_socket_readiness_reaches_its_engine_and_stops_when_unwatched():
    with Run() as run, socket.create_server(("127.0.0.1", 0)) as server:
        there = Endpoint.of(*server.getsockname())
        stream = run.do(lambda engine, now: engine.dialer.dial_tcp(there, None))
        run.engine.on_socket = lambda socket, now: socket.watch(readable=False, writable=False)
        run.do(lambda engine, now: stream.watch(readable=True, writable=True))
        until(lambda: ("writable", stream) in run.engine.calls)
        peer, _ = server.accept()
        with peer:
            run.do(lambda engine, now: stream.watch(readable=True, writable=False))
            peer.sendall(b"x")
            until(lambda: ("readable", stream) in run.engine.calls)
        count = len(run.engine.calls)
        time.sleep(0.05)
        assert len(run.engine.calls) == count
        run.do(lambda engine, now: stream.close())


def test_hung_up_socket_without_interest_does_not_spin():
    with Run() as run, socket.create_server(("127.0.0.1", 0)) as server:
        there = Endpoint.of(*server.getsockname())
        stream = run.do(lambda engine, now: engine.dialer.dial_tcp(there, None))
        run.do(lambda engine, now: stream.watch(readable=True, writable=False))
        peer, _ = server.accept()
        run.engine.on_socket = lambda socket, now: socket.watch(readable=False, writable=False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        until(lambda: ("readable", stream) in run.engine.calls)
        before = time.thread_time_ns(), len(run.engine.calls)
        time.sleep(0.1)
        assert len(run.engine.calls) - before[1] <= 1
        run.do(lambda engine, now: stream.close())


def test_number_of_a_closed_descriptor_used_again_gets_no_stale_event():
    with Run() as run:
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.sendall(b"x")
        poller = run.runtime.poller
        fds = [ours.fileno() for ours, _ in pairs]

        def first_closes_second(socket, now):
            for fd in fds:
                poller.watch(fd, None, False, False)
                poller.watch(fd, "new", False, True)

        run.engine.on_socket = lambda socket, now: first_closes_second(socket, now) if socket != "new" else [
            poller.watch(fd, None, False, False) for fd in fds
        ]  # fmt: skip

        def watch(engine, now):
            for number, fd in enumerate(fds):
                poller.watch(fd, f"old{number}", True, False)

        run.do(watch)
        until(lambda: any(socket == "new" for _, socket in run.engine.calls))
        olds = [socket for _, socket in run.engine.calls if isinstance(socket, str) and socket.startswith("old")]
        assert len(olds) == 1
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


def test_deadline_is_kept_and_moves_with_the_engine():
    with Run() as run:
        started = run.do(lambda engine, now: setattr(engine, "deadline", now + 0.05) or now)
        until(lambda: any(name == "timeout" for name, _ in run.engine.calls))
        at = next(at for name, at in run.engine.calls if name == "timeout")
        assert 0.05 <= at - started < 1
        assert [name for name, _ in run.engine.calls][-1] == "flush"


def test_idle_runtime_does_not_wake():
    with Run() as run:
        time.sleep(0.02)
        run.do(lambda engine, now: setattr(engine, "looked", 0))
        time.sleep(0.1)
        assert run.engine.looked <= 2


def test_command_runs_on_the_engines_thread_and_is_flushed():
    with Run() as run:
        assert run.do(lambda engine, now: threading.current_thread()) is run.thread
        until(lambda: run.engine.calls and run.engine.calls[-1][0] == "flush")
    assert run.runtime.call(lambda engine, now: None) is False


def test_stop_stops_engine_and_closes_tunnel_and_is_idempotent():
    with Run() as run:
        run.runtime.stop()
        run.thread.join(5)
        run.runtime.stop()
    assert run.failure is None
    assert run.engine.calls[-1][0] == "stop"
    assert run.tunnel.closed == 1


def test_stop_before_run_makes_it_end_at_once():
    run = Run()
    run.runtime.stop()
    run.thread.start()
    run.thread.join(5)
    assert not run.thread.is_alive()
    assert run.tunnel.closed == 1


def test_lost_device_ends_the_run_with_a_fatal_event():
    with Run() as run:
        os.close(run.tunnel.outside)
        run.thread.join(5)
    assert isinstance(run.failure, TunnelClosed)
    assert [event.fatal for event in run.events if isinstance(event, EngineError)] == [True]
    assert run.tunnel.closed == 1


def test_device_that_cannot_be_made_is_raised_and_leaves_nothing_open():
    runtime = LiveRuntime(Config(), emit=lambda event: None, codec="pure", make_engine=FakeEngine)

    def fail(*arguments):
        raise PermissionError("no device")

    with pytest.raises(PermissionError):
        runtime.run(fail)
    assert runtime.call(lambda engine, now: None) is False
    with pytest.raises(ValueError):
        runtime.poller._wait.poll(0)


def test_defect_in_the_engine_costs_one_socket_not_the_run():
    with Run() as run:
        ours, theirs = socket.socketpair()

        class Stub:
            interest = True

            def watch(self, *, readable, writable):
                run.runtime.poller.watch(ours.fileno(), self, readable, writable)

        def fail(socket, now):
            raise KeyError("defect")

        run.engine.on_socket = fail
        theirs.sendall(b"x")
        run.do(lambda engine, now: Stub().watch(readable=True, writable=False))
        until(lambda: run.events)
        os.write(run.tunnel.outside, b"still here")
        until(lambda: ("packet", b"still here") in run.engine.calls)
        assert "defect" in run.events[0].message
        assert len(run.events) == 1
        ours.close()
        theirs.close()


def test_stalled_device_is_looked_at_less_and_less():
    with Run() as run:
        reads = []

        def stall(engine, now):
            engine.tunnel.stalled = True
            engine.on_tunnel_readable = lambda now: reads.append(now) or 0

        run.do(stall)
        os.write(run.tunnel.outside, b"x")
        time.sleep(0.2)
        assert 2 <= len(reads) <= 5
        run.engine.tunnel.stalled = False
        del run.engine.on_tunnel_readable
        until(lambda: ("packet", b"x") in run.engine.calls)


def test_signal_ends_the_run_cleanly():
    run = Run()
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    run.runtime.run(lambda *arguments: run.tunnel, on_ready=timer.start, stop_signals=(signal.SIGUSR1,))
    assert run.runtime.stopped_by == signal.SIGUSR1
    assert run.engine.calls[-1][0] == "stop"


def test_asyncio_works_on_the_engines_thread_for_who_asks():
    import asyncio

    with Run() as run:
        seen, tasks = [], []

        async def talk():
            reader, writer = await asyncio.open_connection(*server.getsockname())
            writer.write(b"hello")
            seen.append(await reader.read(5))
            await asyncio.sleep(0.01)
            seen.append(threading.current_thread())
            writer.close()

        async def never():
            try:
                await asyncio.sleep(3600)
            finally:
                seen.append("cancelled")

        def begin():
            loop = run.runtime.asyncio_loop
            assert run.runtime.asyncio_loop is loop
            tasks.extend((loop.create_task(talk()), loop.create_task(never())))

        with socket.create_server(("127.0.0.1", 0)) as server:
            run.runtime.call_soon_threadsafe(begin)
            peer, _ = server.accept()
            with peer:
                assert peer.recv(5) == b"hello"
                peer.sendall(b"world")
                until(lambda: seen == [b"world", run.thread])
    assert seen[2:] == ["cancelled"]


def test_many_runs_leave_no_descriptor_and_no_thread():
    def open_now():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with Run() as run:
        pass
    del run
    gc.collect()
    before = open_now()
    for number in range(100):
        with Run() as run:
            if number % 4 == 0:
                os.write(run.tunnel.outside, b"x")
            elif number % 4 == 1:
                os.close(run.tunnel.outside)
            elif number % 4 == 2:
                run.runtime.call(lambda engine, now: engine.dialer.open_udp(4, None).close())
    del run
    gc.collect()
    assert open_now() == before
