"""Rows about opening a connection, refusing one, and segments that belong to none.

RFCs: 9293 3.5 3.7.1 3.8.1 3.10.7, 7323 1.3 2.2, 2018 2, 6191, 1122 4.2.
"""

from __future__ import annotations

import itertools
import time

from . import packets as p
from .app import TcpApp
from .registry import Case, check, require
from .upstream import BLACKHOLE, CLOSED, DIGEST, ECHO, PUPPET

SYN_ACK = p.SYN | p.ACK


def _is_syn_ack(packet: p.Packet) -> bool:
    return packet.flags & SYN_ACK == SYN_ACK


@check("RFC 9293 3.5; packetdrill tcp/blocking")
def handshake(c: Case) -> None:
    for v in c.variants():
        app = c.tcp(PUPPET, **v)
        answer = app.handshake_to_syn_ack()
        require(answer.flags == SYN_ACK, f"flags of the SYN|ACK: {answer}")
        require(answer.ack == (app.iss + 1) & 0xFFFFFFFF, "SYN|ACK does not acknowledge ISS+1")
        require(not answer.data, "data on the SYN|ACK")
        require(answer.window > 0, "SYN|ACK with a window of zero")
        app.ack()
        state = c.upstream(app, lambda s: True, "the connection")
        require(state["count"] == 0 and not state["eof"], f"the handshake alone showed {state} to the server")
        app.silence(0.25, "after the handshake")
        app.push(b"hello")
        app.expect_ack("ACK of the first data")
        c.upstream(app, lambda s: bytes.fromhex(s["head"]) == b"hello", "'hello'")
        c.puppet(app, "send", data=b"welcome".hex())
        require(app.read(7) == b"welcome", "the server's words did not come")
        require(len(c.connections(app)) == 1, "more than one connection at the server")


@check("RFC 9293 3.7.1, RFC 7323 2.2; packetdrill tcp/mss")
def synack_options(c: Case) -> None:
    for v6 in (False, True):
        app = c.tcp(v6=v6, wscale=3)
        answer = app.handshake_to_syn_ack()
        missing = {2, 3, 4, 8} - set(answer.options)
        require(not missing, f"SYN|ACK lacks the options {missing}")
        most = 1440 if v6 else 1460
        got = int.from_bytes(answer.options[2], "big")
        require(536 <= got <= most, f"MSS {got} on a link with MTU 1500 (at most {most})")
        require(answer.options[3][0] <= 14, f"window scale {answer.options[3][0]}")
        require(0 <= (app.tsval - answer.tsecr) < 3000, "TSecr of the SYN|ACK is not the SYN's TSval")
        app.ack()
        app.works()
    far = c.tcp(mss=65495)
    require(int.from_bytes(far.handshake_to_syn_ack().options[2], "big") <= 1460, "MSS above the link's")


@check("RFC 7323 1.3/2.2, RFC 2018 2: never answer an option that was not offered")
def no_unoffered_options(c: Case) -> None:
    for ts, sack, scale in itertools.product((False, True), (False, True), (None, 5)):
        app = c.tcp(PUPPET, ts=ts, sack=sack, wscale=scale)
        answer = app.handshake_to_syn_ack()
        offered = {2} | ({8} if ts else set()) | ({4} if sack else set()) | ({3} if scale is not None else set())
        extra = set(answer.options) - offered
        require(not extra, f"SYN|ACK has {extra} which was not offered (offered: {sorted(offered)})")
        app.ack()
        app.emit(p.ACK, b"later", seq=app.snd_nxt + 100)  # a gap, which invites SACK
        duplicate = app.expect_ack("duplicate ACK")
        require(sack or 5 not in duplicate.options, "SACK blocks although SACK was not permitted")
        require(ts == (8 in duplicate.options), f"timestamps on an ACK: {8 in duplicate.options}, negotiated: {ts}")
        c.puppet(app, "send", data="00" * 10)
        data = app.expect("data", lambda s: bool(s.data))
        require(ts == (8 in data.options), f"timestamps on data: {8 in data.options}, negotiated: {ts}")
        require(set(data.options) <= {8, 5}, f"options on data: {sorted(data.options)}")
    bare = c.tcp(mss=None, ts=False, sack=False, wscale=None)
    require(set(bare.handshake_to_syn_ack().options) <= {2}, "options towards a SYN that had none")


