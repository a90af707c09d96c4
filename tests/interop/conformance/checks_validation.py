"""Rows about segments that must not be believed, and resets in both directions.

RFCs: 9293 3.4 3.5 3.8.4 3.10.7.4, 5961, 7323 4.3 5.3.
"""

from __future__ import annotations

import time

from . import packets as p
from .app import TcpApp
from .registry import Case, check, require
from .upstream import PUPPET, RESET_AT_ONCE, RESET_ON_DATA, pattern

MASK = 0xFFFFFFFF


def _challenge(app: TcpApp, what: str) -> p.Packet:
    answer = app.expect(f"challenge ACK to {what}", strict=True, timeout=1.5)
    require(answer.flags == p.ACK and not answer.data, f"{what}: wanted a challenge ACK, got {answer}")
    require(answer.ack == app.snd_nxt, f"{what}: the challenge ACK says {answer.ack}, not RCV.NXT")
    require(answer.seq == app.rcv_nxt, f"{what}: the challenge ACK has SEQ {answer.seq}, not SND.NXT")
    return answer


@check("RFC 9293 3.10.7.4 RST; packetdrill ts_recent/reset_tsval")
def app_rst_reaches_upstream(c: Case) -> None:
    for v in c.variants():
        for flags, with_options in ((p.RST, False), (p.RST | p.ACK, False), (p.RST | p.ACK, True)):
            app = c.connect(PUPPET, **v)
            app.write(b"data first")
            app.emit(flags, options=None if with_options else b"")
            state = c.upstream(app, lambda s: s["reset"] or s["eof"], "the reset")
            require(state["reset"], "the app's reset reached the server as a clean end")
            app.silence(0.1, "after our RST")
    old = c.connect(PUPPET)  # an old timestamp does not stop a RST (RFC 7323 5.3)
    old.emit(p.RST | p.ACK, tsval=old.tsval - 100_000)
    require(
        c.upstream(old, lambda s: s["reset"] or s["eof"], "the reset")["reset"],
        "clean end for a RST with an old timestamp",
    )
    half = c.connect(PUPPET)  # after our FIN
    half.finish()
    half.expect_ack("ACK of our FIN")
    half.emit(p.RST | p.ACK)
    time.sleep(0.15)
    c.puppet(half, "send", count=20000)
    half.silence(0.4, "after a RST on a half-closed connection", lambda s: bool(s.flags & p.RST))
    early = c.tcp(PUPPET)  # in SYN-RECEIVED
    early.handshake_to_syn_ack()
    early.emit(p.RST, options=b"")
    early.silence(1.6, "after a RST in SYN-RECEIVED")


