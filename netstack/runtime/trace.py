"""Writes what happens to files: events as JSON lines, packets with their verdicts as pcapng.

Responsible for: one line for an event, one block for a packet, whole on disk whenever the process ends.
Refuses to know: who makes events and packets. https://github.com/ndjson/ndjson-spec; draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

from netstack.core.events import Event
from netstack.core.packet import Octets
from netstack.link.pcapng import PcapngWriter


class EventLines:
    """An event sink that writes NDJSON. Deterministic: keys in order of definition, nothing but the event's own."""

    def __init__(self, file: TextIO, *, flush: bool = False) -> None:
        """`flush` hands every line to the system at once, for live use."""
        self._write = file.write
        self._flush: Callable[[], Any] | None = file.flush if flush else None

    def __call__(self, event: Event) -> None:
        """Write one event."""
        self.write(event.as_dict())

    def write(self, shown: dict[str, Any]) -> None:
        """Write one dictionary of plain JSON types."""
        self._write(json.dumps(shown, separators=(",", ":"), ensure_ascii=False) + "\n")
        if self._flush is not None:
            self._flush()


class AnnotatedCapture:
    """Packets as they pass, captured and synthetic, each with a comment."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = PcapngWriter(file)

    def captured(self, packet: Octets, time_ns: int, comment: str) -> None:
        """A packet of the capture; `time_ns` since 1970."""
        self._writer.write(packet, time_ns, comment)

    def synthetic(self, packet: Octets, time_ns: int, comment: str) -> None:
        """A packet that the engine sent to the app in the replay."""
        self._writer.write(packet, time_ns, f"synthetic: sent by the engine; {comment}" if comment else "synthetic")

    def flush(self) -> None:
        """Everything so far is in the file."""
        self._writer.flush()
