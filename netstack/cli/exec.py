"""``netstack exec -- CMD``: one program whose only way to the network is the engine.

Responsible for: serving the sandbox's device, passing signals and the exit status on.
Refuses to know: how the sandbox is made (`sandbox`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from netstack.cli.options import (
    add_engine_options,
    add_output_options,
    event_output,
    host_network,
    make_configuration,
)
from netstack.cli.sandbox import Sandbox
from netstack.cli.serving import make_tunnel, pcap_tracer, raise_descriptor_limit, watch_network
from netstack.config import Config
from netstack.core.errors import TunnelClosed, UsageError
from netstack.core.ports import Tunnel
from netstack.link.collision import without_collision
from netstack.runtime.live import LiveRuntime

_DESCRIPTION = """\
Run a program in a network namespace of its own whose only way out is the engine. Nothing on this host is changed,
and no root is needed where the system allows user namespaces.

With strict enforcement, the default, the program may connect to addresses that it got from DNS, and to nothing else: a
hard-coded address is refused at once. Its resolver is the engine, its files and terminal are yours. The exit status
is the program's, or 128 + the signal that ended it; 126 and 127 when it cannot be started."""

_EXAMPLES = """\
examples:
  netstack exec -- curl https://example.com        resolved, so it works
  netstack exec -- curl https://192.0.2.1          never resolved, so it is refused
  netstack exec -v -- python app.py                with every verdict on standard error
  netstack exec --enforcement audit --events flows.ndjson -- make
                                                   everything works, what strict would refuse is on record
  netstack exec --pcap traffic.pcapng -- wget -q https://example.com"""

# A terminal sends these to its whole foreground process group, so the program has had them already.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, *_FROM_TERMINAL)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "exec",
        help="run one program behind the firewall",
        usage="netstack exec [options] [--] CMD [ARG...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    add_engine_options(parser)
    add_output_options(parser)
    parser.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER, help="the program and its arguments")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Run the program; its exit status."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UsageError("no program given: netstack exec [options] -- CMD [ARG...]")
    config = without_collision(make_configuration(options))
    with event_output(options) as emit, pcap_tracer(options.pcap) as tracer:
        network = host_network(config)
        with Sandbox(config, offload=tracer is None) as sandbox:
            sandbox.start(command)  # before the limit is raised: the program keeps the limits it was given
            raise_descriptor_limit()
            # Imports the engine, while the sandbox is being made by a process that did not.
            runtime = LiveRuntime(config, emit=emit, codec=options.codec, network=network)

            def tunnel(config: Config, stats: object, emit: object, runtime: LiveRuntime) -> Tunnel:
                device = sandbox.take_device()
                return make_tunnel(device, config.tunnel.mtu, runtime, stats, emit, tracer)  # type: ignore[arg-type]

            try:
                runtime.run(tunnel, on_ready=lambda: _let_go(runtime, sandbox, config))
            except TunnelClosed:
                if not sandbox.has_ended(1.0):  # the device goes with the program; alone, it is trouble
                    raise
            return sandbox.wait()


def _let_go(runtime: LiveRuntime, sandbox: Sandbox, config: Config) -> None:
    """Packets are carried: watch the program and the network, and let it start."""
    loop = runtime.loop
    watch_network(runtime, config)
    for number in _FORWARDED:
        loop.add_signal_handler(number, _pass_on, number, sandbox)
    loop.add_reader(sandbox.end_descriptor, runtime.stop)
    sandbox.go()


def _pass_on(number: int, sandbox: Sandbox) -> None:
    if number in _FROM_TERMINAL and _is_foreground():
        return
    sandbox.signal(number)


def _is_foreground() -> bool:
    for stream in (sys.__stdin__, sys.__stderr__):
        try:
            if stream is not None and os.tcgetpgrp(stream.fileno()) == os.getpgrp():
                return True
        except (OSError, ValueError):
            continue
    return False
