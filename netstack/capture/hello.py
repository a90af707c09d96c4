"""Finds the server names that TLS clients show in TCP streams, wherever in the stream the handshake begins.

Responsible for: following TLS records of one direction until the handshake is encrypted.
Refuses to know: what a ClientHello holds (`wire/tls.py` does), QUIC.
RFCs: 8446 5.1 and 4.1.4 (records, a second ClientHello after HelloRetryRequest), 6066 section 3.
"""

from __future__ import annotations

from netstack.wire.tls import MAX_HELLO, parse_client_hello

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_CONTENT_TYPES = frozenset((20, 21, 22, 23, 24))
_LARGEST_RECORD = (1 << 14) + 2048


class HelloWatcher:
    """One direction of one connection. TLS may start late: after STARTTLS, CONNECT, or where the capture starts."""

    __slots__ = ("_following", "_handshake", "_held", "_skip")

    def __init__(self) -> None:
        self._following = False
        self._held = bytearray()
        self._handshake = bytearray()
        self._skip = 0

    def feed(self, octets: bytes) -> list[str]:
        """Names of the ClientHellos that `octets`, the next ones of the stream, completed."""
        if not self._following:
            if not _starts_hello(octets):
                return []
            self._following = True
        self._held += octets
        names: list[str] = []
        held = self._held
        while self._following:
            if self._skip:
                passed = min(self._skip, len(held))
                del held[:passed]
                self._skip -= passed
            if self._skip or len(held) < 5:
                break
            kind, size = held[0], held[3] << 8 | held[4]
            if kind not in _CONTENT_TYPES or held[1] != 3 or size > _LARGEST_RECORD:
                self.lost()
            elif kind != _HANDSHAKE:
                self._skip = 5 + size
            elif len(held) < 5 + size:
                break
            else:
                self._handshake += held[5 : 5 + size]
                del held[: 5 + size]
                self._take_message(names)
        return names

    def _take_message(self, names: list[str]) -> None:
        message = self._handshake
        if not message or message[0] != _CLIENT_HELLO:  # another message, or an encrypted one
            message.clear()
            return
        end = 4 + int.from_bytes(message[1:4], "big")
        if end > MAX_HELLO:
            message.clear()
        elif len(message) >= 4 and len(message) >= end:
            hello = parse_client_hello(bytes(message[4:end]))
            message.clear()
            if hello is not None and hello.server_name is not None:
                names.append(hello.server_name)

    def lost(self) -> None:
        """Octets are missing, or this is not TLS: wait for another beginning."""
        self._following = False
        self._skip = 0
        self._held.clear()
        self._handshake.clear()


def _starts_hello(octets: bytes) -> bool:
    """A handshake record with a ClientHello, as far as these octets tell."""
    return (
        len(octets) >= 3
        and octets[0] == _HANDSHAKE
        and octets[1] == 3
        and octets[2] <= 4
        and (len(octets) < 6 or octets[5] == _CLIENT_HELLO)
    )
