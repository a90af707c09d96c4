"""Third-party captures through the engine: nothing breaks, nothing takes long, both codecs say the same."""

import io
import time

import pytest

from netstack.capture.facts import CaptureFacts
from netstack.codec import load
from netstack.config import make_config
from netstack.core.errors import CodecError
from netstack.link.pcap import Frame, read_capture
from netstack.runtime.replay import Replay
from netstack.runtime.trace import EventLines
from tests.replay.shared_captures import capture_files, truth_of

SLOWEST = 0.05  # seconds for one packet
OFF = {"policy": {"enforcement": "off", "quic": "allow"}}


def codecs():
    try:
        return [load("pure"), load("native")]
    except CodecError:
        return [load("pure")]


def frames_of(path):
    facts, frames = CaptureFacts(), []
    for frame in read_capture(str(path)):
        facts.add(frame)
        frames.append(frame)
    facts.finish()
    return facts, frames


def replayed(facts, frames, codec, config, **options):
    lines = io.StringIO()
    replay = Replay(facts, make_config(config), codec, emit=EventLines(lines), **options)
    slowest = 0.0
    for frame in frames:
        before = time.perf_counter()
        replay.frame(frame)
        slowest = max(slowest, time.perf_counter() - before)
    replay.finish()
    return replay.as_dict(streams=True), lines.getvalue(), slowest


@pytest.mark.parametrize("path", capture_files())
def test_a_replay_is_the_same_with_both_codecs_and_quick(path):
    facts, frames = frames_of(path)
    for config, keep in (({}, False), (OFF, True)):
        results = [replayed(facts, frames, codec, config, keep_bad_checksums=keep) for codec in codecs()]
        assert all(result[:2] == results[0][:2] for result in results)
        assert min(result[2] for result in results) < SLOWEST


@pytest.mark.parametrize("path", capture_files())
def test_whole_streams_are_carried_as_they_were_captured(path):
    """With nothing refused, every stream whose digest is known arrives octet for octet."""
    known = {c["first_frame"] for c in truth_of(path)["tcp_conversations"] if "stream_sha256" in c}
    facts, frames = frames_of(path)
    shown, _, _ = replayed(facts, frames, load("pure"), OFF, keep_bad_checksums=True)
    different = [
        (row["first_frame"], row["how"], row["streams"])
        for row in shown["flows"]
        if row["first_frame"] in known and "streams" in row
        if any(side["result"] == "differs" for side in row["streams"].values())
    ]
    assert different == []


@pytest.mark.parametrize("path", capture_files("malformed"))
def test_malformed_packets_cut_anywhere(path):
    """Each packet of a capture, cut at every length up to 128 octets."""
    _, frames = frames_of(path)
    made = [
        Frame(number, frame.time_ns, frame.linktype, 0, frame.data[:size], len(frame.data))
        for number, (frame, size) in enumerate(
            ((frame, size) for frame in frames[:8] for size in range(min(len(frame.data), 128))), 1
        )
    ]
    facts = CaptureFacts()
    for frame in made:
        facts.add(frame)
    facts.finish()
    results = [replayed(facts, made, codec, {}) for codec in codecs()]
    assert all(result[:2] == results[0][:2] for result in results)
