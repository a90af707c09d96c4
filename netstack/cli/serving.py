"""What `run` and `exec` share: a device, its tunnel, and a process ready to hold many sockets.

Responsible for: making the `Tunnel` that the options ask for; raising the descriptor limit.
Refuses to know: where the device is and who configures it.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from netstack.cli.options import host_network
from netstack.cli.output import Output
from netstack.config import Config
from netstack.core.errors import NetstackError
from netstack.core.events import EngineError, EventSink
from netstack.core.packet import Octets
from netstack.core.ports import Tracer, Tunnel
from netstack.core.stats import Stats
from netstack.link.fd import FdTunnel
from netstack.link.linux import TunDevice
from netstack.runtime.live import LiveRuntime

if TYPE_CHECKING:  # capture files are for --pcap: whoever writes none does not wait for their import
    from netstack.link.pcap import CaptureWriter


def raise_descriptor_limit() -> None:
    """Each flow holds a socket: take as many as the system gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def device_queue(config: Config) -> int:
    """Packets that a device of ours queues: TCP windows fill `tunnel.queue` of them, a burst of datagrams the rest."""
    return 2 * config.tunnel.queue


def make_tunnel(
    device: TunDevice, mtu: int, runtime: LiveRuntime, stats: Stats, emit: EventSink, tracer: Tracer | None
) -> Tunnel:
    """The tunnel over an attached device; with a tracer every packet passes it."""
    tunnel = FdTunnel(device.fd, runtime.codec, mtu, offload=device.offload, stats=stats, emit=emit)
    if tracer is None:
        return tunnel
    from netstack.link.decorators import TracingTunnel

    return TracingTunnel(tunnel, runtime.codec, tracer, stats=stats, emit=emit)


def reload_on_hangup(runtime: LiveRuntime, read: Callable[[], Config]) -> None:
    """SIGHUP takes over what `read` returns, read on another thread; call it once the loop runs.

    What cannot be used is said, and everything stays as it was.
    """

    def work() -> None:
        try:
            config = read()
            runtime.reconfigure(config)
        except NetstackError as problem:
            message = f"{problem} (the settings of before stay in force)"
            runtime.emit(EngineError(time.monotonic(), "config", message))
        else:
            network = host_network(config)
            runtime.change(lambda changes, now: changes.network_told(network, now))

    runtime.loop.add_signal_handler(
        signal.SIGHUP, lambda: threading.Thread(target=work, name="reload", daemon=True).start()
    )


def watch_network(runtime: LiveRuntime, config: Config) -> None:
    """Notice when this host is on another network, for as long as the process lives; call it once the loop runs."""
    from netstack.runtime.route_watch import RouteWatch, destinations_of

    def changed() -> None:
        network = host_network(config)
        runtime.change(lambda changes, now: changes.network_changed(network, now))
        if config.captive.watch:
            runtime.look_for_portal()

    if config.captive.watch:
        runtime.look_for_portal()
    RouteWatch(runtime.poller, runtime.loop.call_later, changed, destinations_of(config)).open()


class _PcapTracer:
    """A `Tracer` that writes packets as they pass, stamped with the time of day."""

    def __init__(self, writer: CaptureWriter) -> None:
        self._write = writer.write

    def packet_in(self, packet: Octets, now: float) -> None:
        """From the app."""
        self._write(packet, time.time_ns())

    def packet_out(self, packet: Octets, now: float) -> None:
        """To the app."""
        self._write(packet, time.time_ns())


@contextlib.contextmanager
def pcap_tracer(path: str | None) -> Iterator[Tracer | None]:
    """The writer that --pcap asks for, None without. Raises NetstackError when the file cannot be made."""
    if path is None:
        yield None
        return
    from netstack.link.pcapng import PcapngWriter

    try:
        file = Output.create(path)
    except OSError as problem:
        raise NetstackError(f"{path}: {problem.strerror}") from problem
    with file:
        yield _PcapTracer(PcapngWriter(cast(BinaryIO, file), live=True))
