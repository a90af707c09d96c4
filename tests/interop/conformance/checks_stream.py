"""Rows about an open connection: data, its end, loss and reordering, sizes and windows.

RFCs: 9293 3.4 3.6 3.7.1 3.8 3.10.7.4, 5681, 6298, 2018, 7323 2.3.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import time

from . import packets as p
from .app import MASK, TcpApp
from .registry import Case, check, require
from .upstream import BANNER, DIGEST, EARLY_FIN, PUPPET, SOURCE, STALL, pattern


@check("RFC 9293 3.8")
def echo_1000(c: Case) -> None:
    for v in c.variants():
        app = c.connect(**v)
        app.works(pattern(1000))
        for number in range(60):
            app.works(pattern(1 + number * 7))
        app.close()


@check("RFC 9293 3.8: 1 MiB down, then FIN")
def bulk_down(c: Case) -> None:
    for v in c.variants():
        app = c.connect(SOURCE, **v)
        app.push(b"1048576\n")
        got = app.read_to_end(15)
        require(
            hashlib.sha256(got).digest() == hashlib.sha256(pattern(1048576)).digest(),
            f"{len(got)} octets came, and not the right ones",
        )
        app.finish()
        app.expect_ack("ACK of our FIN")


def _digest(data: bytes) -> bytes:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()


@check("RFC 9293 3.8: 256 KiB up, FIN, digest back (half close by the app); RFC 1122 4.2.2.13; shutdown-wr-close")
def bulk_up_half_close(c: Case) -> None:
    for v in c.variants():
        app = c.connect(DIGEST, **v)
        app.write(pattern(262144))
        app.finish()
        require(app.read_to_end() == _digest(pattern(262144)), "the server counted something else")
        app.silence(0.1, "after both ends closed")
    empty = c.connect(DIGEST)
    empty.finish()
    require(empty.read_to_end() == _digest(b""), "half close without data")
    late = c.connect(PUPPET)  # the app is done long before the server speaks
    late.finish()
    late.expect_ack("ACK of our FIN")
    c.upstream(late, lambda s: s["eof"], "our FIN")
    late.silence(0.5, "half closed")
    c.puppet(late, "send", count=100_000)
    require(late.read(100_000, 5.0) == pattern(100_000), "data after the app's FIN")
    c.puppet(late, "shutdown")
    late.read_to_end()
    once = c.connect(DIGEST)  # data and FIN in one segment
    once.emit(p.FIN | p.ACK | p.PSH, b"last")
    once.snd_nxt += 5
    require(once.read_to_end() == _digest(b"last"), "data with the FIN")


@check("RFC 9293 3.6; packetdrill close-remote-fin-then-close, shutdown-rd: server ends first, app goes on sending")
def server_half_close(c: Case) -> None:
    for v in c.variants():
        app = c.connect(EARLY_FIN, **v)
        require(app.read_to_end() == BANNER, "the server's words before its FIN")
        time.sleep(0.2)
        app.write(pattern(100_000))
        app.finish()
        app.expect_ack("ACK of our FIN")
        state = c.upstream(app, lambda s: s["eof"], "the end of our stream")
        require(
            state["count"] == 100_000 and state["digest"] == hashlib.sha256(pattern(100_000)).hexdigest(),
            "what the app sent after the server's FIN",
        )
        require(not state["reset"], "the server saw a reset")


@check("RFC 9293 3.6 simultaneous close (Figure 13)")
def simultaneous_close(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        app.write(b"data")
        c.puppet(app, "shutdown")
        fin = app.expect("FIN", lambda s: bool(s.flags & p.FIN))
        require(fin.seq == app.rcv_nxt, "SEQ of the FIN")
        app.finish()  # acknowledges all but their FIN: the two have crossed
        answer = app.expect("ACK of our FIN in CLOSING", lambda s: s.ack == app.snd_nxt)  # noqa: B023
        require(not answer.flags & p.RST, "reset in CLOSING")
        app.rcv_nxt = app.rcv_nxt + 1 & MASK
        app.ack()
        app.silence(0.6, "after a simultaneous close")
        state = c.upstream(app, lambda s: s["eof"], "our FIN")
        require(not state["reset"] and state["count"] == 4, "the server's view of the close")


@check("packetimpact tcp_fin_retransmission; RFC 9293 3.8.1")
def fin_retransmitted(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        c.puppet(app, "shutdown")
        first = app.expect("FIN", lambda s: bool(s.flags & p.FIN))
        again = app.expect("second FIN", lambda s: bool(s.flags & p.FIN), timeout=4.0)
        require(again.seq == first.seq, "the second FIN has another SEQ")
        require(again.time - first.time > 0.1, "the FIN is repeated at once")
        app.rcv_nxt = first.seq + 1 & MASK
        app.ack()
        time.sleep(0.05)
        app.inbox.drain()
        app.silence(0.9, "after the FIN was acknowledged")
        app.write(b"still half open")
        c.upstream(app, lambda s: s["count"] == 15, "data in FIN-WAIT-2")


@check("packetimpact tcp_retransmits; RFC 6298; packetdrill fast_retransmit")
def data_retransmitted(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        c.puppet(app, "send", data=b"lost on the way".hex())
        copies = [
            app.expect(f"copy {number + 1} of unacknowledged data", lambda s: bool(s.data), timeout=4.0)
            for number in range(4)
        ]
        require(all(s.seq == app.rcv_nxt and s.data == b"lost on the way" for s in copies), "a retransmission differs")
        gaps = [b.time - a.time for a, b in itertools.pairwise(copies)]
        require(gaps[0] > 0.08 if v else gaps[0] > 0.005, f"repeated after {gaps[0] * 1000:.0f} ms")
        require(gaps[2] > 1.6 * gaps[1], f"no exponential back-off: {[round(gap, 3) for gap in gaps]} s")
        app.absorb(copies[-1])
        app.ack()
        time.sleep(0.05)
        app.inbox.drain()
        app.silence(max(1.0, 1.5 * gaps[2]) if not v else 0.3, "after the data was acknowledged")
        app.data.clear()
        c.puppet(app, "send", data=b"and on".hex())
        require(app.read(6) == b"and on", "data after a loss")


@check("RFC 5681 3.2 (three duplicate ACKs, before the RTO); packetdrill fr-4pkt", alone=True)
def fast_retransmit(c: Case) -> None:
    for v in c.variants():
        for lost in (0, 2):
            app = c.connect(PUPPET, **v)
            c.puppet(app, "send", data="00")
            app.read(1)  # a round trip is measured
            size = 1448 if not v else 1460 if "ts" in v else 1428
            c.puppet(app, "send", count=size * 10)
            segments: list[p.Packet] = []
            while sum(len(s.data) for s in segments) < size * 10:
                segments.append(app.expect("ten segments in flight (RFC 6928)", lambda s: bool(s.data)))
            for packet in segments[:lost]:
                app.absorb(packet)
            if lost:
                app.ack()
            missing = segments[lost]
            first = missing.seq + len(missing.data) & MASK
            for packet in segments[lost + 1 :][:4]:
                blocks = p.sack((first, packet.seq + len(packet.data))) if app.sack_used else b""
                app.ack(extra=blocks)
            sent = time.monotonic()
            again = app.expect(
                "retransmission after duplicate ACKs",
                lambda s: s.seq == missing.seq and bool(s.data),  # noqa: B023
                timeout=0.15,
            )
            require(again.data == missing.data[: len(again.data)], "the retransmission differs")
            require(again.time - sent < 0.15, f"retransmitted only after {again.time - sent:.3f} s")
            for packet in segments[lost:]:
                app.absorb(packet)
            app.ack()
            require(bytes(app.data) == pattern(size * 10), "the ten segments")
            time.sleep(0.03)
            app.inbox.drain()
            app.silence(0.3, "after everything was acknowledged", lambda s: not s.data)
            app.data.clear()
            c.puppet(app, "send", count=30_000)
            require(app.read(30_000) == pattern(30_000), "data after a fast retransmission")


@check("RFC 9293 3.10.7.4 out of order is queued or dropped, never reordered")
def out_of_order(c: Case) -> None:
    for v in c.variants():
        for turn in range(4):
            app = c.connect(PUPPET, **v)
            data = pattern(8000)
            order = list(range(0, 8000, 800))
            (
                order.reverse,
                lambda order=order: random.Random(3).shuffle(order),
                order.sort,
                lambda order=order: order.extend(order[::-1]),
            )[turn]()
            base = app.snd_nxt
            for at in order:
                app.emit(p.ACK | p.PSH, data[at : at + 800], seq=base + at)
            app.snd_nxt = base + 8000 & MASK
            _acknowledged(app, base, data)
            state = c.upstream(app, lambda s: s["count"] >= 8000, "all octets")
            require(
                state["digest"] == hashlib.sha256(data).hexdigest() and state["count"] == 8000,
                f"the order of the stream, turn {turn}",
            )
        late = c.connect(DIGEST, **v)  # FIN overtakes the data
        late.emit(p.FIN | p.ACK, seq=late.snd_nxt + 1000)
        late.expect("duplicate ACK", lambda s: s.ack == late.snd_nxt)  # noqa: B023
        late.emit(p.ACK | p.PSH, pattern(1000))
        late.snd_nxt = late.snd_nxt + 1000 & MASK
        late.pump(lambda: late.snd_una == late.snd_nxt, 1.0)  # noqa: B023
        if not late.fin:
            late.finish()  # an engine that had dropped it gets it again
        else:
            late.snd_nxt = late.snd_nxt + 1 & MASK
        require(late.read_to_end() == _digest(pattern(1000)), "a FIN that overtook the data")


def _acknowledged(app: TcpApp, base: int, data: bytes, timeout: float = 4.0) -> None:
    """Wait for the ACK of everything, repeating from snd_una as a sender does."""
    end = time.monotonic() + timeout
    while app.snd_una != app.snd_nxt:
        if not app.pump(lambda: app.snd_una == app.snd_nxt, 0.4):
            require(time.monotonic() < end, f"{(app.snd_una - base) & MASK} of {len(data)} octets acknowledged")
            at = (app.snd_una - base) & MASK
            app.emit(p.ACK | p.PSH, data[at : at + 800], seq=app.snd_una)


@check("RFC 5681 4.2 immediate duplicate ACK")
def dupack_on_gap(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        app.write(b"in order")
        app.inbox.drain()
        for number in range(1, 5):
            sent = time.monotonic()
            app.emit(p.ACK | p.PSH, b"x" * 100, seq=app.snd_nxt + number * 100)
            answer = app.expect(f"duplicate ACK {number}", strict=True)
            require(
                answer.flags == p.ACK and answer.ack == app.snd_nxt and not answer.data,
                f"duplicate ACK {number}: {answer}",
            )
            require(
                answer.time - sent < 0.035,
                f"duplicate ACK {number} came after {(answer.time - sent) * 1000:.0f} ms, not at once",
            )
            require(answer.window == app.peer_window >> app.peer_scale or number > 0, "")
        sent = time.monotonic()
        app.emit(p.ACK | p.PSH, b"y" * 100)  # RFC 5681 4.2: at once too when a gap is filled
        app.snd_nxt += 500
        answer = (
            app.expect_ack("ACK of the filled gap", timeout=1.0) if c.kernel else app.expect("ACK of the filled gap")
        )
        require(answer.time - sent < 0.035, "the ACK of a filled gap is delayed")


@check("RFC 2018 4; packetdrill tcp/sack")
def sack_block_on_gap(c: Case) -> None:
    for v6 in (False, True):
        app = c.connect(PUPPET, v6=v6)
        app.write(b"in order")
        app.inbox.drain()
        base = app.snd_nxt

        def out_of_order(at: int, size: int, app: TcpApp = app, base: int = base) -> list[tuple[int, int]]:
            app.emit(p.ACK | p.PSH, pattern(2000)[at : at + size], seq=base + at)
            answer = app.expect("duplicate ACK", strict=True)
            require(answer.ack == base, f"ACK moved over a gap: {answer}")
            return [((a - base) & MASK, (b - base) & MASK) for a, b in answer.sack_blocks]

        require(out_of_order(200, 100) == [(200, 300)], "SACK of the first gap")
        blocks = out_of_order(500, 100)
        require(blocks[:2] == [(500, 600), (200, 300)], f"SACK with two gaps, newest first (RFC 2018 4): {blocks}")
        blocks = out_of_order(300, 100)
        require(blocks[:2] == [(200, 400), (500, 600)], f"SACK after a block has grown: {blocks}")
        blocks = out_of_order(800, 100)
        require(blocks[:3] == [(800, 900), (200, 400), (500, 600)], f"SACK with three gaps: {blocks}")
        app.emit(p.ACK | p.PSH, pattern(2000)[:200], seq=base)
        app.snd_nxt = base + 400 & MASK
        answer = app.expect_ack("ACK up to the next gap")
        require(
            {((a - base) & MASK, (b - base) & MASK) for a, b in answer.sack_blocks} == {(500, 600), (800, 900)},
            f"SACK after the first gap was filled: {answer.sack_blocks}",
        )
        app.emit(p.ACK | p.PSH, pattern(2000)[400:500], seq=base + 400)
        app.emit(p.ACK | p.PSH, pattern(2000)[600:800], seq=base + 600)
        app.snd_nxt = base + 900 & MASK
        answer = app.expect_ack("ACK of everything")
        require(not answer.sack_blocks, "SACK blocks without a gap")
        state = c.upstream(app, lambda s: s["count"] >= 908, "the data")
        require(bytes.fromhex(state["head"])[8:] == pattern(2000)[:900], "the stream")


@check("RFC 9293 3.10.7.4 trimming; suricata-verify tcp-overlap")
def partial_overlap(c: Case) -> None:
    data = pattern(600)
    orders = [
        [(0, 100), (50, 150), (140, 600)],
        [(100, 300), (50, 200), (250, 600), (0, 60)],
        [(300, 400), (200, 500), (100, 600), (0, 600)],
        [(100, 200), (100, 200), (150, 160), (90, 600), (0, 95)],
        [(0, 100), (0, 200), (0, 600)],
    ]
    for v in c.variants():
        for order in orders:
            app = c.connect(PUPPET, **v)
            base = app.snd_nxt
            for a, b in order:
                app.emit(p.ACK | p.PSH, data[a:b], seq=base + a)
            app.snd_nxt = base + 600 & MASK
            _acknowledged(app, base, data)
            state = c.upstream(app, lambda s: s["count"] >= 600, "the data")
            require(
                state["count"] == 600 and bytes.fromhex(state["head"]) == data, f"the stream after overlaps {order}"
            )
        app = c.connect(PUPPET, **v)  # what was acknowledged stays as it was
        app.write(b"ORIGINAL")
        app.emit(p.ACK | p.PSH, b"FORGERY!+new", seq=app.snd_nxt - 8)
        app.snd_nxt += 4
        app.expect_ack()
        state = c.upstream(app, lambda s: s["count"] >= 12, "the data")
        require(bytes.fromhex(state["head"]) == b"ORIGINAL+new", f"the server got {bytes.fromhex(state['head'])!r}")
        fin = c.connect(PUPPET, **v)  # old data, new data and FIN in one
        fin.write(b"abc")
        fin.emit(p.FIN | p.ACK | p.PSH, b"abcdef", seq=fin.snd_nxt - 3)
        fin.snd_nxt += 4
        fin.expect_ack("ACK of the trimmed segment and its FIN")
        state = c.upstream(fin, lambda s: s["eof"], "our FIN")
        require(bytes.fromhex(state["head"]) == b"abcdef", "a trimmed segment with FIN")


@check("RFC 9293 3.4 sequence wrap; PcapPlusPlus one_tcp_stream_max_seq.pcap")
def sequence_wrap(c: Case) -> None:
    for v in c.variants():
        for iss in (0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFF00, 0xFFFFFFFF - 50_000, 0x7FFFFFFF, 0x7FFFFFF0):
            app = c.connect(DIGEST, iss=iss, **v)
            app.write(pattern(100_000))
            base = app.snd_nxt
            app.emit(p.ACK | p.PSH, b"second", seq=base + 5)
            app.expect("duplicate ACK", lambda s: s.ack == base)  # noqa: B023
            app.write(b"first" + b"second")
            app.finish()
            require(
                app.read_to_end() == _digest(pattern(100_000) + b"firstsecond"), f"100,000 octets from ISS {iss:#x}"
            )
    for iss in (0xFFFFFFFF - 200, 0xFFFFFFFF - 250):  # a gap right at the wrap
        app = c.connect(PUPPET, iss=iss)
        base = app.snd_nxt
        for at in (400, 200, 100, 300, 0):
            app.emit(p.ACK | p.PSH, pattern(500)[at : at + 100], seq=base + at)
        app.snd_nxt = base + 500 & MASK
        _acknowledged(app, base, pattern(500))
        require(
            bytes.fromhex(c.upstream(app, lambda s: s["count"] >= 500, "the data")["head"]) == pattern(500),
            "reordering across the wrap",
        )


@check("RFC 9293 3.7.1 MUST-16; packetdrill tcp/mss")
def obey_peer_mss(c: Case) -> None:
    for v in c.variants():
        for most in (100, 536, 1000, 1220, 9000, 65495):
            app = c.connect(SOURCE, mss=most, **v)
            app.push(b"30000\n")
            _segments_up_to(app, min(most, 1440 if app.v6 else 1460), 30_000)


def _segments_up_to(app: TcpApp, most: int, count: int) -> None:
    largest = 0
    while not app.fin:
        packet = app.expect("data", timeout=4.0)
        largest = max(largest, len(packet.data) + packet.option_octets)
        require(
            largest <= most,
            f"a segment of {len(packet.data)} octets and {packet.option_octets} of options; MSS {most} (RFC 6691)",
        )
        if app.absorb(packet):
            app.ack()
    require(len(app.data) == count and bytes(app.data) == pattern(count), "the data in small segments")
    require(largest > most * 0.8 or most > 1500, f"the largest segment has {largest} octets of {most} allowed")


@check("RFC 9293 MUST-15 default MSS 536 when no option")
def default_mss(c: Case) -> None:
    for v6 in (False, True):
        for options in ({"ts": False, "sack": False, "wscale": None}, {}):
            app = c.connect(SOURCE, mss=None, v6=v6, **options)
            app.push(b"20000\n")
            most = 1220 if v6 else 536
            got = 0
            while not app.fin:
                packet = app.expect("data", timeout=4.0)
                require(
                    len(packet.data) + packet.option_octets <= most,
                    f"a segment of {len(packet.data)} octets without an MSS option, at most {most}",
                )
                got += len(packet.data)
                if app.absorb(packet):
                    app.ack()
            require(bytes(app.data) == pattern(20_000), "the data")


@check("RFC 9293 3.8.6; packetimpact tcp_send_window_sizes")
def obey_receive_window(c: Case) -> None:
    for v in c.variants():
        for window in (1, 536, 3000, 5000, 20_000):
            app = c.connect(PUPPET, window=window, **{**v, "wscale": None})
            c.puppet(app, "send", count=60_000)
            got = _window_filled(app, window)
            require(
                got == window if window < 1460 else got > min(window, 14_000) - 1460,
                f"{got} of {window} octets of window used",
            )
            right = app.rcv_nxt + window
            for _ in range(3):  # the window slides
                app.rcv_nxt = app.rcv_nxt + got & MASK
                right = app.rcv_nxt + window
                app.ack()
                got = _window_filled(app, window)
            require(right, "")
        app = c.connect(PUPPET, window=10_000, **{**v, "wscale": None})  # ACK without more room
        c.puppet(app, "send", count=60_000)
        got = _window_filled(app, 10_000)
        app.rcv_nxt = app.rcv_nxt + got & MASK
        app.window = 10_000 - got
        app.ack()
        while (packet := app.next(0.12)) is not None:
            require(
                ((packet.seq + len(packet.data) - app.rcv_nxt) & MASK) <= max(1, app.window)
                or not packet.data
                or ((app.rcv_nxt - packet.seq) & MASK) < 20_000,
                f"sent past a window of {app.window}: {packet}",
            )


def _window_filled(app: TcpApp, window: int) -> int:
    """Receive without acknowledging until nothing more comes; fail on an octet past the window. Returns the octets."""
    got, wait = 0, 1.0
    while (packet := app.next(wait)) is not None:
        reach = (packet.seq + len(packet.data) - app.rcv_nxt) & MASK
        if packet.data and reach < 1 << 31:
            require(reach <= window, f"{reach - window} octets past a window of {window}")
            require(packet.data == _slice(app, packet), "the data in the window")
            got = max(got, reach)
            if got == window:
                wait = 0.05
        wait = min(wait, 0.12)
    require(got, "nothing was sent into an open window")
    return got


def _slice(app: TcpApp, packet: p.Packet) -> bytes:
    at = (packet.seq - app.irs - 1) & MASK
    return pattern(60_000)[at : at + len(packet.data)]


@check("RFC 7323 2.3: scaled window; packetdrill window-scale")
def obey_window_scale(c: Case) -> None:
    for v6 in (False, True):
        for scale, word in ((7, 100), (2, 1000), (0, 8000), (14, 1), (3, 1500)):
            app = c.connect(PUPPET, v6=v6, wscale=scale, window=word << scale)
            c.puppet(app, "send", count=60_000)
            got = _window_filled(app, word << scale)
            app.rcv_nxt = app.rcv_nxt + got & MASK
            app.ack()
            more = _window_filled(app, word << scale)
            require(
                more > min(0.7 * (word << scale), 13_000),
                f"only {more} octets sent into a window of {word} << {scale}: is it scaled?",
            )
    app = c.connect(PUPPET, wscale=7, window=65535 << 7)  # the SYN's own window is not scaled, ours is huge later
    c.puppet(app, "send", count=60_000)
    require(app.read(60_000) == pattern(60_000), "a huge window")
    up = c.connect(DIGEST, wscale=0)  # both offered: the engine's windows are scaled by what it said, even if ours is 0
    up.write(pattern(300_000))
    up.finish()
    require(up.read_to_end() == _digest(pattern(300_000)), "data into the engine's scaled window")


@check("RFC 9293 3.8.6.1 MUST-36; packetdrill user-timeout-probe")
def zero_window_probe(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        app.window = 0
        app.ack()
        time.sleep(0.03)
        c.puppet(app, "send", count=5000)
        times = []
        for number in range(4 if not v else 2):
            probe = app.expect(f"zero window probe {number + 1}", timeout=6.0)
            require(len(probe.data) <= 1, f"{len(probe.data)} octets into a window of zero")
            require(
                probe.seq in ((app.rcv_nxt - 1) & MASK, app.rcv_nxt),
                f"SEQ of the probe: {probe}, expected about {app.rcv_nxt}",
            )
            times.append(probe.time)
            app.ack()
        gaps = [b - a for a, b in itertools.pairwise(times)]
        if not v:
            require(gaps[-1] > 1.5 * gaps[0], f"probes do not back off: {[round(gap, 2) for gap in gaps]} s")
        app.window = 65535
        app.ack()
        opened = time.monotonic()
        require(app.read(5000) == pattern(5000), "data after the window opened")
        require(time.monotonic() - opened < 0.25, "data waits although the window opened")


@check("back pressure: upstream that never reads; memory stays bounded", alone=True)
def upstream_stall_backpressure(c: Case) -> None:
    before = c.bench.resident()
    app = c.connect(STALL)
    data = pattern(1 << 20) * 24
    base = app.snd_nxt
    end, quiet = time.monotonic() + 8, time.monotonic()
    while time.monotonic() < end and time.monotonic() - quiet < 1.2:
        sent = False
        for _ in range(16):
            at = (app.snd_nxt - base) & MASK
            room = app.peer_window - ((app.snd_nxt - app.snd_una) & MASK)
            if room < 1448 or at >= len(data):
                break
            app.push(data[at : at + 1448], p.ACK)
            sent = True
        una = app.snd_una
        packet = app.next(0.05)
        while packet is not None:
            app.absorb(packet)
            packet = app.inbox.get(0.0)
        if sent or app.snd_una != una:
            quiet = time.monotonic()
    taken = (app.snd_una - base) & MASK
    require(taken < 12 << 20, f"{taken / 1048576:.1f} MiB were taken for a server that never reads")
    grown = c.bench.resident() - before
    require(c.kernel or grown < 8 << 20, f"RSS grew by {grown / 1048576:.1f} MiB for one stalled connection")
    room = app.peer_window - ((app.snd_nxt - app.snd_una) & MASK)
    require(room < 1448, f"the window stays open ({room} octets) though nothing more is taken")
    if app.snd_nxt != app.snd_una:  # the last octets were not taken: back to the first of them
        app.snd_nxt = app.snd_una
    app.emit(p.ACK, seq=app.snd_nxt - 1)
    probe = app.expect("answer to our window probe")
    require(probe.ack == app.snd_nxt, "the answer to a window probe")
    app.note(probe)
    c.serving()
    c.puppet(app, "resume")
    require(
        app.pump(lambda: app.peer_window > 1448, 2.5),
        "no window update after the server reads again: the app would wait for its own probe",
    )
    rest = pattern(1 << 20)
    app.write(rest, 10)
    app.finish()
    want = data[:taken] + rest
    got = app.read_to_end(8)
    require(got == _digest(want), f"the stalled server counted {got[:20]!r}, not {len(want)} and the right octets")
