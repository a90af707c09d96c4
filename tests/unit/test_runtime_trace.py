"""Events and packets in files."""

import io
import json

from netstack.core.events import QueryFailed
from netstack.link.pcap import read_frames
from netstack.runtime.trace import AnnotatedCapture, EventLines
from netstack.runtime.verdicts import five_tuple

FLOW = five_tuple(17, (b"\x0a\0\0\2", 5), (b"\x0a\0\0\1", 53))


class Flushed(io.StringIO):
    flushes = 0

    def flush(self):
        self.flushes += 1


def test_a_line_for_each_event():
    file = Flushed()
    lines = EventLines(file, flush=True)
    lines(QueryFailed(1.5, FLOW, "é.test", "A", "timeout"))
    lines.write({"event": "capture"})
    first, second = [json.loads(line) for line in file.getvalue().splitlines()]
    assert (first["event"], first["at"], first["name"], first["why"]) == ("query_failed", 1.5, "é.test", "timeout")
    assert second == {"event": "capture"}
    assert file.flushes == 2


def test_captured_and_synthetic_packets():
    file = io.BytesIO()
    capture = AnnotatedCapture(file)
    capture.captured(b"one", 1, "flow 1; verdict allow")
    capture.synthetic(b"two", 2, "flow 1")
    capture.synthetic(b"three", 3, "")
    capture.flush()
    octets = file.getvalue()
    assert [frame.data for frame in read_frames(io.BytesIO(octets), "x")] == [b"one", b"two", b"three"]
    assert b"flow 1; verdict allow" in octets and b"synthetic: sent by the engine; flow 1" in octets
