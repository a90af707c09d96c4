"""LISTEN and SYN_RECEIVED: RFC 9293 sections 3.5, 3.7.1, 3.10.7.2; RFC 7323 sections 1.3, 2.2; RFC 2018 section 2."""

from __future__ import annotations

import pytest

from netstack.config import TcpConfig
from netstack.core.drops import DropReason
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, URG
from netstack.tcp import Closed, EndOfStream, Established, Reset, State, TimedOut
from netstack.testing.builders import abort, accept, ack, after, close, data, fin, refuse, rst, segment, syn, write
from netstack.testing.checkers import (
    acks,
    anything,
    becomes,
    drop,
    hears,
    nothing,
    resets,
    sends,
    sends_fin,
    syn_ack,
    tells,
)
from netstack.testing.playbook import Playbook, established


def test_listen_syn_is_withheld_until_accepted() -> None:
    Playbook()(
        syn() >> nothing >> becomes(State.SYN_RECEIVED),
        after(5.0) >> nothing,
        accept() >> syn_ack(ack=1, win=65535),
        ack() >> tells(Established) >> becomes(State.ESTABLISHED),
    )


def test_listen_syn_refused_gets_reset_that_answers_the_syn() -> None:
    Playbook()(
        syn(),
        refuse() >> resets(ack=1, win=0) >> tells(Closed) >> becomes(State.CLOSED),
        after(100.0) >> nothing,
    )


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, FIN, FIN | PSH | URG, 0, SYN | FIN, SYN | RST, RST, FIN | ACK])
def test_listen_anything_but_a_syn_is_dropped(flags: int) -> None:
    Playbook()(segment(flags) >> drop(DropReason.TCP_BAD_FLAGS) >> becomes(State.LISTEN))


def test_listen_syn_with_every_option_gets_every_option_back() -> None:
    Playbook()(
        syn(mss=1400, wscale=7, sack=True, ts=5000),
        accept() >> syn_ack(options={"mss": 1460, "sack_permitted": True, "window_scale": 4}),
    )


def test_listen_syn_with_timestamps_is_echoed() -> None:
    play = Playbook()
    play(syn(ts=5000))
    [run] = play.perform(accept()).runs
    assert run.options[4:6] == b"\x01\x01"
    assert run.options[-4:] == (5000).to_bytes(4, "big")


@pytest.mark.parametrize("mss", [None, 1460])
def test_listen_syn_without_options_gets_none_but_mss(mss: int | None) -> None:
    Playbook()(
        syn(mss=mss),
        accept() >> syn_ack(options={"mss": 1460, "sack_permitted": False, "window_scale": None, "timestamps": None}),
    )


def test_listen_syn_with_unknown_options_opens() -> None:
    Playbook()(
        syn(extra_options=b"\xfd\x06abcd\x00\x00"),
        accept() >> syn_ack(ack=1),
        ack() >> tells(Established),
    )


def test_listen_syn_over_ipv6_offers_the_smaller_mss() -> None:
    Playbook(version=6)(syn(), accept() >> syn_ack(options={"mss": 1440}))


def test_listen_syn_with_ecn_setup_is_not_answered_with_ecn() -> None:
    Playbook()(segment(SYN | 0x40 | 0x80, seq=0), accept() >> syn_ack(ack=1))


def test_syn_received_unanswered_syn_ack_is_sent_again_with_back_off() -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        after(0.9) >> nothing,
        after(0.2) >> syn_ack(),
        after(1.8) >> nothing,
        after(0.2) >> syn_ack(),
        after(4.0) >> syn_ack(),
        ack() >> tells(Established),
        after(60.0) >> nothing,
    )


def test_syn_received_never_answered_gives_up() -> None:
    Playbook(TcpConfig(synack_retries=2))(
        syn(),
        accept() >> syn_ack(),
        after(7.0) >> syn_ack() >> syn_ack() >> resets() >> tells(TimedOut, Closed) >> becomes(State.CLOSED),
    )


def test_syn_received_duplicate_syn_before_accept_is_absorbed() -> None:
    play = Playbook()
    play(syn(), syn() >> nothing, syn(after=1.0) >> nothing, accept() >> syn_ack(), after(0.5) >> nothing)


def test_syn_received_duplicate_syn_gets_the_same_syn_ack() -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(seq=0, ack=1),
        syn(after=0.1) >> syn_ack(seq=0, ack=1),
        ack() >> tells(Established),
    )


def test_syn_received_other_syn_may_replace_it() -> None:
    play = Playbook()
    play(syn())
    again = play._segment(syn())
    other = play._segment(syn(seq=77777))
    assert not play.connection.can_be_replaced_by(again, play.now)
    assert play.connection.can_be_replaced_by(other, play.now)


def test_syn_received_rst_before_accept_ends_it_silently() -> None:
    Playbook()(syn(), rst(seq=1) >> nothing >> tells(Reset, Closed) >> becomes(State.CLOSED), accept() >> nothing)


