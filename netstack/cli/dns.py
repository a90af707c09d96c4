"""``netstack dns``: the resolver without a tunnel, on addresses of this host; ``netstack dns compile``.

Responsible for: its options, the query log, counters, signals.
Refuses to know: DNS (`dns/`), upstreams (`upstream/`), how it is served (`runtime/dns_server.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

from netstack.cli.options import (
    EventOutput,
    add_dns_options,
    host_network,
    host_resolvers,
    load_configuration,
    with_dns_options,
)
from netstack.cli.output import Output
from netstack.cli.serving import raise_descriptor_limit
from netstack.config import Config, parse_network, parse_server
from netstack.core.errors import ConfigError, NetstackError, UsageError
from netstack.core.events import EventSink
from netstack.core.network import Network
from netstack.core.record import replace
from netstack.runtime.dns_server import DnsServer

_DESCRIPTION = """\
Serve DNS on loopback, over UDP and TCP: the resolver that `exec` and `run` have inside, without a tunnel.

`ready` is printed as soon as it listens, whatever the upstreams do. SIGTERM ends it cleanly, SIGUSR1 prints its
counters on standard error, SIGUSR2 empties the cache, SIGHUP reads the configuration and changed lists again."""

_COMPILING = """\
Compile lists of names into one file that `--block` and `--allow` map into memory instead of reading it. The file is
written whole or not at all and may replace one that is in use; what uses it reads it again on SIGHUP."""

_EXAMPLES = """\
examples:
  netstack dns --upstream 9.9.9.9                          127.0.0.1:5354 forwards to one server
  netstack dns --listen '[::1]:53' --log queries.ndjson    one JSON line for each query
  netstack dns --block ads.txt --allow mine.txt            without the names of a list
  netstack dns compile ads.txt trackers.txt -o names.nsl   compiled once, mapped at the next start
  netstack dns --listen 192.0.2.7:53 --allow-peers 192.0.2.0/24"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser("dns", help="serve filtered DNS", description=_DESCRIPTION, epilog=_EXAMPLES)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--listen", metavar="ADDR:PORT", action="append",
        help="where to listen, may be given again (default 127.0.0.1:5354)",
    )  # fmt: skip
    group.add_argument(
        "--allow-peers", metavar="CIDR,...", action="append",
        help="networks that may ask; needed to listen on anything but loopback",
    )  # fmt: skip
    add_dns_options(parser)
    parser.add_argument("--config", metavar="FILE", help="TOML file with any setting; options here override it")
    output = parser.add_argument_group("output")
    output.add_argument("--log", metavar="FILE", help="write every query as a JSON line (- for standard output)")
    output.add_argument(
        "-v", "--verbose", action="store_true", help="print every query on standard error as it is answered"
    )
    parser.set_defaults(function=run)
    others = parser.add_subparsers(title="lists", metavar="", parser_class=type(parser))
    compiling = others.add_parser("compile", help="compile lists into one file", description=_COMPILING)
    compiling.add_argument("lists", metavar="LIST", nargs="+", help="hosts, domains or Adblock-style text")
    compiling.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write or replace")
    compiling.set_defaults(function=compile_lists)


