"""Upstreams as people write them: URLs, DNS stamps, and the presets of services.

Responsible for: reading ``udp:// tcp:// tls:// https:// quic://`` and ``sdns://`` into an `UpstreamUrl`; errors that
say what is wrong and what would do.
Refuses to know: sockets; how a transport works.
RFCs: 3986 (URLs), 7858 and 8310 (DoT), 8484 (DoH), 9250 (DoQ); the DNS stamps specification (dnscrypt.info/stamps).

    udp://192.0.2.53            plain DNS, port 53 (also without a scheme: 192.0.2.53, [2001:db8::53]:5353)
    tcp://192.0.2.53            plain DNS over TCP only
    tls://dns.example           DoT, port 853; tls://192.0.2.53#dns.example dials the address, verifies the name
    https://dns.example/dns-query
    quic://dns.example          DoQ, port 853
    sdns://...                  a stamp of plain DNS, DoT, DoH or DoQ
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from urllib.parse import quote, urlsplit

from netstack.config import parse_server
from netstack.core.errors import ConfigError
from netstack.core.flow import Endpoint
from netstack.core.record import recordclass, replace

PORTS = {"udp": 53, "tcp": 53, "tls": 853, "https": 443, "quic": 853}
ENCRYPTED = frozenset({"tls", "https", "quic"})
DEFAULT_PATH = "/dns-query"

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_STAMPS = {0x00: "udp", 0x02: "https", 0x03: "tls", 0x04: "quic"}
_STAMPS_UNKNOWN = {
    0x01: "DNSCrypt", 0x05: "an Oblivious DoH target", 0x81: "a DNSCrypt relay", 0x85: "an Oblivious DoH relay",
}  # fmt: skip

CONTROL_D_NAME = "dns.controld.com"
CONTROL_D_BOOTSTRAP = ("76.76.2.22", "76.76.10.22", "2606:1a40::22", "2606:1a40:1::22")
"""Addresses that answer plain DNS for Control D's own names; used by its presets when no bootstrap is given."""


