"""Options that several commands share, and the configuration and event sinks that they make.

Responsible for: the arguments, checking them, `Config`, printing and writing events.
Refuses to know: which command asks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from netstack.cli.output import Output
from netstack.config import ENFORCEMENTS, STRATEGIES, Config, load_config, parse_server
from netstack.core.address import format_address, parse_address
from netstack.core.errors import ConfigError, NetstackError
from netstack.core.events import EngineError, Event, EventSink
from netstack.core.network import Network
from netstack.core.record import replace

RESOLV_CONF = "/etc/resolv.conf"
IF_INET6 = "/proc/net/if_inet6"


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--dns, --enforcement, --mtu, --codec, --config."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--dns", metavar="ADDR[:PORT]", action="append", type=_server,
        help="resolver to ask, may be given again; default: those of /etc/resolv.conf",
    )  # fmt: skip
    group.add_argument(
        "--enforcement", choices=ENFORCEMENTS,
        help="strict: only what was resolved is reachable (default); audit: report only; off: carry everything",
    )  # fmt: skip
    group.add_argument("--mtu", type=_mtu, metavar="N", help="octets of the largest packet (default 1500)")
    group.add_argument(
        "--codec", choices=("auto", "pure", "native"), default="auto",
        help="packet codec; auto takes the native one when it was built",
    )  # fmt: skip
    group.add_argument("--config", metavar="FILE", help="TOML file with any setting; options here override it")
    add_dns_options(parser)


def add_dns_options(parser: argparse.ArgumentParser) -> None:
    """--upstream and everything else about the resolver."""
    group = parser.add_argument_group("resolver")
    group.add_argument(
        "--upstream", metavar="URL", action="append", type=_upstream,
        help="resolver to ask: udp://, tcp://, tls://, https://, quic:// or sdns://; may be given again",
    )  # fmt: skip
    group.add_argument("--strategy", choices=STRATEGIES, help="whom to ask of several upstreams (default failover)")
    group.add_argument(
        "--bootstrap", metavar="ADDR[:PORT]", action="append", type=_server,
        help="plain resolver for the names of upstreams; may be given again",
    )  # fmt: skip
    group.add_argument("--ca-file", metavar="FILE", help="PEM file of trust anchors, in place of the system's")
    group.add_argument(
        "--block", metavar="FILE", action="append",
        help="names to block: hosts, domains or Adblock-style list, or a compiled one; may be given again",
    )  # fmt: skip
    group.add_argument(
        "--allow", metavar="FILE", action="append", help="names that no list blocks, in the same formats"
    )
    group.add_argument("--cache", choices=("on", "off"), help="keep answers for their TTL (default: only in `dns`)")
    group.add_argument(
        "--lockdown", action="store_true", help="begin in the blocking state: nothing passes but the network check"
    )
    group.add_argument(
        "--network-check", choices=("off", "on", "leak-free"),
        help="what becomes of the system's network check meanwhile (default off); leak-free answers it here",
    )  # fmt: skip


def with_dns_options(config: Config, options: argparse.Namespace, *, alone: bool = False) -> Config:
    """`config` with what the options of `add_dns_options` say. `alone`: there is no tunnel."""
    dns: dict[str, Any] = {}
    if options.upstream:
        dns["upstreams"] = tuple(options.upstream)
    elif getattr(options, "dns", None):  # --dns goes over the file's upstreams
        dns["upstreams"] = ()
    if options.strategy:
        dns["strategy"] = options.strategy
    if options.bootstrap:
        dns["bootstrap"] = tuple(options.bootstrap)
    if options.ca_file:
        dns["ca_file"] = options.ca_file
    lists: dict[str, Any] = {}
    if options.block:
        lists["block"] = (*config.filter.block, *options.block)
    if options.allow:
        lists["allow"] = (*config.filter.allow, *options.allow)
    answers = {"strip_h3": "off"} if alone and config.answers.strip_h3 == "auto" else {}  # nobody blocks QUIC here
    lockdown: dict[str, Any] = {"blocking": True} if options.lockdown else {}
    if options.network_check:
        leak_free = options.network_check == "leak-free"
        lockdown |= {"network_check": options.network_check != "off", "leak_free": leak_free}
    cache = options.cache or ("on" if alone and config.cache.use == "auto" else config.cache.use)
    return replace(
        config,
        dns=replace(config.dns, **dns),
        filter=replace(config.filter, **lists),
        cache=replace(config.cache, use=cache),
        answers=replace(config.answers, **answers),
        lockdown=replace(config.lockdown, **lockdown),
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--events, --pcap, -v."""
    group = parser.add_argument_group("output")
    group.add_argument("--events", metavar="FILE", help="write every event as a JSON line (- for standard output)")
    group.add_argument("--pcap", metavar="FILE", help="write every packet to a pcapng file (switches offloads off)")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="print every verdict and query on standard error as it happens"
    )


def _server(text: str) -> str:
    try:
        parse_server(text)
    except ConfigError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return text


def _upstream(text: str) -> str:
    from netstack.upstream.url import parse_upstream  # only where there is one

    try:
        parse_upstream(text)
    except ConfigError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return text


def _mtu(text: str) -> int:
    if not text.isdigit() or not 576 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 576 to 65535")
    return int(text)


