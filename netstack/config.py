"""Every setting of the engine, in place: what it means, its unit, its default and why.

Responsible for: frozen, keyword-only records; reading them from TOML; errors that name the key.
Refuses to know: how a setting takes effect.

``load_config(path)`` reads a TOML file whose tables are the fields of `Config`; ``profile = "seed"``
at its top starts from the original netstack's values instead of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netstack.core.address import parse_address
from netstack.core.errors import ConfigError
from netstack.core.record import field, fields, is_record, recordclass
from netstack.core.servers import parse_network as parse_network
from netstack.core.servers import parse_server as parse_server
from netstack.core.tables import build, merged

if TYPE_CHECKING:
    from pathlib import Path

ENFORCEMENTS = ("off", "audit", "strict")
MODES = ("firewall", "dns-only")
REFUSALS = ("reset", "unreachable", "drop")
LAN_POLICIES = ("allow", "block", "resolve-only")
QUIC_POLICIES = ("block", "allow")
STRATEGIES = ("failover", "parallel", "fastest")
_LOOPBACK6 = bytes(15) + b"\1"
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "answers": {
        "hints": ("track", "strip"),
        "strip_h3": ("auto", "on", "off"),
        "aaaa": ("auto", "pass", "filter"),
        "rebind": ("auto", "off", "remove", "refuse"),
        "client_subnet": ("pass", "remove"),
    },
    "dns": {"strategy": STRATEGIES, "cd_protocol": ("doh", "dot", "doq")},
    "filter": {
        "block_action": ("nxdomain", "refused", "nodata", "sinkhole", "drop"),
        "bypass": ("auto", "on", "off"),
        "app_late": ("unknown", "allow", "nxdomain", "refused", "nodata", "sinkhole", "drop"),
        "storm_action": ("", "nxdomain", "refused", "nodata", "sinkhole", "drop"),
    },
    "cache": {"use": ("auto", "on", "off")},
}

_MAY_BE_ZERO = (
    "keepalive", "linger", "delayed_ack", "stale", "prefetch_hits", "ttl_min", "ttl_max", "limit", "storm", "app_wait",
)  # fmt: skip

APPLE_NAMES = ("captive.apple.com", "netcts.cdn-apple.com")
ANDROID_NAMES = ("connectivitycheck.gstatic.com", "connectivitycheck.android.com", "clients3.google.com")
FIREFOX_NAMES = ("detectportal.firefox.com",)
OTHER_NAMES = ("www.msftconnecttest.com", "nmcheck.gnome.org")


@recordclass(frozen=True, kw_only=True)
class TunnelConfig:
    """The packet device."""

    address: str = "10.0.0.1"
    """Gateway address, also the DNS server that the device is told. Only this exact address is local."""
    address6: str = "fd00:6e65:7473::1"
    """The same for IPv6 (a unique local address); empty for none."""
    device_address: str = "10.0.0.2"
    """The device's own address in the tunnel (informative; packets may have any source)."""
    mtu: int = 1500
    """Octets of the largest IP packet, 576..65535 (1280 is the least for IPv6)."""
    batch: int = 256
    """Packets read at a time at most: the unit of all per-batch work. Memory that no batch fills is never touched."""
    queue: int = 500
    """Packets that the device queues towards us (Linux TUN: half of txqueuelen); windows are kept below it."""


@recordclass(frozen=True, kw_only=True)
class TcpConfig:
    """The terminating TCP towards the app."""

    window: int = 65_536
    """Initial receive window in octets."""
    window_max: int = 524_288
    """The window grows up to this while a flow moves data, below what the device can queue. Three times as much at an
    MTU near 65,535, where it would be 8 packets."""
    send_buffer: int = 262_144
    """Octets of upstream data held for one flow until the app acknowledges them; three times as much at such an MTU."""
    initial_cwnd: int = 10
    """Segments (RFC 6928)."""
    rto_initial: float = 1.0
    """Seconds (RFC 6298)."""
    rto_min: float = 0.2
    """Seconds; RFC 6298 says 1, every host of today uses 0.2."""
    rto_max: float = 60.0
    """Seconds."""
    synack_retries: int = 5
    """SYN|ACK retransmissions before the flow is given up."""
    retries: int = 10
    """Data retransmissions before the flow is given up."""
    time_wait: float = 10.0
    """Seconds in TIME-WAIT. Both ends of this hop are on one device, so no 2 MSL of 4 minutes."""
    keepalive: float = 7200.0
    """Idle seconds before the app is probed (RFC 9293 3.8.4); 0 for never."""
    delayed_ack: float = 0.04
    """Seconds that an ACK may wait for a second segment; data that pushes is acknowledged per batch."""
    idle_timeout: float = 7440.0
    """Seconds without a packet before an established flow is closed (RFC 5382: at least 2 h 4 min)."""
    dial_timeout: float = 20.0
    """Seconds until an upstream that does not answer counts as unreachable."""
    dns_idle_timeout: float = 10.0
    """Idle seconds of a DNS connection to the engine (RFC 7766 6.2.3)."""
    half_closed_timeout: float = 240.0
    """Seconds that a half-closed flow may stay without a packet."""
    on_dial_timeout: str = "unreachable"
    """How a timed-out dial is shown: reset, unreachable or drop."""