@recordclass(frozen=True)
class UpstreamUrl:
    """One upstream. Hashable, and printable without the secrets of its path (`label`)."""

    scheme: str  # udp, tcp, tls, https, quic
    host: str  # a name or an address literal: where to connect
    port: int
    path: str = ""  # https only
    server_name: str = ""  # what the certificate must be for; the host unless said otherwise
    addresses: tuple[str, ...] = ()  # known addresses of `host`, so that no bootstrap is needed
    bootstrap: tuple[str, ...] = ()  # ADDR or ADDR:PORT that resolve `host`, when the configuration gives none
    pins: tuple[bytes, ...] = ()  # SHA-256 of TBS certificates, one of which must be in the chain
    headers: tuple[tuple[str, str], ...] = ()  # further request headers of https

    @property
    def is_address(self) -> bool:
        """True when `host` needs no resolving."""
        return _is_address(self.host)

    @property
    def label(self) -> str:
        """For events and counters: no path, for it may be what identifies a customer."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    @property
    def endpoint(self) -> Endpoint:
        """Where to connect when `is_address`; ValueError for a name."""
        return Endpoint.of(self.host, self.port)


def parse_upstream(text: str) -> UpstreamUrl:
    """Read one upstream. Raises ConfigError that quotes `text` and says what would do."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        host, port = parse_server(text)
        return UpstreamUrl("udp", host, port)
    scheme = scheme.lower()
    if scheme == "sdns":
        return _parse_stamp(text, rest)
    if scheme not in PORTS:
        known = ", ".join(f"{each}://" for each in (*PORTS, "sdns"))
        raise ConfigError(f"upstream {text!r}: the scheme must be one of {known}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port or PORTS[scheme]
        host = (parts.hostname or "").rstrip(".")
    except ValueError as problem:
        raise ConfigError(f"upstream {text!r}: {problem}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"upstream {text!r}: user names and passwords are not supported")
    if not host:
        raise ConfigError(f"upstream {text!r}: there is no host")
    host = _checked_host(text, host)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if scheme != "https" and path not in ("", "/"):
        raise ConfigError(f"upstream {text!r}: {scheme}:// takes no path")
    name = parts.fragment.rstrip(".")
    if name and scheme not in ENCRYPTED:
        raise ConfigError(f"upstream {text!r}: a name to verify makes sense with tls, https and quic only")
    made = UpstreamUrl(scheme, host, port)
    if scheme in ENCRYPTED:
        made = replace(made, server_name=_checked_host(text, name) if name else host)
        if scheme == "https":
            made = replace(made, path=_checked_path(text, path) if path not in ("", "/") else DEFAULT_PATH)
    elif not _is_address(host):
        raise ConfigError(f"upstream {text!r}: plain DNS needs an address, not the name {host!r}")
    return made


def control_d(uid: str, protocol: str = "doh", *, client: str = "", hostname: str = "") -> UpstreamUrl:
    """Control D's resolver `uid` by `protocol` (doh, dot, doq). Raises ConfigError.

    `client` names the device in the service's statistics: a path segment with DoH, a label in front of the
    resolver's with DoT and DoQ (letters, digits and hyphens there; a blank becomes two hyphens). `hostname` is the
    device's host name: the same as `client` where none is given, and a request header of its own with DoH.
    """
    if not re.fullmatch(r"[a-z0-9]{1,63}", uid, re.IGNORECASE):
        raise ConfigError(f"Control D resolver id {uid!r}: only letters and digits are wanted, as in 'p2' or '1ab23cd'")
    if protocol not in ("doh", "dot", "doq"):
        raise ConfigError(f"Control D protocol {protocol!r}: must be doh, dot or doq")
    if any(not each.isprintable() or not each.isascii() for each in (client, hostname)):
        raise ConfigError(f"Control D client {client or hostname!r}: must be printable ASCII")
    named = client or hostname
    uid = uid.lower()
    if protocol == "doh":
        path = f"/{uid}" + (f"/{quote(named, safe='')}" if named else "")
        headers = (("x-cd-host", hostname),) if hostname else ()
        made = UpstreamUrl("https", CONTROL_D_NAME, 443, path, CONTROL_D_NAME, headers=headers)
    else:
        label = uid
        if named:
            label = f"{named.strip().replace(' ', '--')}-{uid}"
            if not _LABEL.fullmatch(label):
                raise ConfigError(
                    f"Control D client {named!r}: with {protocol} it is part of a host name: letters, digits, hyphens "
                    f"and blanks, {61 - len(uid)} at most"
                )
        host = f"{label}.{CONTROL_D_NAME}".lower()
        made = UpstreamUrl("tls" if protocol == "dot" else "quic", host, 853, "", host)
    return replace(made, bootstrap=CONTROL_D_BOOTSTRAP)


# --- stamps ---


class _Fields:
    """Length-prefixed fields of a stamp, in order."""

    def __init__(self, text: str, octets: bytes) -> None:
        self._text = text
        self._octets = octets

    def __len__(self) -> int:
        return len(self._octets)

    def take(self, count: int) -> bytes:
        if len(self._octets) < count:
            raise ConfigError(f"upstream {self._text!r}: the stamp ends too early")
        taken, self._octets = self._octets[:count], self._octets[count:]
        return taken

    def text(self) -> str:
        octets = self.take(self.take(1)[0])
        try:
            return octets.decode("ascii")
        except UnicodeDecodeError:
            raise ConfigError(f"upstream {self._text!r}: the stamp has a field that is not ASCII") from None

    def list(self) -> list[bytes]:
        """A set of fields; the high bit of a length says that another follows."""
        found = []
        while True:
            length = self.take(1)[0]
            if length & 0x7F:
                found.append(self.take(length & 0x7F))
            if not length & 0x80:
                return found


def _parse_stamp(text: str, encoded: str) -> UpstreamUrl:
    try:
        octets = base64.b64decode(encoded.rstrip("=/") + "=" * (-len(encoded.rstrip("=/")) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"upstream {text!r}: the stamp is not URL-safe base64") from None
    fields = _Fields(text, octets)
    kind = fields.take(1)[0]
    if kind not in _STAMPS:
        what = _STAMPS_UNKNOWN.get(kind, f"protocol {kind}")
        raise ConfigError(f"upstream {text!r}: a stamp of {what}; only plain DNS, DoT, DoH and DoQ are supported")
    scheme = _STAMPS[kind]
    fields.take(8)  # properties: promises about logging and filtering, which nothing here depends on
    address, port = _stamp_address(text, fields.text(), PORTS[scheme])
    if scheme == "udp":
        if not address:
            raise ConfigError(f"upstream {text!r}: the stamp has no address")
        return UpstreamUrl("udp", address, port)
    pins = tuple(fields.list())
    if any(len(pin) != 32 for pin in pins):
        raise ConfigError(f"upstream {text!r}: the stamp has a certificate hash that is not SHA-256")
    host, of_host = _split_port(text, fields.text())
    if not host and not address:
        raise ConfigError(f"upstream {text!r}: the stamp has neither an address nor a host name")
    host = _checked_host(text, host or address)
    path = _checked_path(text, fields.text()) if scheme == "https" else ""
    bootstrap = tuple(each.decode("ascii", "replace") for each in fields.list()) if len(fields) else ()
    for each in bootstrap:
        parse_server(each)
    addresses = (address,) if address and address != host else ()
    return UpstreamUrl(scheme, host, of_host or port, path, host, addresses, bootstrap, pins)


def _stamp_address(text: str, field: str, default: int) -> tuple[str, int]:
    """``ADDR``, ``ADDR:PORT``, ``[ADDR6]:PORT``, ``:PORT`` or nothing."""
    host, port = _split_port(text, field)
    if host and not _is_address(host):
        raise ConfigError(f"upstream {text!r}: {host!r} in the stamp is not an address")
    return host, port or default


def _split_port(text: str, field: str) -> tuple[str, int]:
    host, port = field, ""
    if field.startswith("["):
        host, _, port = field[1:].partition("]")
        port = port.removeprefix(":")
    elif field.count(":") == 1:
        host, _, port = field.partition(":")
    if port and not (port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(f"upstream {text!r}: {port!r} in the stamp is not a port")
    return host.rstrip("."), int(port or 0)


def _checked_path(text: str, path: str) -> str:
    path = path.removesuffix("{?dns}")
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path or "{" in path:
        raise ConfigError(f"upstream {text!r}: {path!r} is not a path (RFC 8484 templates other than {{?dns}} neither)")
    return path


def _checked_host(text: str, host: str) -> str:
    if _is_address(host):
        return host
    try:
        name = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        name = ""
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ConfigError(f"upstream {text!r}: {host!r} is neither a host name nor an address")
    if re.fullmatch(r"[0-9.]+", name):
        raise ConfigError(f"upstream {text!r}: {host!r} is not an IPv4 address")
    return name.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host