def address_pair(text: str) -> tuple[str, str]:
    """``A``, ``A,A6`` or ``A6`` as an IPv4 and an IPv6 address, "" for the one not given. For argparse."""
    found = {4: "", 6: ""}
    for part in text.split(","):
        try:
            address = parse_address(part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not an IP address") from None
        version = 4 if len(address) == 4 else 6
        if found[version]:
            raise argparse.ArgumentTypeError(f"{text!r}: one IPv4 and one IPv6 address at most")
        found[version] = format_address(address)
    return found[4], found[6]


def load_configuration(path: str | None) -> Config:
    """The file's settings, the defaults without one. Raises ConfigError naming the file and the key."""
    if not path:
        return Config()
    from netstack.upstream.assemble import check

    config = load_config(path)
    try:
        check(config)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None
    return config


def make_configuration(options: argparse.Namespace, *, servers: tuple[str, ...] | None = None) -> Config:
    """The configuration that the options describe, over the file's. Raises ConfigError.

    `servers` is what stands in when neither names a resolver; None for the host's own.
    """
    config = load_configuration(options.config)
    dns = tuple(options.dns or ())
    if not dns:
        dns = config.dns.servers if config.dns.servers != Config().dns.servers else (servers or host_resolvers())
    tunnel: dict[str, Any] = {}
    if options.mtu is not None:
        tunnel["mtu"] = options.mtu
    address, address6 = getattr(options, "tun_address", None) or ("", "")
    if address:
        tunnel["address"] = address
    if address6:
        tunnel["address6"] = address6
    policy = {"enforcement": options.enforcement} if options.enforcement else {}
    config = with_dns_options(config, options)
    return replace(
        config,
        dns=replace(config.dns, servers=dns),
        tunnel=replace(config.tunnel, **tunnel),
        policy=replace(config.policy, **policy),
    )


def host_network(config: Config, *, family: bool = True) -> Network:
    """The network as this host has it: resolvers, unless `config` names them, and with `family` whether it has IPv6."""
    servers = () if config.dns.network_servers else _nameservers(RESOLV_CONF)
    return Network(servers=servers, has_ipv6=has_ipv6() if family else None)


def has_ipv6(path: str = IF_INET6) -> bool | None:
    """Whether any interface has an IPv6 address that leads beyond its link; None when the host does not say."""
    try:
        with open(path, encoding="ascii") as file:
            lines = file.readlines()
    except OSError:
        return None if not os.path.exists(os.path.dirname(path)) else False  # no such file: IPv6 is switched off
    addresses = [line.split()[0] for line in lines if line.split()]
    return any(not address.startswith("fe8") and address != f"{1:032x}" for address in addresses)


def host_resolvers(path: str = RESOLV_CONF) -> tuple[str, ...]:
    """The nameservers of resolv.conf(5); the local host when it names none, as resolv.conf(5) has it."""
    return _nameservers(path) or ("127.0.0.1",)


def _nameservers(path: str) -> tuple[str, ...]:
    servers = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    if "%" not in words[1]:  # link-local needs an interface; no such server here
                        servers.append(format_address(parse_address(words[1])))
    return tuple(servers)


class Writable(Protocol):
    """What an `EventOutput` writes to."""

    def write(self, text: str, /) -> object:
        """Append a line."""

    def flush(self) -> object:
        """Hand it on."""


class EventOutput:
    """An event sink for people (standard error) and for programs (JSON lines)."""

    def __init__(self, *, verbose: bool, lines: Writable | None = None, words: Writable | None = None) -> None:
        self._verbose = verbose
        self._lines = lines
        self._words: Writable = words if words is not None else sys.stderr
        self._said: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take an event. A reader that went away ends that output, not the traffic."""
        if self._lines is not None:
            self._lines = self._attempt(self._lines, lambda: _json_line(event))
        if self._verbose or (isinstance(event, EngineError) and not event.fatal and self._is_due(event)):
            self._attempt(self._words, lambda: event.line() + "\n")

    def _is_due(self, event: EngineError) -> bool:
        """Without --verbose an error is said once: a network that is away gives thousands. Not so what somebody asked
        for a moment ago, and may ask for again."""
        line = event.line()
        if event.where in ("config", "list"):
            return True
        if line in self._said or len(self._said) >= 1000:
            return False
        self._said.add(line)
        return True

    @staticmethod
    def _attempt(file: Writable, text: Callable[[], str]) -> Writable | None:
        try:
            file.write(text())
            file.flush()
        except (OSError, ValueError):
            return None
        return file


def _json_line(event: Event) -> str:
    import json  # most runs write no events

    return json.dumps({**event.as_dict(), "time": round(time.time(), 6)}, default=str) + "\n"


@contextlib.contextmanager
def event_output(options: argparse.Namespace) -> Iterator[EventSink]:
    """The sink that --events and -v ask for. Raises NetstackError when the file cannot be made."""
    if not options.events:
        yield EventOutput(verbose=options.verbose)
        return
    try:
        file = _standard_output() if options.events == "-" else Output.create(options.events)
    except OSError as problem:
        raise NetstackError(f"{options.events}: {problem.strerror}") from problem
    with contextlib.closing(file):
        yield EventOutput(verbose=options.verbose, lines=file)


def _standard_output() -> Output:
    sys.stdout.flush()
    return Output(sys.stdout.fileno(), "standard output", owned=False)