@recordclass(frozen=True, kw_only=True)
class UdpConfig:
    """UDP sessions (RFC 4787)."""

    timeout: float = 120.0
    """Idle seconds; traffic in both directions refreshes."""
    dns_timeout: float = 10.0
    """Idle seconds of a session to port 53."""
    stun_timeout: float = 300.0
    """Idle seconds of a session that carried STUN (calls on hold)."""


@recordclass(frozen=True, kw_only=True)
class DnsConfig:
    """The DNS bridge."""

    servers: tuple[str, ...] = ("127.0.0.1:5354",)
    """Upstream addresses, ADDR or ADDR:PORT or [ADDR6]:PORT, tried in order."""
    timeout: float = 5.0
    """Seconds for a query in all; then SERVFAIL."""
    udp_size: int = 1232
    """Largest UDP answer whatever the client's EDNS says (DNS flag day 2020)."""
    ports: tuple[int, ...] = (53,)
    """Destination ports whose datagrams and connections are looked at as DNS."""
    upstreams: tuple[str, ...] = ()
    """Upstreams instead of `servers`, as URLs: udp://ADDR, tcp://ADDR, tls://NAME, https://NAME/PATH, quic://NAME or an
    sdns:// stamp. tls://ADDR#NAME asks an address and verifies a name."""
    cd_uid: str = ""
    """Control D's resolver id: its upstream is asked before all others."""
    cd_protocol: str = "doh"
    """doh, dot or doq, for `cd_uid`."""
    cd_client: str = ""
    """What the device is called in Control D's statistics."""
    cd_hostname: str = ""
    """The device's host name as Control D is told."""
    strategy: str = "failover"
    """failover (in the order given), parallel (all at once, the first answer counts) or fastest."""
    bootstrap: tuple[str, ...] = ()
    """Plain DNS servers, ADDR or ADDR:PORT, that resolve the names of upstreams. The system's resolver never does."""
    ca_file: str = ""
    """PEM file of the trust anchors for upstreams; empty for the system's."""
    idle: float = 10.0
    """Seconds until an unused connection to an upstream is closed."""
    padding: bool = False
    """Fill encrypted queries up to multiples of 128 octets (RFC 8467)."""
    network_servers: tuple[str, ...] = ()
    """The network's own resolvers (DHCP's), ADDR or ADDR:PORT: asked for names of a network check or captive portal and
    for the NAT64 prefix, nothing else. What the host says of a network goes over this; commands read resolv.conf."""


@recordclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which names are not resolved. Rules come first, then allow lists, then block lists."""

    block: tuple[str, ...] = ()
    """Files of names to block: hosts, domains or Adblock-style text, or compiled by `netstack dns compile`."""
    allow: tuple[str, ...] = ()
    """Files of names that are never blocked by a list, in the same formats."""
    block_action: str = "nxdomain"
    """How a listed name is answered: nxdomain, refused, nodata, sinkhole or drop (not at all)."""
    block_ttl: int = 10
    """Seconds that an answer made up here may be kept, so that unblocking is seen soon."""
    sinkhole: tuple[str, ...] = ("0.0.0.0", "::")
    """The addresses of the sinkhole."""
    app_wait: float = 1.0
    """Seconds that a query waits for the host to say whose it is, when a rule wants to know; 0 for not at all.
    At most half of `dns.timeout`."""
    app_late: str = "unknown"
    """What a query gets whose app is not known in time: unknown (the rules decide, as for `?`), allow, nxdomain,
    refused, nodata, sinkhole or drop. The host's answer counts for the next query of that flow."""
    postpone: float = 2.0
    """Seconds that a postponed query is held before it is asked; apps wait 5. At most four fifths of
    `dns.timeout`."""
    bypass: str = "auto"
    """Names that lead around the resolver (resolver.arpa, the canary of browsers, relays) are answered as their makers
    ask: on, off, or auto, which is on as soon as anything else is filtered."""
    storm: int = 30
    """Refusals of one name within 10 s that make a storm, as of an app that tries again and again; 0 for never."""
    storm_ttl: int = 60
    """In a storm `block_ttl` doubles every 10 s, up to this many seconds: who keeps answers is quiet for longer."""
    storm_action: str = ""
    """What a listed name gets in a storm instead of `block_action`: `drop` makes apps wait for their resolver's time
    limit; empty for the same as ever."""
    doh_hosts: str = ""
    """Known hosts of encrypted DNS to block: `built-in`, or a file of names; empty for none."""


