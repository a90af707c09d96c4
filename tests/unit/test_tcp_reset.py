from __future__ import annotations

import pytest

from netstack.core.flow import reverse_key
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, URG
from netstack.tcp.reset import opens_connection, reset_for
from netstack.testing.builders import flow_key, make_segment


def test_a_segment_with_ack_is_answered_from_its_ack_number() -> None:
    run = reset_for(make_segment(flow_key(), 100, 777, ACK, payload=b"abc"))
    assert run is not None
    assert (run.key, run.seq, run.flags, run.window) == (reverse_key(flow_key()), 777, RST, 0)


@pytest.mark.parametrize(
    ("flags", "payload", "ack"),
    [
        (SYN, b"", 101),
        (0, b"", 100),
        (FIN, b"abc", 104),
        (SYN, b"ab", 103),
        (FIN | PSH | URG, b"", 101),
        (SYN | FIN, b"", 102),
    ],
)
def test_a_segment_without_ack_is_answered_with_its_length(flags: int, payload: bytes, ack: int) -> None:
    run = reset_for(make_segment(flow_key(), 100, 0, flags, payload=payload))
    assert run is not None
    assert (run.seq, run.ack, run.flags) == (0, ack, RST | ACK)


def test_the_length_wraps() -> None:
    run = reset_for(make_segment(flow_key(), 0xFFFFFFFF, 0, SYN))
    assert run is not None
    assert run.ack == 0


@pytest.mark.parametrize("flags", [RST, RST | ACK, RST | SYN])
def test_a_reset_is_never_answered(flags: int) -> None:
    assert reset_for(make_segment(flow_key(), 100, 5, flags)) is None


@pytest.mark.parametrize("flags", [SYN, SYN | PSH, SYN | 0xC0, SYN | URG])
def test_a_syn_opens(flags: int) -> None:
    assert opens_connection(make_segment(flow_key(), 1, 0, flags))


@pytest.mark.parametrize("flags", [0, ACK, SYN | ACK, SYN | FIN, SYN | RST, FIN])
def test_others_do_not_open(flags: int) -> None:
    assert not opens_connection(make_segment(flow_key(), 1, 0, flags))
