"""Any octets as a capture file: frames or one CaptureError, and an account of whatever was read."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.capture.facts import CaptureFacts
from netstack.core.errors import CaptureError
from netstack.link.pcap import Frame, read_frames
from netstack.link.pcapng import PcapngWriter
from tests.made_captures import SERVER, client_hello, exchange, lookup, pcap_file

PACKETS = lookup(0.0, 5000, "www.example.test", SERVER)
PACKETS += exchange(1.0, 40000, client_hello("a.test"), b"x" * 50, dport=443)


def pcapng_file():
    file = io.BytesIO()
    writer = PcapngWriter(file)
    for at, packet in PACKETS:
        writer.write(packet, round(at * 1e9), "a comment")
    return file.getvalue()


FILES = st.sampled_from([pcap_file(PACKETS), pcapng_file()])
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=8)), max_size=6)


def account(frames):
    facts = CaptureFacts()
    for frame in frames:
        facts.add(frame)
    facts.finish()
    return facts.as_dict()


@settings(max_examples=300, deadline=None)
@given(file=FILES, changes=CHANGES, cut=st.integers(0, 3000))
def test_damaged_files(file, changes, cut):
    damaged = bytearray(file)
    for at, octets in changes:
        damaged[at : at + len(octets)] = octets
    frames = []
    try:
        for frame in read_frames(io.BytesIO(bytes(damaged[:cut])), "made"):
            frames.append(frame)
    except CaptureError as problem:
        assert str(problem).startswith("made: ") and "at offset" in str(problem)
    assert account(frames)["counts"]["frames"] == len(frames)


@settings(max_examples=300, deadline=None)
@given(octets=st.binary(max_size=200), linktype=st.integers(0, 300), length=st.integers(0, 70_000))
def test_any_frame(octets, linktype, length):
    counts = account([Frame(1, 0, linktype, 0, octets, length)])["counts"]
    assert counts["frames"] == counts.get("non_ip", 0) + counts.get("ipv4", 0) + counts.get("ipv6", 0)
