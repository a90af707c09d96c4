"""``netstack run``: serve a TUN device.

Responsible for: attaching to the device, or taking a descriptor, and serving it until a signal.
Refuses to know: addresses and routes of the device: whoever routes traffic into it sets them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import selectors
import signal
import socket
import struct
import sys

from netstack.cli.options import (
    add_engine_options,
    add_output_options,
    address_pair,
    event_output,
    host_network,
    make_configuration,
)
from netstack.cli.serving import (
    device_queue,
    make_tunnel,
    pcap_tracer,
    raise_descriptor_limit,
    reload_on_hangup,
    watch_network,
)
from netstack.config import Config
from netstack.core.errors import UsageError
from netstack.core.ports import Tunnel
from netstack.core.record import replace
from netstack.link import collision
from netstack.link.linux import TunDevice, bring_up, describe_tun, open_tun
from netstack.runtime.live import LiveRuntime

_SIOCGIFMTU = 0x8921

_DESCRIPTION = """\
Serve a TUN device: what is routed into it is filtered and carried on through this host's own sockets.

The device is made when it does not exist, and brought up. Addresses and routes are yours to set; the device may be
moved to another network namespace while it is served, and packets may have any source address. `ready` is printed
once packets are carried. SIGTERM ends it cleanly, SIGHUP reads the configuration and changed lists again."""

_EXAMPLES = """\
examples:
  netstack run --tun tun0 &                        make and serve tun0, then:
    ip address add 10.0.0.2/24 dev tun0; ip route add 203.0.113.0/24 dev tun0

  netstack run --tun tun0 --enforcement audit -v   carry everything, say what strict would refuse
  netstack run --fd 5 --dns 127.0.0.1:5354         a descriptor that the parent process opened"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser("run", help="serve a TUN device", description=_DESCRIPTION, epilog=_EXAMPLES)
    device = parser.add_argument_group("device").add_mutually_exclusive_group(required=True)
    device.add_argument("--tun", metavar="NAME", help="device to make or attach to")
    device.add_argument("--fd", metavar="N", type=int, help="inherited descriptor of an attached TUN device")
    parser.add_argument(
        "--tun-address", metavar="A[,A6]", type=address_pair,
        help="the engine's own addresses, which answer DNS and ping (default 10.0.0.1,fd00:6e65:7473::1)",
    )  # fmt: skip
    parser.add_argument(
        "--offload", choices=("auto", "off"), default="auto",
        help="auto: let the kernel hand over whole TCP super-segments where it can; off: a plain device",
    )  # fmt: skip
    add_engine_options(parser)
    add_output_options(parser)
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; the exit status."""
    if options.tun == "":
        raise UsageError("--tun: the name is empty")
    config = make_configuration(options)
    problem = collision.warning(config)
    if problem is not None:
        print(f"netstack: {problem}", file=sys.stderr)
    raise_descriptor_limit()
    with event_output(options) as emit, pcap_tracer(options.pcap) as tracer:
        runtime = LiveRuntime(config, emit=emit, codec=options.codec, network=host_network(config))
        device = _inherited(options) if options.fd is not None else _attached(options, config)
        if options.fd is None and options.mtu is None:
            config = runtime.config = _with_mtu_of(device.name, config)

        def tunnel(config: Config, stats: object, emit: object, runtime: LiveRuntime) -> Tunnel:
            return make_tunnel(device, config.tunnel.mtu, runtime, stats, emit, tracer)  # type: ignore[arg-type]

        def read_again() -> Config:
            return replace(make_configuration(options), tunnel=config.tunnel)

        def ready() -> None:
            reload_on_hangup(runtime, read_again)
            watch_network(runtime, config)
            _say_ready()

        runtime.run(tunnel, on_ready=ready, stop_signals=(signal.SIGTERM, signal.SIGINT))
        return 130 if runtime.stopped_by == signal.SIGINT else 0


def _say_ready() -> None:
    with contextlib.suppress(OSError):  # nobody has to listen
        print("ready", flush=True)


def _inherited(options: argparse.Namespace) -> TunDevice:
    try:
        os.fstat(options.fd)
    except (OSError, OverflowError):
        raise UsageError(f"--fd {options.fd}: no such descriptor is open") from None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(options.fd, selectors.EVENT_READ)
    except OSError:
        raise UsageError(f"--fd {options.fd}: this is a file, not a device that packets come from") from None
    device = describe_tun(options.fd)
    if device.offload and options.pcap:
        raise UsageError("--pcap: the descriptor's device has offloads on; open it without IFF_VNET_HDR")
    return device


def _attached(options: argparse.Namespace, config: Config) -> TunDevice:
    is_new = not _exists(options.tun)
    device = open_tun(options.tun, offload=options.offload == "auto" and not options.pcap)
    # Without the right to configure it (an existing device that its owner may attach to) it is served as it is.
    with contextlib.suppress(OSError):
        mtu = config.tunnel.mtu if is_new or options.mtu is not None else None
        bring_up(device.name, mtu=mtu, queue=device_queue(config) if is_new else None)
    return device


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _with_mtu_of(name: str, config: Config) -> Config:
    """The device's own MTU is what its packets go by."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, _SIOCGIFMTU, struct.pack("16s16x", os.fsencode(name)))
        mtu = struct.unpack_from("i", answer, 16)[0]
        if 576 <= mtu <= 65_535:
            return replace(config, tunnel=replace(config.tunnel, mtu=mtu))
    return config