@check("RFC 9293 MUST-6 unknown options ignored")
def unknown_option(c: Case) -> None:
    strange = [
        bytes((253, 4, 0xF9, 0x89)),
        bytes((254, 2)),
        bytes((99, 8, 1, 2, 3, 4, 5, 6)),
        bytes((34, 2)),
        bytes((30, 12)) + bytes(10),
    ]
    for option in strange:
        for v6 in (False, True):
            app = c.tcp(v6=v6, ts=False)
            app.syn(options=option + app.syn_options())
            answer = app.expect("SYN|ACK")
            app.accept_syn_ack(answer)
            require(set(answer.options) <= {2, 3, 4}, f"SYN|ACK answers with options {sorted(answer.options)}")
            app.ack(options=option)
            app.emit(p.ACK | p.PSH, b"odd options", options=option)
            app.snd_nxt += 11
            require(app.read(11) == b"odd options", f"data with option {option[0]} was not carried")


@check("RFC 9293 3.8.1; packetimpact tcp_synrcvd; packetdrill gvisor accept_ack_drop")
def synack_retransmitted(c: Case) -> None:
    for v6 in (False, True):
        app = c.tcp(v6=v6)
        first = app.handshake_to_syn_ack()
        again = app.expect("second SYN|ACK", timeout=4.0)
        require(
            _is_syn_ack(again) and again.seq == first.seq and again.ack == first.ack,
            f"not the same SYN|ACK: {first}, {again}",
        )
        require(again.time - first.time > 0.15, f"SYN|ACK repeated after only {again.time - first.time:.3f} s")
        same = {k: v for k, v in first.options.items() if k != 8} == {k: v for k, v in again.options.items() if k != 8}
        require(same, "the second SYN|ACK has other options")
        app.ack()
        app.works()
        app.silence(1.5 if not v6 else 0.0, "after the handshake was completed", lambda s: not s.flags & p.SYN)


@check("RFC 9293 3.10.7.4 (SYN-RECEIVED, old duplicate SYN)")
def duplicate_syn_same_iss(c: Case) -> None:
    for v in c.variants():
        app = c.tcp(PUPPET, **v)
        syn = app.packet(p.SYN)
        app.wire.send(syn)
        first = app.expect("SYN|ACK", _is_syn_ack)
        app.snd_nxt = app.iss + 1 & 0xFFFFFFFF
        app.wire.send(syn)
        second = app.expect("SYN|ACK for the repeated SYN", timeout=1.5)
        require(
            _is_syn_ack(second) and second.seq == first.seq, f"another answer to the same SYN: {first} then {second}"
        )
        app.accept_syn_ack(second)
        app.ack()
        app.push(b"one")
        app.expect_ack()
        c.upstream(app, lambda s: bytes.fromhex(s["head"]) == b"one", "the data")
        require(
            len(c.connections(app)) == 1, f"{len(c.connections(app))} connections at the server for one SYN sent twice"
        )
    twice = c.tcp(PUPPET)
    syn = twice.packet(p.SYN)
    twice.wire.send(syn, syn, syn)  # at once, while the dial is under way
    first = twice.expect("SYN|ACK", _is_syn_ack)
    time.sleep(0.2)
    require(all(s.seq == first.seq for s in twice.inbox.drain()), "several initial sequence numbers for one pair")
    twice.snd_nxt += 1
    twice.accept_syn_ack(first)
    twice.ack()
    time.sleep(0.1)
    require(
        len(c.connections(twice)) == 1,
        f"{len(c.connections(twice))} connections at the server for one SYN sent three times",
    )