@recordclass(frozen=True, kw_only=True)
class RuleConfig:
    """Rules about queries, in order: the first that matches decides. A condition that is empty always holds."""

    action: str = "allow"
    """allow, nxdomain, refused, nodata, sinkhole, drop, postpone or rewrite."""
    names: tuple[str, ...] = ()
    """`example.com` is the name and all below it, `=example.com` the name alone, `*.ads.*` with wildcards the whole
    name, `/.../` a regular expression found anywhere in it."""
    types: tuple[str, ...] = ()
    """Types such as AAAA or TYPE65."""
    apps: tuple[str, ...] = ()
    """Apps as the host names them; `?` for an unknown one."""
    networks: tuple[str, ...] = ()
    """Networks as the host names them."""
    servers: tuple[str, ...] = ()
    """Addresses that the app believes to ask."""
    schedule: tuple[str, ...] = ()
    """Times such as `mon-fri 08:00-16:30` or `22:00-06:00`, in local time."""
    match: str = "all"
    """all: names and apps must both match; any: one of them is enough."""
    to: tuple[str, ...] = ()
    """For rewrite: addresses, or one name."""
    storm: str = ""
    """What a query gets in a storm instead of `action`, as `filter.storm_action`; empty for the same as ever."""
    label: str = ""
    """What events call the rule; `rule N` otherwise."""


@recordclass(frozen=True, kw_only=True)
class SplitConfig:
    """Split DNS: names that other upstreams know. The longest suffix wins; their private addresses are no rebinding."""

    upstreams: tuple[str, ...] = ()
    """Who is asked for these names, as in `dns.upstreams`."""
    suffixes: tuple[str, ...] = ()
    """`corp.example` is the name and all below it."""
    search: tuple[str, ...] = ()
    """Suffixes too; an address of a name of one label (`wiki`) is looked for below each, in order,
    and nowhere else. Other types of such a name go where all others go."""
    leak: bool = False
    """Ask the default upstreams too when these fail, refuse or say NXDOMAIN; else they never see such a name."""


@recordclass(frozen=True, kw_only=True)
class CacheConfig:
    """The resolver's cache (RFC 2308, 8767). A network change empties it."""

    use: str = "auto"
    """on, off, or auto: on in `netstack dns`, off behind a tunnel, where apps ask the resolver that asked before."""
    octets: int = 4_194_304
    """Size cap with everything that an entry costs; the entry that was not used for longest goes first."""
    ttl_max: int = 86_400
    """Seconds that an answer is kept at most. One with TTL 0 is not kept."""
    negative_max: int = 3_600
    """Seconds that NXDOMAIN or NODATA is kept at most (RFC 2308 5: one to three hours)."""
    stale: int = 86_400
    """Seconds after its end for which an answer may still be served when the upstream fails (RFC 8767); 0 for never."""
    stale_after: float = 1.8
    """Seconds without an answer from upstream until the stale one leaves: before the client's retry (RFC 8767 5)."""
    stale_ttl: int = 30
    """TTL of stale records."""
    stale_recheck: float = 5.0
    """Seconds between attempts to refresh an answer whose upstream failed; it is served stale at once meanwhile."""
    prefetch_hits: int = 3
    """An answer that was used this often is asked for again in its last tenth; 0 for never."""


