"""A certificate authority for tests, and a TLS server that lives in memory."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import Any

from netstack.testing.world import ScriptedStream


class Authority:
    """A certificate authority and what it signs."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=netstack test authority")
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._sign(self._name, self._key.public_key(), [], True))

    def _sign(self, subject: Any, key: Any, names: list[str], is_ca: bool, days: int = 30) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject).issuer_name(self._name).public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60)).not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )  # fmt: skip
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, days: int = 30) -> tuple[Path, Path]:
        """Certificate and key files for host names and addresses; negative `days`: expired."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        stem = f"{names[0]}{days}"
        certificate, private = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        subject = x509.Name.from_rfc4514_string(f"CN={names[0]}")
        certificate.write_bytes(self._sign(subject, key.public_key(), list(names), False, days))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@functools.cache
def authority() -> Authority:
    """One for the whole run."""
    return Authority(Path(tempfile.mkdtemp(prefix="netstack-ca-")))


@functools.cache
def server_files(*names: str, days: int = 30) -> tuple[Path, Path]:
    """A certificate of `authority`, and its key."""
    return authority().issue(*names, days=days)


@functools.cache
def server_context(*names: str, alpn: tuple[str, ...] = (), days: int = 30) -> ssl.SSLContext:
    """A server's context with a certificate for `names`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server_files(*names, days=days))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class MemoryTlsServer:
    """The far end of a `ScriptedStream`."""

    def __init__(self, stream: ScriptedStream, context: ssl.SSLContext) -> None:
        self.stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.received = bytearray()
        self.is_open = False
        self.alert = ""
        self._taken = 0

    def turn(self) -> bool:
        """Take what was sent, answer; False when nothing moved."""
        fresh = bytes(self.stream.sent[self._taken :])
        self._taken += len(fresh)
        self._in.write(fresh)
        try:
            if not self.is_open:
                self.tls.do_handshake()
                self.is_open = True
            while True:
                octets = self.tls.read(65_536)
                if not octets:
                    break
                self.received += octets
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as problem:
            self.alert = problem.reason or str(problem)
        return self._push() or bool(fresh)

    def write(self, octets: bytes) -> None:
        """Encrypt and deliver."""
        self.tls.write(octets)
        self._push()

    def _push(self) -> bool:
        out = self._out.read()
        if out:
            self.stream.deliver(out)
        return bool(out)


def settle(servers: list[MemoryTlsServer], now: float) -> None:
    """Let clients and servers talk until nothing moves."""
    for _ in range(100):
        moved = False
        for server in servers:
            stream = server.stream
            if not stream.closed and stream.writable_wanted and stream.is_writable:
                stream.owner.on_writable(stream, now)
                moved = True
            moved = server.turn() or moved
            while not stream.closed and stream.readable_wanted and stream.is_readable:
                stream.owner.on_readable(stream, now)
                moved = True
        if not moved:
            return
    raise AssertionError("does not come to rest")