@check("RFC 9293 3.10.7.1: refused upstream is refused to the app, before any SYN-ACK")
def closed_port_refused(c: Case) -> None:
    for v in c.variants():
        for data in (b"", b"early"):
            app = c.tcp(CLOSED, **v)
            app.syn(data)
            answer = app.expect("RST", strict=True)
            require(answer.flags & ~p.PSH == p.RST | p.ACK, f"wanted RST|ACK, got {answer}")
            require(
                answer.ack == app.snd_nxt,
                f"RST acknowledges {answer.ack - app.iss} octets of the SYN, not {1 + len(data)}",
            )
            require(answer.seq == 0, "RST|ACK to a SYN has sequence number 0 (RFC 9293 3.10.7.1)")
    app.silence(0.3, "after the refusal")


@check("RFC 1122 4.2.3.5: unreachable upstream must not look connected")
def blackhole_not_accepted(c: Case) -> None:
    apps = [c.tcp(BLACKHOLE), c.tcp(BLACKHOLE, v6=True), c.tcp(BLACKHOLE, ts=False, sack=False, wscale=None)]
    start = time.monotonic()
    while time.monotonic() - start < 6.0:
        for app in apps:
            app.syn()
        time.sleep(1.0)
        for app in apps:
            for packet in app.inbox.drain():
                require(not _is_syn_ack(packet), "SYN|ACK for a server that does not answer")
                require(packet.flags & p.RST, f"neither silence nor refusal: {packet}")
    c.serving()


@check("RFC 9293 3.10.7.1; gvisor reset_for_ack_when_no_syn_cookies_in_use.pkt")
def stray_ack_gets_rst(c: Case) -> None:
    for port, v6 in itertools.product((CLOSED, ECHO), (False, True)):
        for flags, data in ((p.ACK, b""), (p.ACK | p.PSH, b"no such connection"), (p.ACK | p.FIN, b""), (SYN_ACK, b"")):
            app = c.tcp(port, v6=v6, ts=False)
            app.rcv_nxt = 0x12345678
            app.emit(flags, data, options=b"")
            answer = app.expect("RST to a stray segment with ACK", strict=True)
            require(
                answer.flags & p.RST and answer.seq == 0x12345678,
                f"RST must have the sequence number of the ACK field: {answer}",
            )
            require(not answer.flags & p.ACK, f"RST to a segment with ACK carries no ACK: {answer}")
    for v6 in (False, True):
        app = c.tcp(CLOSED, v6=v6)
        app.emit(p.PSH, b"four", options=b"")
        answer = app.expect("RST|ACK to a segment without ACK", strict=True)
        require(
            answer.flags & (p.RST | p.ACK) == p.RST | p.ACK
            and answer.seq == 0
            and answer.ack == (app.iss + 4) & 0xFFFFFFFF,
            f"RST to a segment without ACK: {answer}",
        )


@check("RFC 9293 3.5.2; gvisor no_rst_to_rst.pkt")
def no_rst_to_rst(c: Case) -> None:
    apps = []
    for port, v6, flags in itertools.product(
        (CLOSED, ECHO), (False, True), (p.RST, p.RST | p.ACK, p.RST | p.FIN, p.RST | p.SYN)
    ):
        app = c.tcp(port, v6=v6)
        app.rcv_nxt = 4711
        app.emit(flags, options=b"")
        apps.append(app)
    time.sleep(0.6)
    for app in apps:
        got = app.inbox.drain()
        require(not got, f"an answer to a RST: {' '.join(map(str, got))}")


@check("RFC 9293 3.10.7.4: data with the third handshake packet")
def data_on_handshake_ack(c: Case) -> None:
    for v in c.variants():
        app = c.tcp(**v)
        app.handshake_to_syn_ack()
        app.push(b"third packet")
        require(app.read(12) == b"third packet", "data on the third packet was not echoed")
        app.works()
        ended = c.tcp(DIGEST, **v)
        ended.handshake_to_syn_ack()
        ended.emit(p.FIN | p.ACK | p.PSH, b"all at once")
        ended.snd_nxt += 12
        require(ended.read_to_end().startswith(b"11 "), "data and FIN on the third packet")