@recordclass(frozen=True, kw_only=True)
class AnswersConfig:
    """What is changed in answers on their way to the app. The defaults change nothing."""

    ttl_min: int = 0
    """Seconds below which no answer record's TTL goes; a TTL of 0 stays 0, for it means "do not keep"."""
    ttl_max: int = 0
    """Seconds above which no TTL goes; 0 for no limit."""
    synthetic_ttl: int = 10
    """Seconds that an answer made up here may be kept, so that a change of policy is seen soon."""
    hints: str = "track"
    """Address hints of HTTPS and SVCB records: track (they count as resolved) or strip."""
    strip_ech: bool = False
    """Take Encrypted ClientHello keys out, so that server names stay visible to policy."""
    strip_h3: str = "auto"
    """Take HTTP/3 out of HTTPS records, so that QUIC is not even tried: on, off, or auto, which is on behind a tunnel
    while `policy.quic` blocks it, and off in `netstack dns`."""
    aaaa: str = "auto"
    """AAAA queries: pass, filter (answered empty at once), or auto, which filters while the host says that the network
    has no IPv6."""
    dns64: str = "off"
    """off; discover (the network's prefix, through ipv4only.arpa, RFC 7050); or a prefix such as 64:ff9b::/96."""
    rebind: str = "auto"
    """Private addresses in answers for public names: off, remove (the records), refuse (the answer), or auto: remove
    when all upstreams are resolvers of the Internet, off when any is of the local network and may know its names."""
    rebind_allow: tuple[str, ...] = ()
    """Suffixes that may have private addresses, beside local, lan, home.arpa, internal and their like."""
    client_subnet: str = "pass"
    """EDNS client subnet in queries (RFC 7871): pass or remove."""


@recordclass(frozen=True, kw_only=True)
class LockdownConfig:
    """The blocking state: nothing resolves and nothing passes but the operating system's network check, if that may."""

    blocking: bool = False
    """Begin in the blocking state; the host's `block_network` and `allow_network` change it at any time."""
    network_check: bool = False
    """Whether the system's network check may pass while blocking."""
    names: tuple[str, ...] = APPLE_NAMES
    """The check's names, exactly."""
    ports: tuple[int, ...] = (80, 443)
    """The check's TCP ports."""
    leak_free: bool = False
    """Answer the check with 198.51.100.1 instead of resolving it; nothing leaves the device then."""


@recordclass(frozen=True, kw_only=True)
class CaptiveConfig:
    """Captive portals (RFC 8908, 8910): what the network's own resolver is asked while one is in the way."""

    names: tuple[str, ...] = (*APPLE_NAMES, *ANDROID_NAMES, *FIREFOX_NAMES, *OTHER_NAMES)
    """Names of the systems' probes, exactly. A portal's own names are learnt."""
    limit: float = 300.0
    """Seconds of an allowance at most; 0 for none."""
    probe: str = "http://connectivitycheck.gstatic.com/generate_204"
    """What is asked to find out whether there is a portal when the network names no API: an http URL that is answered
    with 204, or with 200 and nothing or "Success"."""
    watch: bool = False
    """Look for a portal at the start and on every other network, without being told to."""


@recordclass(frozen=True, kw_only=True)
class ServerConfig:
    """`netstack dns`: the resolver on addresses of this host."""

    listen: tuple[str, ...] = ("127.0.0.1:5354",)
    """Where it listens, UDP and TCP, as ADDR:PORT or [ADDR6]:PORT. One that is not loopback needs `allow_peers`."""
    allow_peers: tuple[str, ...] = ()
    """Networks, as ADDR/PREFIX, whose hosts may ask. This host always may, everyone else is not answered."""
    tcp_connections: int = 512
    """TCP connections of all clients; one more closes the one idle longest."""
    tcp_per_client: int = 128
    """TCP connections of one address; one more is refused."""
    tcp_pending: int = 128
    """Unanswered queries of one TCP connection; nothing more is read from it meanwhile."""
    tcp_idle: float = 10.0
    """Seconds without a query until a connection is closed (RFC 7766 6.2.3)."""


@recordclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Leases of resolved addresses."""

    lease: float = 300.0
    """Least seconds of a lease; a longer record TTL makes it longer."""
    lease_max: float = 86_400.0
    """Most seconds of a lease."""
    use_ttl: bool = True
    """False keeps exactly `lease`, as the original netstack does."""
    sweep: float = 30.0
    """Seconds between sweeps of expired leases."""
    linger: float = 60.0
    """Seconds that an address stays allowed after the last flow to it ended."""


@recordclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What is refused, and how."""

    enforcement: str = "strict"
    """off (nothing is refused for want of evidence), audit (allowed, but reported) or strict."""
    quic: str = "block"
    """block or allow UDP that is QUIC: ports below, and Initial packets on any port."""
    quic_ports: tuple[int, ...] = (443, 80)
    """Destination ports where UDP counts as QUIC whatever it carries."""
    quic_refusal: str = "unreachable"
    """unreachable (the app falls back to TCP at once) or drop."""
    refusal: str = "reset"
    """How TCP without evidence is refused: reset, unreachable or drop."""
    udp_refusal: str = "unreachable"
    """How UDP without evidence is refused: unreachable or drop."""
    lan: str = "allow"
    """Private and link-local destinations: allow, block, or resolve-only (the same as any address)."""
    multicast: str = "allow"
    """Multicast and broadcast: allow or block."""
    storm: int = 100
    """Refusals of one destination within 10 s that make a storm; 0 for never."""
    storm_refusal: str = "same"
    """How a destination is refused in a storm: same (as ever, at once), or drop: what TCP tries again by itself comes
    ever more slowly."""


@recordclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Caps of every table. What is over is shed oldest-idle first and counted."""

    tcp_flows: int = 8192
    """TCP flows in all states."""
    half_open: int = 1024
    """TCP flows whose handshake is not finished."""
    udp_sessions: int = 4096
    """UDP sessions, each with one socket."""
    icmp_sessions: int = 256
    """Echo identifiers in use."""
    dns_pending: int = 2048
    """Queries without an answer yet."""
    tracked_addresses: int = 65_536
    """Addresses with a lease or the memory of one."""
    fragments: int = 256
    """Packets in reassembly."""
    fragment_octets: int = 1_048_576
    """Octets of payload in reassembly."""
    fragment_timeout: float = 30.0
    """Seconds until an incomplete packet is given up."""
    memory: int = 33_554_432
    """Octets of buffered data over all flows. Windows shrink first, then idle flows go."""
    icmp_errors_per_second: int = 1000
    """ICMP errors that the engine sends (RFC 1812 4.3.2.8)."""
    resets_per_second: int = 5000
    """RST segments that the engine sends without a flow."""


@recordclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    mode: str = "firewall"
    """firewall, or dns-only: nothing but DNS is carried."""
    tunnel: TunnelConfig = field(default_factory=TunnelConfig)
    tcp: TcpConfig = field(default_factory=TcpConfig)
    udp: UdpConfig = field(default_factory=UdpConfig)
    dns: DnsConfig = field(default_factory=DnsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    lockdown: LockdownConfig = field(default_factory=LockdownConfig)
    captive: CaptiveConfig = field(default_factory=CaptiveConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    rules: tuple[RuleConfig, ...] = ()
    split: tuple[SplitConfig, ...] = ()

    def __post_init__(self) -> None:
        _check(self)


SEED_PROFILE: dict[str, Any] = {
    "udp": {"timeout": 30.0},
    "tracker": {"use_ttl": False, "linger": 0.0},
    "policy": {"quic_refusal": "drop", "udp_refusal": "drop"},
}
"""The original netstack's values where ours differ."""


def load_config(path: str | Path) -> Config:
    """Read a TOML file. Raises ConfigError naming the file and the key."""
    import tomllib  # an embedding app that has no file does not pay for it

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as problem:
        raise ConfigError(f"{path}: cannot read: {problem.strerror}") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: not valid TOML: {problem}") from problem
    try:
        return make_config(table)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None


def make_config(table: dict[str, Any]) -> Config:
    """From plain nested dictionaries, as TOML gives them. Raises ConfigError naming the key."""
    table = dict(table)
    profile = table.pop("profile", "default")
    if profile not in ("default", "seed"):
        raise ConfigError(f"profile: {profile!r} is not one of default, seed")
    if profile == "seed":
        table = merged(SEED_PROFILE, table)
    made: Config = build(Config, table, "")
    return made


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}")


def _address(name: str, value: str, version: int) -> None:
    try:
        address = parse_address(value)
    except ValueError:
        raise ConfigError(f"{name}: {value!r} is not an IP address") from None
    if len(address) != (4 if version == 4 else 16):
        raise ConfigError(f"{name}: {value!r} is not an IPv{version} address")