@check("RFC 9293 3.5: an upstream reset is a reset to the app, not a clean end")
def upstream_rst_reaches_app(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        c.puppet(app, "send", data=b"last words".hex())
        require(app.read(10) == b"last words", "the data before the reset")
        time.sleep(0.05)
        c.puppet(app, "reset")
        _reset_comes(app, "after data")
    quiet = c.connect(PUPPET)
    c.puppet(quiet, "reset")
    _reset_comes(quiet, "on an idle connection")
    unread = c.connect(RESET_ON_DATA)
    unread.push(b"x" * 1000)
    _reset_comes(unread, "on the app's data")
    half = c.connect(PUPPET)
    half.finish()
    half.expect_ack("ACK of our FIN")
    c.upstream(half, lambda s: s["eof"], "our FIN")
    c.puppet(half, "reset")
    _reset_comes(half, "after the app's FIN")
    early = c.tcp(RESET_AT_ONCE)
    early.syn()
    answer = early.expect("answer to the SYN")
    if not answer.flags & p.RST:
        early.accept_syn_ack(answer)
        early.ack()
        _reset_comes(early, "right after the connect")


def _reset_comes(app: TcpApp, when: str) -> None:
    while True:
        packet = app.expect(f"RST {when}", timeout=2.5)
        require(not packet.flags & p.FIN, f"an upstream reset {when} is shown as FIN")
        if packet.flags & p.RST:
            require(
                packet.seq == app.rcv_nxt,
                f"the RST {when} has SEQ {packet.seq}, the app expects {app.rcv_nxt}: it would be challenged",
            )
            return
        app.absorb(packet)


@check("RFC 5961 3.2; Linux tcp_rst selftests")
def rst_inexact_challenge(c: Case) -> None:
    for v in c.variants():
        for offset in (1, 2, 1000, 20000):
            for flags in (p.RST, p.RST | p.ACK):
                app = c.connect(**v)
                app.emit(flags, seq=app.snd_nxt + offset, options=b"")
                _challenge(app, f"a RST {offset} beyond RCV.NXT")
                if flags == p.RST:
                    app.works()
    app = c.connect(PUPPET)
    app.emit(p.RST, seq=app.snd_nxt + 7, options=b"")
    answer = _challenge(app, "an inexact RST")
    app.emit(p.RST, seq=answer.ack, options=b"")
    require(c.upstream(app, lambda s: s["reset"], "the exact RST after the challenge"), "")


@check("RFC 5961 3.2")
def rst_outside_window_ignored(c: Case) -> None:
    for v in c.variants():
        for offset in (-1, -1000, 1 << 30, 1 << 31, -(1 << 30)):
            app = c.connect(**v)
            app.emit(p.RST, seq=app.snd_nxt + offset, options=b"")
            app.emit(p.RST | p.ACK, seq=app.snd_nxt + offset, options=b"")
            app.silence(0.08, f"a RST at {offset} is outside the window and gets no answer")
            app.works()


@check("RFC 5961 4.2; RFC 9293 3.10.7.4")
def syn_in_established(c: Case) -> None:
    for v in c.variants():
        for offset in (0, 1, 5000, -5000, 1 << 30):
            app = c.connect(**v)
            app.emit(p.SYN, seq=app.snd_nxt + offset, options=b"")
            _challenge(app, f"a SYN at {offset} from RCV.NXT")
            app.works()
        app = c.connect(**v)
        app.emit(p.SYN | p.ACK, options=b"")
        _challenge(app, "a SYN|ACK")
        app.works()
    same = c.connect()
    same.emit(p.SYN, seq=same.iss)  # the first SYN again, with its options
    _challenge(same, "the first SYN again")
    same.works()


@check("RFC 5961 5.2, RFC 9293 3.10.7.4; packetimpact tcp_unacc_seq_ack")
def ack_of_unsent_data(c: Case) -> None:
    for v in c.variants():
        for offset in (1, 1000, 1 << 30):
            app = c.connect(PUPPET, **v)
            app.emit(p.ACK, ack=app.rcv_nxt + offset)
            app.emit(p.ACK | p.PSH, b"liar", ack=app.rcv_nxt + offset)
            app.silence(
                0.1,
                f"an ACK {offset} beyond SND.NXT",
                lambda s: s.flags == p.ACK and s.ack == app.snd_nxt and not s.data,  # noqa: B023
            )
            c.puppet(app, "send", data=b"unharmed".hex())
            require(app.read(8) == b"unharmed", "the connection suffers from an ACK of what was not sent")
            app.push(b"truth")
            app.expect_ack("ACK of true data")
            state = c.upstream(app, lambda s: s["count"] >= 5, "the true data")
            require(
                bytes.fromhex(state["head"]) == b"truth",
                f"data with an unacceptable ACK was delivered: {bytes.fromhex(state['head'])!r}",
            )
    early = c.tcp(PUPPET)  # in SYN-RECEIVED: <SEQ=SEG.ACK><CTL=RST>
    early.handshake_to_syn_ack()
    early.ack(ack=early.rcv_nxt + 1000)
    answer = early.expect("RST to a wrong ACK in SYN-RECEIVED", lambda s: not s.flags & p.SYN)
    require(
        answer.flags & p.RST and answer.seq == (early.rcv_nxt + 1000) & MASK, f"wrong ACK in SYN-RECEIVED: {answer}"
    )


@check("RFC 9293 3.4 MUST-13ff; packetimpact tcp_outside_the_window")
def data_outside_window(c: Case) -> None:
    for v in c.variants():
        for offset in (1, 1000, 100_000, 1 << 30):
            app = c.connect(PUPPET, **v)
            app.write(b"ok")
            app.emit(p.ACK | p.PSH, b"beyond the window", seq=app.snd_una + app.peer_window + offset)
            answer = app.expect(f"ACK to data {offset} beyond the window", strict=True)
            require(answer.flags == p.ACK and answer.ack == app.snd_nxt, f"data beyond the window: {answer}")
            require(not answer.sack_blocks, f"data {offset} beyond the window was kept (SACK)")
            app.push(b"in order")
            app.expect_ack()
            state = c.upstream(app, lambda s: s["count"] >= 10, "the data")
            require(bytes.fromhex(state["head"]) == b"okin order", "data beyond the window was delivered")


@check("RFC 9293 3.10.7.4 old data is acknowledged, not delivered")
def old_data_acked(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        app.write(b"0123456789" * 20)
        for start, size in ((200, 200), (200, 1), (1, 1), (100, 100), (50, 10)):
            app.emit(p.ACK | p.PSH, b"0123456789" * (size // 10) or b"9", seq=app.snd_nxt - start)
            answer = app.expect("ACK of old data", strict=True)
            require(answer.flags == p.ACK and answer.ack == app.snd_nxt, f"old data: {answer}")
        app.write(b"new")
        state = c.upstream(app, lambda s: s["count"] >= 203, "the data")
        require(
            state["count"] == 203 and bytes.fromhex(state["head"]).endswith(b"789new"),
            f"old data was delivered again ({state['count']} octets)",
        )


@check("RFC 7323 5.3; packetimpact tcp_paws_mechanism")
def paws(c: Case) -> None:
    for v6 in (False, True):
        app = c.connect(PUPPET, v6=v6)
        time.sleep(0.02)
        app.push(b"fresh")
        app.expect_ack()
        for age in (2000, 1_000_000, 1 << 30):
            app.emit(p.ACK | p.PSH, b"stale", tsval=app.tsval - age)
            answer = app.expect("ACK to a segment with an old timestamp", strict=True)
            require(
                answer.flags == p.ACK and answer.ack == app.snd_nxt, f"PAWS: wanted ACK of {app.snd_nxt}, got {answer}"
            )
        app.emit(p.FIN | p.ACK, tsval=app.tsval - 5000)
        answer = app.expect("ACK to a FIN with an old timestamp", strict=True, timeout=1.2)
        require(answer.ack == app.snd_nxt, "a FIN with an old timestamp was taken")
        app.push(b"again")
        app.expect_ack()
        state = c.upstream(app, lambda s: s["count"] >= 10, "the data")
        require(
            bytes.fromhex(state["head"]) == b"freshagain" and not state["eof"],
            "a segment with an old timestamp was delivered",
        )
    wrapped = c.connect(PUPPET, tsval=0xFFFFFFFF - 50)  # the timestamp clock wraps
    for _ in range(4):
        wrapped.write(b"wrap")
        time.sleep(0.03)
    c.upstream(wrapped, lambda s: s["count"] == 16, "data across a wrap of the timestamp")


@check("RFC 7323 4.3 TSecr")
def timestamp_echo(c: Case) -> None:
    for v6 in (False, True):
        app = c.connect(v6=v6)
        for number in range(5):
            time.sleep(0.012)
            stamp = app.tsval
            app.emit(p.ACK | p.PSH, b"ping%d" % number, tsval=stamp)
            app.snd_nxt += 5
            answer = app.expect("echoed data", lambda s: bool(s.data))
            require(answer.tsecr == stamp, f"TSecr {answer.tsecr}, the data had TSval {stamp}")
            previous = app.ts_recent
            require((answer.tsval - previous) & MASK < 1 << 31, "TSval went backwards")
            app.absorb(answer)
            app.ack()
        app.inbox.drain()
        stamp = app.tsval
        time.sleep(0.02)
        app.emit(p.ACK, b"gap", seq=app.snd_nxt + 10)  # RFC 7323 4.3: an out-of-order segment does not change TS.Recent
        answer = app.expect("duplicate ACK")
        require(
            (answer.tsecr - stamp) & MASK > 1 << 31 or answer.tsecr == stamp,
            "TSecr of a duplicate ACK is that of the out-of-order segment",
        )
        time.sleep(0.02)
        stamp = app.tsval
        app.emit(p.ACK | p.PSH, b"0123456789", tsval=stamp)  # fills the gap
        answer = app.expect("ACK of the filled gap", lambda s: s.ack == (app.snd_nxt + 13) & MASK)  # noqa: B023
        require(answer.tsecr == stamp, f"TSecr after a filled gap is {answer.tsecr}, the filling segment had {stamp}")


@check("RFC 9293 3.8.4; packetdrill fastopen-connect-keepalive")
def keepalive_answered(c: Case) -> None:
    for v in c.variants():
        for data in (b"", b"\0"):
            app = c.connect(PUPPET, **v)
            app.write(b"some data")
            app.emit(p.ACK, data, seq=app.snd_nxt - 1)
            answer = app.expect("answer to a keep-alive", strict=True)
            require(
                answer.flags == p.ACK and answer.ack == app.snd_nxt and answer.seq == app.rcv_nxt,
                f"keep-alive: {answer}",
            )
            state = c.upstream(app, lambda s: s["count"] >= 9, "the data")
            require(state["count"] == 9, "a keep-alive's octet was delivered")
        fresh = c.connect(**v)
        fresh.emit(p.ACK, seq=fresh.snd_nxt - 1)
        fresh.expect_ack("answer to a keep-alive before any data")
        fresh.works(pattern(64))