@check("RFC 9293 3.10.7.2 data on SYN is kept or sent again; zeek payload-syn.pcap")
def data_on_syn(c: Case) -> None:
    for v in c.variants():
        app = c.tcp(PUPPET, **v)
        app.syn(b"data on the SYN")
        answer = app.expect("SYN|ACK")
        require(
            answer.ack in ((app.iss + 1) & 0xFFFFFFFF, (app.iss + 16) & 0xFFFFFFFF),
            f"SYN|ACK acknowledges {answer.ack - app.iss} octets",
        )
        app.accept_syn_ack(answer)
        app.ack()
        app.write(b"data on the SYN, and more"[(answer.ack - app.iss - 1) & 0xFFFFFFFF :])
        state = c.upstream(app, lambda s: s["count"] >= 25, "the data")
        got = bytes.fromhex(state["head"])
        require(got == b"data on the SYN, and more", f"the server got {got!r}")


@check("RFC 1122 4.2.2.13 / RFC 6191: a new SYN may reuse the pair; packetimpact tcp_timewait_reset")
def port_reuse_after_close(c: Case) -> None:
    for server_first in (False, True):
        for v in c.variants():
            app = c.connect(PUPPET, **v)
            app.write(b"first")
            if server_first:  # the engine's end is the active closer and goes to TIME-WAIT
                c.puppet(app, "shutdown")
                app.read_to_end()
                app.finish()
                app.expect_ack("ACK of our FIN")
            else:
                app.finish()
                app.expect_ack("ACK of our FIN")
                c.puppet(app, "shutdown")
                app.read_to_end()
            time.sleep(0.06)
            _again(c, app, iss=app.snd_nxt + 64000, same_clock=True)
    app = c.connect(PUPPET)  # a lower ISS with a later timestamp (RFC 6191)
    app.write(b"first")
    c.puppet(app, "shutdown")
    app.read_to_end()
    app.finish()
    app.expect_ack("ACK of our FIN")
    time.sleep(0.06)
    _again(c, app, iss=app.iss - 100_000, same_clock=True)


def _again(c: Case, old: TcpApp, *, iss: int, same_clock: bool) -> None:
    """A new connection on the pair of an old one."""
    app = TcpApp(
        c.wire,
        old.src,
        old.dst,
        old.dport,
        sport=old.sport,
        ts=old.ts,
        sack=old.sack,
        wscale=old.wscale,
        iss=iss & 0xFFFFFFFF,
    )
    if same_clock:
        app.ts_base = old.ts_base
    app.inbox.drain()
    app.connect(timeout=2.5, repeat=1.0)
    app.write(b"second")
    c.upstream(app, lambda s: bytes.fromhex(s["head"]) == b"second", "the second connection's data")
    c.puppet(app, "send", data=b"yes".hex())
    require(app.read(3) == b"yes", "the second connection carries nothing down")
    require(len(c.connections(app)) == 2, "not exactly two connections at the server")


@check("RFC 9293 3.5 abort then at once a new connection on the same pair")
def port_reuse_after_rst(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        app.write(b"first")
        app.reset()
        _again(c, app, iss=app.snd_nxt + 64000, same_clock=True)
    app = c.connect(PUPPET)
    app.emit(p.RST, options=b"")
    _again(c, app, iss=app.snd_nxt + 1, same_clock=True)
    third = c.connect(PUPPET)  # reset by the server, then again
    third.write(b"first")
    c.puppet(third, "reset")
    third.expect("RST", lambda s: bool(s.flags & p.RST))
    _again(c, third, iss=third.snd_nxt + 1, same_clock=True)