def _host_name(name: str, value: str) -> None:
    labels = value.rstrip(".").split(".")
    if len(value) > 254 or not value.isascii() or not all(0 < len(label) < 64 for label in labels):
        raise ConfigError(f"{name}: {value!r} is not a host name")


def _positive(prefix: str, table: Any, *, zero: tuple[str, ...] = ()) -> None:
    for key in fields(table):
        value = getattr(table, key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if value < 0 or (value == 0 and key not in zero):
            raise ConfigError(f"{prefix}.{key}: must be above zero, got {value}")


def _check(config: Config) -> None:
    _one_of("mode", config.mode, MODES)
    tunnel, policy = config.tunnel, config.policy
    _address("tunnel.address", tunnel.address, 4)
    _address("tunnel.device_address", tunnel.device_address, 4)
    if tunnel.address6:
        _address("tunnel.address6", tunnel.address6, 6)
    if not 576 <= tunnel.mtu <= 65535:
        raise ConfigError(f"tunnel.mtu: must be 576..65535, got {tunnel.mtu}")
    _one_of("policy.enforcement", policy.enforcement, ENFORCEMENTS)
    _one_of("policy.quic", policy.quic, QUIC_POLICIES)
    _one_of("policy.quic_refusal", policy.quic_refusal, ("unreachable", "drop"))
    _one_of("policy.refusal", policy.refusal, REFUSALS)
    _one_of("policy.udp_refusal", policy.udp_refusal, ("unreachable", "drop"))
    _one_of("policy.lan", policy.lan, LAN_POLICIES)
    _one_of("policy.storm_refusal", policy.storm_refusal, ("same", "drop"))
    _one_of("policy.multicast", policy.multicast, ("allow", "block"))
    _one_of("tcp.on_dial_timeout", config.tcp.on_dial_timeout, REFUSALS)
    for table, keys in _CHOICES.items():
        for key, choices in keys.items():
            _one_of(f"{table}.{key}", getattr(getattr(config, table), key), choices)
    for name in fields(config):
        if is_record(type(getattr(config, name))):
            _positive(name, getattr(config, name), zero=_MAY_BE_ZERO)
    if not config.cache.ttl_max:
        raise ConfigError("cache.ttl_max: must be above zero, got 0")
    for number, split in enumerate(config.split, 1):
        for key in ("upstreams", "suffixes"):
            if not getattr(split, key) and not (key == "suffixes" and split.search):
                raise ConfigError(f"split[{number}].{key}: at least one is wanted")
    if not config.captive.probe.startswith(("http://", "https://")):
        raise ConfigError(f"captive.probe: {config.captive.probe!r} is not an http URL")
    for key in ("servers", "bootstrap", "network_servers"):
        for server in getattr(config.dns, key):
            try:
                parse_server(server)
            except ConfigError as problem:
                raise ConfigError(f"dns.{key}: {problem}") from None
    for table in ("lockdown", "captive"):
        for name in getattr(config, table).names:
            _host_name(f"{table}.names", name)
    if not config.dns.servers:
        raise ConfigError("dns.servers: at least one is wanted")
    for key, ports in (
        ("lockdown.ports", config.lockdown.ports), ("dns.ports", config.dns.ports),
        ("policy.quic_ports", config.policy.quic_ports),
    ):  # fmt: skip
        for port in ports:
            if not 1 <= port <= 65535:
                raise ConfigError(f"{key}: {port} is not a port (1..65535)")
    check_server(config.server)


def check_server(server: ServerConfig) -> None:
    """Raises ConfigError unless it would answer only whom it is told to."""
    for network in server.allow_peers:
        try:
            parse_network(network)
        except ConfigError as problem:
            raise ConfigError(f"server.allow_peers: {problem}") from None
    if not server.listen:
        raise ConfigError("server.listen: at least one address is wanted")
    for text in server.listen:
        try:
            address = parse_address(parse_server(text, 5354)[0])
        except ConfigError as problem:
            raise ConfigError(f"server.listen: {problem}") from None
        if not any(address):
            raise ConfigError(f"server.listen: {text!r} is every address of this host: name those that are wanted")
        if address != _LOOPBACK6 and not (len(address) == 4 and address[0] == 127) and not server.allow_peers:
            raise ConfigError(
                f"server.listen: {text!r} is not loopback: say who may ask with server.allow_peers (--allow-peers)"
            )