def compile_lists(options: argparse.Namespace) -> int:
    """Write one compiled list; what was left out is said."""
    from netstack.dns.list_compile import compile_files, write_list

    data, text = compile_files(options.lists)
    write_list(data, options.output)
    skipped = f", {text.skipped} lines left out" if text.skipped else ""
    print(f"{options.output}: {len(text.names)} names, {len(data)} octets{skipped}")
    for line in text.shown:
        print(f"  left out: {line}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; the exit status."""
    config = _configuration(options)
    raise_descriptor_limit()
    with _query_log(options) as (emit, log):
        logged = log is not None or options.verbose
        server = DnsServer(config, emit=emit, logged=logged, read_network=_here, watch_routes=True)
        server.run(
            on_ready=_say_ready,
            stop_signals=(signal.SIGTERM, signal.SIGINT),
            handlers={
                signal.SIGUSR1: lambda: _say_counters(server),
                signal.SIGUSR2: lambda: _flush(server),
                signal.SIGHUP: lambda: server.reload(lambda: _configuration(options)),
            },
        )
        if log is not None:
            log.write(json.dumps({"event": "counters", **counters(server)}) + "\n")
        return 130 if server.stopped_by == signal.SIGINT else 0


def _flush(server: DnsServer) -> None:
    server.changes.flush_cache()


def _here(config: Config) -> Network:
    network = host_network(config, family=False)  # whether the clients have IPv6 is not known here
    return replace(network, servers=_others(network.servers, config.server.listen))


def _others(servers: tuple[str, ...], listen: tuple[str, ...]) -> tuple[str, ...]:
    """`servers` without this one: a host whose resolver it is names it in resolv.conf, and a query would go round."""
    own = set(map(parse_server, listen))
    return tuple(server for server in servers if parse_server(server) not in own)


def counters(server: DnsServer) -> dict[str, Any]:
    """What was counted, without what a resolver never counts."""
    shown = server.stats.as_dict()
    return {name: value for name, value in shown.items() if name.startswith("dns_") or name in ("storms", "drops")}


def _configuration(options: argparse.Namespace) -> Config:
    config = load_configuration(options.config)
    config = with_dns_options(config, options, alone=True)
    server: dict[str, Any] = {}
    if options.listen:
        server["listen"] = tuple(map(_listen, options.listen))
    if options.allow_peers:
        server["allow_peers"] = tuple(_network(each) for text in options.allow_peers for each in text.split(","))
    changed = replace(config.server, **server) if server else config.server
    if options.listen:
        _need_peers(changed.listen, changed.allow_peers)
    config = replace(config, server=changed)
    _refuse_loop(config)
    if config.dns.upstreams or config.dns.cd_uid or config.dns.servers != Config().dns.servers:
        return config
    servers = _others(host_resolvers(), changed.listen)
    if not servers:
        raise ConfigError("this host's resolver is the one to be served: say whom to ask with --upstream")
    return replace(config, dns=replace(config.dns, servers=servers))


def _refuse_loop(config: Config) -> None:
    """Raise ConfigError when a plain upstream or bootstrap server is this server: a query would never end."""
    from netstack.upstream.url import parse_upstream

    own = set(map(parse_server, config.server.listen))
    groups = [config.dns.upstreams, *(group.upstreams for group in config.split)]
    asked = [(text, parse_upstream(text)) for group in groups for text in group]
    plain = [(text, (url.host, url.port)) for text, url in asked if url.scheme in ("udp", "tcp")]
    plain += [(text, parse_server(text)) for text in config.dns.bootstrap]
    for text, server in plain:
        if server in own:
            raise ConfigError(f"upstream {text!r}: that is where this server listens, so queries would go round")


def _listen(text: str) -> str:
    try:
        host, port = parse_server(text, 5354)
    except ConfigError as problem:
        raise UsageError(f"--listen: {problem}") from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _network(text: str) -> str:
    try:
        return str(parse_network(text.strip()))
    except ConfigError as problem:
        raise UsageError(f"--allow-peers: {problem}") from None


def _need_peers(listen: tuple[str, ...], peers: tuple[str, ...]) -> None:
    """What the configuration would refuse, told as a mistake on the command line."""
    from netstack.config import ServerConfig, check_server

    try:
        check_server(ServerConfig(listen=listen, allow_peers=peers))
    except ConfigError as problem:
        raise UsageError(str(problem).replace("server.listen", "--listen").replace("server.", "")) from None


@contextlib.contextmanager
def _query_log(options: argparse.Namespace) -> Iterator[tuple[EventSink, Output | None]]:
    """The sink and, with --log, its file. Raises NetstackError when the file cannot be made."""
    if not options.log:
        yield EventOutput(verbose=options.verbose), None
        return
    try:
        if options.log == "-":
            sys.stdout.flush()
            file = Output(sys.stdout.fileno(), "standard output", owned=False)
        else:
            file = Output.create(options.log)
    except OSError as problem:
        raise NetstackError(f"--log {options.log}: {problem.strerror}") from problem
    with contextlib.closing(file):
        yield EventOutput(verbose=options.verbose, lines=file), file


def _say_ready() -> None:
    with contextlib.suppress(OSError):  # nobody has to listen
        print("ready", flush=True)


def _say_counters(server: DnsServer) -> None:
    with contextlib.suppress(OSError):
        print(json.dumps(counters(server)), file=sys.stderr, flush=True)
