"""DNS over TCP: messages with a 16-bit length in front.

Responsible for: cutting a stream of octets into messages, however it was segmented, and the other way.
Refuses to know: connections, what a message says.
RFCs: 1035 4.2.2, 7766.
"""

from __future__ import annotations

from netstack.core.packet import Octets
from netstack.dns.message import MAX_MESSAGE

LENGTH_SIZE = 2
MAX_FRAME = LENGTH_SIZE + MAX_MESSAGE


def frame(message: bytes) -> bytes:
    """`message` with its length in front; it must not be longer than 65,535 octets."""
    return len(message).to_bytes(LENGTH_SIZE, "big") + message


class MessageReader:
    """Collects one direction of a connection. Holds at most one incomplete message plus what `feed` brought."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, octets: Octets) -> None:
        """More of the stream."""
        self._buffer += octets

    def next_message(self) -> bytes | None:
        """The next whole message (maybe an empty one), or None."""
        buffer = self._buffer
        if len(buffer) < LENGTH_SIZE:
            return None
        end = LENGTH_SIZE + (buffer[0] << 8 | buffer[1])
        if len(buffer) < end:
            return None
        message = bytes(buffer[LENGTH_SIZE:end])
        del buffer[:end]
        return message

    def messages(self, octets: Octets) -> list[bytes]:
        """More of the stream, and every whole message that there is now."""
        buffer = self._buffer
        if buffer:
            buffer += octets
            if len(buffer) < LENGTH_SIZE or len(buffer) < LENGTH_SIZE + (buffer[0] << 8 | buffer[1]):
                return []
            whole = bytes(buffer)
            buffer.clear()
        else:
            whole = bytes(octets)
        found = []
        at, size = 0, len(whole)
        while size - at >= LENGTH_SIZE:
            end = at + LENGTH_SIZE + (whole[at] << 8 | whole[at + 1])
            if end > size:
                break
            found.append(whole[at + LENGTH_SIZE : end])
            at = end
        if at < size:
            buffer += whole[at:]
        return found