def test_syn_received_rst_with_wrong_number_is_ignored() -> None:
    Playbook()(
        syn(),
        rst(seq=2) >> drop(DropReason.TCP_BAD_RST),
        accept() >> syn_ack(),
        rst(seq=70000) >> drop(DropReason.TCP_BAD_RST) >> nothing,
        rst(seq=2) >> drop(DropReason.TCP_BAD_RST) >> acks(1),
        rst(seq=1) >> tells(Reset, Closed),
    )


def test_syn_received_ack_before_accept_is_answered_with_reset() -> None:
    Playbook()(
        syn(),
        segment(ACK, seq=1, ack=1) >> drop(DropReason.TCP_BAD_ACK) >> resets(with_ack=False, seq=1),
        accept() >> syn_ack(),
    )


@pytest.mark.parametrize("number", [0, 2, 5000, -1])
def test_syn_received_wrong_ack_gets_reset_and_stays(number: int) -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        ack(number) >> drop(DropReason.TCP_BAD_ACK) >> resets(with_ack=False, seq=number),
        ack(1) >> tells(Established),
    )


def test_syn_received_data_on_the_third_segment_is_delivered() -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        data(b"GET /") >> tells(Established) >> hears(b"GET /") >> acks(6),
    )


def test_syn_received_fin_on_the_third_segment_ends_the_stream() -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        fin(b"bye") >> tells(Established, EndOfStream) >> hears(b"bye") >> acks(5) >> becomes(State.CLOSE_WAIT),
    )


def test_syn_received_data_before_the_third_segment_completes_the_handshake() -> None:
    Playbook()(
        syn(sack=True),
        accept() >> syn_ack(),
        data(b"world", seq=6) >> tells(Established) >> hears(b"") >> acks(1),
        ack(seq=1) >> nothing,
        data(b"hello", seq=1) >> hears(b"helloworld") >> acks(11),
    )


def test_listen_data_on_syn_is_delivered_after_the_handshake() -> None:
    Playbook()(
        syn(payload=b"early"),
        accept() >> syn_ack(ack=6),
        ack() >> tells(Established) >> hears(b"early"),
        data(b" bird") >> hears(b" bird") >> acks(11),
    )


def test_listen_data_on_syn_sent_again_is_delivered_once() -> None:
    Playbook()(
        syn(payload=b"early"),
        accept() >> syn_ack(ack=6),
        data(b"early bird", seq=1) >> tells(Established) >> hears(b"early bird") >> acks(11),
    )


def test_syn_received_octets_written_early_leave_with_the_handshake() -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        write(b"220 ready") >> nothing,
        ack() >> sends(9, seq=1, payload=b"220 ready"),
    )


def test_syn_received_close_waits_for_the_handshake() -> None:
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        write(b"bye") >> nothing,
        close() >> nothing >> becomes(State.SYN_RECEIVED),
        ack() >> sends_fin(3, seq=1) >> becomes(State.FIN_WAIT_1),
    )


def test_syn_received_close_before_accept_refuses() -> None:
    Playbook()(syn(), close() >> resets(ack=1) >> tells(Closed))


def test_syn_received_abort_resets() -> None:
    Playbook()(syn(), accept() >> syn_ack(), abort() >> resets(seq=1, ack=1) >> tells(Closed))


def test_listen_abort_is_silent() -> None:
    Playbook()(abort() >> nothing >> tells(Closed))


@pytest.mark.parametrize(("mss", "expected"), [(None, 536), (0, 536), (1, 48), (1000, 1000), (9000, 1460)])
def test_listen_mss_of_the_app_is_obeyed(mss: int | None, expected: int) -> None:
    established(mss=mss)(write(b"x" * 3000) >> sends(min(3000, 10 * expected), mss=expected))


def test_listen_default_mss_over_ipv6_is_1220() -> None:
    established(mss=None, version=6)(write(b"x" * 3000) >> sends(3000, mss=1220))


def test_listen_timestamps_take_their_room_from_each_segment() -> None:
    established(mss=1460, ts=1)(write(b"x" * 3000) >> sends(3000, mss=1448))


def test_established_late_syn_ack_timer_does_not_fire() -> None:
    Playbook()(syn(), accept() >> syn_ack(), ack() >> tells(Established), after(30.0) >> nothing)


def test_closed_segment_is_counted() -> None:
    Playbook()(syn(), refuse() >> anything, ack(1) >> drop(DropReason.TCP_AFTER_CLOSE) >> nothing)


def test_listen_syn_with_an_illegal_option_opens_with_the_defaults() -> None:
    """The codec drops such a SYN (MUST-7); should one come, nothing of it is believed and nothing breaks."""
    Playbook()(
        segment(SYN, seq=0, options=b"\x02\x04\x05\xb4\x03\x00\x00\x00"),
        accept() >> syn_ack(options={"mss": 1460, "window_scale": None}),
        ack() >> tells(Established),
        write(b"x" * 600) >> sends(600, mss=536),
    )


def test_syn_received_coalesced_acks_count_from_the_first() -> None:
    """The true third segment and a lie behind it, merged by the codec: established, and the lie is answered."""
    Playbook()(
        syn(),
        accept() >> syn_ack(),
        ack(1001, nsegs=2, ack_advance=1000) >> tells(Established) >> drop(DropReason.TCP_BAD_ACK) >> acks(1, seq=1),
    )
