"""Rows about IPv4 and IPv6 themselves: checksums, lengths, options, extension headers, fragments.

RFCs: 791, 1122 3.2 3.3, 1858, 5722, 8200 4.3 4.5 8.1, 9293 MUST-3.
"""

from __future__ import annotations

import random
import struct
import time

from . import packets as p
from .app import TcpApp, UdpApp
from .bench import ASSIGNED6
from .registry import Case, check, require
from .upstream import BLACKHOLE, PUPPET, UDP_ECHO, pattern

_idents = iter(range(1, 1 << 30))


@check("RFC 9293 MUST-3")
def tcp_bad_checksum_dropped(c: Case) -> None:
    for v in c.variants():
        app = c.connect(PUPPET, **v)
        app.emit(p.ACK | p.PSH, b"corrupt", bad_checksum=True)
        app.emit(p.RST, bad_checksum=True, options=b"")
        app.emit(p.FIN | p.ACK, bad_checksum=True)
        good = app.segment(p.ACK | p.PSH, b"corrupt")
        zero = good[:16] + b"\0\0" + good[18:]
        flipped = good[:-1] + bytes((good[-1] ^ 0x40,))
        for bad in (zero, flipped):
            app.wire.send(p.ip(app.src, app.dst, p.TCP, bad))
        app.silence(0.25, "after segments with a wrong checksum")
        app.push(b"correct")
        app.expect_ack()
        state = c.upstream(app, lambda s: s["count"] >= 7, "the correct data")
        require(
            bytes.fromhex(state["head"]) == b"correct" and not state["eof"],
            "a segment with a wrong checksum was believed",
        )
        syn = c.tcp(PUPPET, **v)
        syn.emit(p.SYN, bad_checksum=True)
        syn.silence(0.25, "after a SYN with a wrong checksum")
        require(not c.connections(syn), "a SYN with a wrong checksum was dialled")


@check("RFC 1122 3.2.1.2 MUST")
def ipv4_bad_checksum_dropped(c: Case) -> None:
    app = c.connect(PUPPET)
    app.wire.send(p.ip4(app.src, app.dst, p.TCP, app.segment(p.ACK | p.PSH, b"corrupt"), bad_checksum=True))
    whole = p.ip4(app.src, app.dst, p.TCP, app.segment(p.RST, options=b""))
    app.wire.send(whole[:10] + b"\0\0" + whole[12:])
    app.silence(0.25, "after packets with a wrong IPv4 header checksum")
    app.push(b"correct")
    app.expect_ack()
    require(
        bytes.fromhex(c.upstream(app, lambda s: s["count"] >= 7, "the data")["head"]) == b"correct",
        "a packet with a wrong header checksum was believed",
    )
    flow = c.udp(UDP_ECHO)
    flow.wire.send(
        p.ip4(
            flow.src, flow.dst, p.UDP, p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"corrupt"), bad_checksum=True
        )
    )
    flow.silence(0.2, "UDP in a packet with a wrong header checksum")
    require(not c.datagrams(flow.dst), "the server got a datagram out of a packet with a wrong header checksum")
    ping = p.ip4(c.client(), c.destination(), p.ICMP, p.echo(c.client(), c.client(), 1, 1, b"x"), bad_checksum=True)
    c.wire.send(ping)
    require(c.stray(0.2) is None, "an answer to a ping with a wrong header checksum")


@check("RFC 791/1122: bytes past total length are not data; zeek tcp-http-with-padding.pcap")
def ipv4_trailer_ignored(c: Case) -> None:
    for trailer in (b"\0" * 6, b"T" * 46, b"X"):
        app = c.connect(PUPPET, ts=False)
        app.wire.send(p.ip4(app.src, app.dst, p.TCP, app.segment(p.ACK), trailer=trailer))
        app.wire.send(p.ip4(app.src, app.dst, p.TCP, app.segment(p.ACK | p.PSH, b"data"), trailer=trailer))
        app.snd_nxt += 4
        require(app.expect_ack().ack == app.snd_nxt, "")
        app.silence(0.08, "after a packet with a trailer")
        state = c.upstream(app, lambda s: s["count"] >= 4, "the data")
        require(bytes.fromhex(state["head"]) == b"data", "a trailer was taken for data")
        flow = c.udp(UDP_ECHO)
        flow.wire.send(
            p.ip4(
                flow.src,
                flow.dst,
                p.UDP,
                p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"datagram"),
                trailer=trailer,
            )
        )
        flow.expect(b"datagram", "UDP with an IP trailer")
        syn = c.tcp()
        syn.wire.send(p.ip4(syn.src, syn.dst, p.TCP, syn.segment(p.SYN), trailer=trailer))
        syn.snd_nxt = syn.iss + 1 & 0xFFFFFFFF
        syn.accept_syn_ack(syn.expect("SYN|ACK for a SYN with a trailer"))
    six = c.connect(PUPPET, v6=True)
    six.wire.send(p.ip6(six.src, six.dst, p.TCP, six.segment(p.ACK | p.PSH, b"data"), trailer=b"TRAILER"))
    six.snd_nxt += 4
    six.expect_ack("ACK over IPv6")
    require(c.upstream(six, lambda s: s["count"] >= 4, "the data")["count"] == 4, "an IPv6 trailer was taken for data")


@check("RFC 1122 3.2.1.8 IPv4 options are skipped")
def ipv4_options(c: Case) -> None:
    nops, record_route = b"\x01" * 40, bytes((7, 11, 4)) + bytes(8) + b"\0"
    stamp, router_alert, end = bytes((68, 12, 5, 0)) + bytes(8), bytes((148, 4, 0, 0)), b"\0" * 4
    for options in (nops, nops[:4], record_route, stamp, router_alert, end, b"\x01\x01\x01\0"):
        app = c.tcp()
        app.wire.send(p.ip4(app.src, app.dst, p.TCP, app.segment(p.SYN), options=options))
        app.snd_nxt = app.iss + 1 & 0xFFFFFFFF
        app.accept_syn_ack(app.expect(f"SYN|ACK for a SYN with the IPv4 options {options[:4].hex()}"))
        app.ack()
        app.wire.send(p.ip4(app.src, app.dst, p.TCP, app.segment(p.ACK | p.PSH, b"options below"), options=options))
        app.snd_nxt += 13
        require(app.read(13) == b"options below", "data in a packet with IPv4 options")
        flow = c.udp(UDP_ECHO)
        flow.wire.send(
            p.ip4(
                flow.src,
                flow.dst,
                p.UDP,
                p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"datagram"),
                options=options,
            )
        )
        flow.expect(b"datagram", "UDP with IPv4 options")


_ORDERS = ("in order", "in reverse", "shuffled", "each twice")


def _orders(parts: list[bytes]) -> list[list[bytes]]:
    """In order, in reverse, shuffled, each twice."""
    mixed = parts[:]
    random.Random(7).shuffle(mixed)
    return [parts, parts[::-1], mixed, [part for part in parts for _ in (0, 1)]]


def _reassembly(c: Case, v6: bool) -> None:
    for size, cuts in (
        (4000, [1400, 2800]),
        (64, [8, 16, 24, 32]),
        (1000, [8]),
        (30000, list(range(1400, 30000, 1400))),
        (48, [40]),
    ):
        for turn in range(4):
            flow = c.udp(UDP_ECHO, v6=v6)
            data = pattern(size)
            datagram = p.udp(flow.src, flow.dst, flow.sport, flow.dport, data)
            flow.wire.send(*_orders(p.fragments(flow.src, flow.dst, p.UDP, datagram, next(_idents), cuts))[turn])
            flow.expect(
                data,
                f"UDP of {size} octets in {len(cuts) + 1} fragments, {_ORDERS[turn]}",
            )
            flow.silence(0.0, "one datagram, one echo")
    first, second = c.udp(UDP_ECHO, v6=v6), c.udp(UDP_ECHO, v6=v6, src=c.client(v6, fresh=True))
    ident = next(_idents)  # the same identification from two sources, interleaved
    parts = [
        p.fragments(f.src, f.dst, p.UDP, p.udp(f.src, f.dst, f.sport, f.dport, bytes((65 + n,)) * 2000), ident, [1000])
        for n, f in enumerate((first, second))
    ]
    c.wire.send(parts[0][0], parts[1][0], parts[0][1], parts[1][1])
    first.expect(b"A" * 2000, "two senders with one identification")
    second.expect(b"B" * 2000, "two senders with one identification")
    app = c.connect(v6=v6)
    for turn in range(3):  # TCP in fragments, the header split too
        segment = app.segment(p.ACK | p.PSH, pattern(900))
        first_cut = (
            (40, 64, 400)[turn] if v6 else (16, 8, 400)[turn]
        )  # IPv6 wants all headers in the first (RFC 8200 4.5)
        app.wire.send(*_orders(p.fragments(app.src, app.dst, p.TCP, segment, next(_idents), [first_cut, 600]))[turn])
        app.snd_nxt = app.snd_nxt + 900 & 0xFFFFFFFF
        require(app.read(900) == pattern(900), f"TCP data in fragments, order {turn}")
    syn = c.tcp(v6=v6)
    syn.wire.send(
        *p.fragments(syn.src, syn.dst, p.TCP, syn.segment(p.SYN), next(_idents), [32] if v6 else [8, 24])[::-1]
    )
    syn.snd_nxt = syn.iss + 1 & 0xFFFFFFFF
    syn.accept_syn_ack(syn.expect("SYN|ACK for a SYN in fragments"))


@check("RFC 1122 3.3.2 MUST reassemble; packetimpact ipv4_fragment_reassembly")
def ipv4_fragment_reassembly(c: Case) -> None:
    _reassembly(c, v6=False)


def _refused_overlaps(c: Case, v6: bool) -> None:
    flow = c.udp(UDP_ECHO, v6=v6)
    datagram = p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"A" * 1600)

    def piece(part: bytes, ident: int, start: int, more: bool) -> bytes:
        return p.fragment(flow.src, flow.dst, p.UDP, part, ident, start, more=more)

    evil = b"EVIL" * 100
    contained = [  # new octets inside what is there: to ignore them and to drop everything are both right
        [(datagram[:800], 0, True), (evil, 400, True), (datagram[800:], 800, False)],
        [(datagram[:800], 0, True), (evil[:8], 0, True), (datagram[800:], 800, False)],  # RFC 1858: rewrite the header
    ]
    partial = [
        [(datagram[:800], 0, True), (evil, 600, True), (datagram[800:], 800, False)],  # over the border
        [(datagram[800:], 800, False), (evil + evil, 400, True), (datagram[:800], 0, True)],  # last first
        [(datagram[:808], 0, True), (datagram[800:], 800, False)],  # eight octets over
        [(evil, 1608, False), (datagram[800:], 800, False), (datagram[:800], 0, True)],  # two ends
        [
            (datagram[:400], 0, True),
            (datagram[800:1200], 800, True),
            (evil * 2 + evil[:8], 200, True),
            (datagram[1200:], 1200, False),
            (datagram[400:800], 400, True),
        ],
    ]
    for pieces in partial:
        ident = next(_idents)
        c.wire.send(*(piece(part, ident, start, more) for part, start, more in pieces))
    require(flow.next(0.4) is None and not c.datagrams(flow.dst), "a datagram was made of overlapping fragments")
    for pieces in contained:
        ident = next(_idents)
        c.wire.send(*(piece(part, ident, start, more) for part, start, more in pieces))
    time.sleep(0.3)
    require(
        all(data == b"A" * 1600 for _, data in c.datagrams(flow.dst)),
        "the server got a datagram spliced from overlapping fragments",
    )
    ident = next(_idents)
    c.wire.send(piece(b"x" * 1480, ident, 0, True), piece(b"y" * 1480, ident, 65528, False))  # over 65,535 octets
    c.wire.send(piece(b"z" * 13, ident + (1 << 14), 0, True))  # not a multiple of eight
    for start in (8, 16, 24, 32):
        c.wire.send(piece(b"", next(_idents), start, True))  # no octets at all
    c.udp(UDP_ECHO, v6=v6).echoes(b"still alive")
    fresh = c.udp(UDP_ECHO, v6=v6)
    whole = p.udp(fresh.src, fresh.dst, fresh.sport, fresh.dport, b"B" * 1600)
    c.wire.send(*p.fragments(fresh.src, fresh.dst, p.UDP, whole, next(_idents), [800]))
    fresh.expect(b"B" * 1600, "good fragments after overlapping ones")
    app = c.connect(PUPPET, v6=v6)
    segment, ident = app.segment(p.ACK | p.PSH, b"C" * 600), next(_idents)
    c.wire.send(
        *(
            p.fragment(app.src, app.dst, p.TCP, part, ident, start, more=more)
            for part, start, more in ((segment[:320], 0, True), (evil, 160, True), (segment[320:], 320, False))
        )
    )
    app.push(b"whole")
    app.expect_ack()
    require(
        bytes.fromhex(c.upstream(app, lambda s: s["count"] >= 5, "the data")["head"]) == b"whole",
        "TCP data spliced from overlapping fragments",
    )


@check("RFC 5722/8200 4.5, RFC 1858: overlapping fragments must not crash or be spliced")
def ipv4_overlapping_fragments(c: Case) -> None:
    _refused_overlaps(c, v6=False)


@check("RFC 8200 4.5; packetimpact ipv6_fragment_reassembly")
def ipv6_fragment_reassembly(c: Case) -> None:
    _reassembly(c, v6=True)
    _refused_overlaps(c, v6=True)
    atomic = c.udp(UDP_ECHO, v6=True)  # RFC 6946: a fragment header on a whole packet
    datagram = p.udp(atomic.src, atomic.dst, atomic.sport, atomic.dport, b"atomic fragment")
    c.wire.send(p.fragment(atomic.src, atomic.dst, p.UDP, datagram, 77, 0, more=False))
    atomic.expect(b"atomic fragment", "an atomic fragment")
    behind = c.udp(UDP_ECHO, v6=True)  # the fragment header after another extension header
    datagram = p.udp(behind.src, behind.dst, behind.sport, behind.dport, b"D" * 1000)
    for start, end in ((0, 504), (504, 1008)):
        header = ((p.DESTINATION, b"\x01\x04\0\0\0\0"), (p.FRAGMENT, struct.pack("!HI", start | (end < 1008), 4242)))
        c.wire.send(p.ip6(behind.src, behind.dst, p.UDP, datagram[start:end], extensions=header))
    behind.expect(b"D" * 1000, "fragments behind destination options")


@check("RFC 8200 8.1: zero UDP checksum is dropped on IPv6")
def ipv6_udp_zero_checksum_dropped(c: Case) -> None:
    flow = c.udp(UDP_ECHO, v6=True)
    flow.send(b"no checksum", value=0)
    flow.silence(0.4, "UDP without checksum over IPv6")
    require(not c.datagrams(flow.dst), "the server got a UDP datagram that had no checksum")
    flow.echoes()


@check("RFC 8200 4.3: hop-by-hop header before TCP")
def ipv6_hop_by_hop(c: Case) -> None:
    pad, skipped = b"\x01\x04\0\0\0\0", b"\x1e\x04abcd"  # 0x1e: unknown, action 00 = skip
    alert = b"\x05\x02\0\0\x01\0"
    chains: list[tuple[tuple[int, bytes], ...]] = [
        ((p.HOP_BY_HOP, pad),),
        ((p.HOP_BY_HOP, skipped),),
        ((p.HOP_BY_HOP, alert),),
        ((p.HOP_BY_HOP, pad), (p.DESTINATION, pad)),
        ((p.DESTINATION, skipped),),
    ]
    for chain in chains:
        app = c.tcp(v6=True)
        app.wire.send(p.ip6(app.src, app.dst, p.TCP, app.segment(p.SYN), extensions=chain))
        app.snd_nxt = app.iss + 1 & 0xFFFFFFFF
        app.accept_syn_ack(app.expect(f"SYN|ACK for a SYN behind extension headers {[number for number, _ in chain]}"))
        app.ack()
        app.wire.send(p.ip6(app.src, app.dst, p.TCP, app.segment(p.ACK | p.PSH, b"data behind"), extensions=chain))
        app.snd_nxt += 11
        require(app.read(11) == b"data behind", "data behind extension headers")
        flow = c.udp(UDP_ECHO, v6=True)
        flow.wire.send(
            p.ip6(
                flow.src,
                flow.dst,
                p.UDP,
                p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"datagram"),
                extensions=chain,
            )
        )
        flow.expect(b"datagram", "UDP behind extension headers")
    refused = c.tcp(v6=True)  # an unknown option whose action is "discard"
    refused.wire.send(
        p.ip6(refused.src, refused.dst, p.TCP, refused.segment(p.SYN), extensions=((p.HOP_BY_HOP, b"\x5e\x04abcd"),))
    )
    refused.silence(0.4, "a packet with an option that says: discard when unknown")
    for body in (
        b"\x01\xff\0\0\0\0",
        b"\x05\x02\0",
    ):  # an option that runs out of its header; a header that runs out of the packet
        refused.wire.send(p.ip6(refused.src, refused.dst, p.TCP, b"", extensions=((p.HOP_BY_HOP, body),)))
    refused.wire.send(p.ip6(refused.src, refused.dst, p.HOP_BY_HOP, b"\x06\xff" + bytes(14)))
    c.serving(v6=True)


@check("RFC 792, RFC 1122 3.2.2.6")
def icmp_echo(c: Case) -> None:
    _pings(c, v6=False)


@check("RFC 4443 4.2")
def icmpv6_echo(c: Case) -> None:
    _pings(c, v6=True)


def _pings(c: Case, v6: bool) -> None:
    src, protocol, kind = c.client(v6), p.ICMP6 if v6 else p.ICMP, 129 if v6 else 0
    dst = c.destination(v6)
    for ident, size in ((1, 0), (2, 1), (0x1234, 56), (0xFFFF, 1400)):
        for seq in (1, 2, 0xFFFF):
            c.wire.send(p.ip(src, dst, protocol, p.echo(src, dst, ident, seq, pattern(size))))
            reply = c.stray(2.0, v6=v6)
            require(reply is not None, f"no echo reply (id {ident}, seq {seq}, {size} octets)")
            assert reply is not None
            require(reply.kind == kind and reply.code == 0, f"wanted an echo reply, got {reply}")
            require(reply.src == dst, "the echo reply comes from another address")
            require(reply.data[:4] == struct.pack("!HH", ident, seq), "identifier or sequence number of the echo reply")
            require(reply.data[4:] == pattern(size), "data of the echo reply")
    c.wire.send(p.ip(src, dst, protocol, p.echo(src, dst, 9, 1, b"corrupt", bad_checksum=True)))
    require(c.stray(0.3, v6=v6) is None, "an answer to an echo request with a wrong checksum")
    request = p.echo(src, dst, 10, 1, pattern(2500))
    c.wire.send(*p.fragments(src, dst, protocol, request, next(_idents), [1400]))
    reply = c.stray(2.0, v6=v6)
    require(reply is not None and reply.data[4:] == pattern(2500), "an echo of 2,500 octets in fragments")
    other = c.client(v6, fresh=True)  # two pingers with one identifier
    c.wire.send(
        p.ip(src, dst, protocol, p.echo(src, dst, 11, 1, b"one")),
        p.ip(other, dst, protocol, p.echo(other, dst, 11, 1, b"two")),
    )
    for address, data in ((src, b"one"), (other, b"two")):
        reply = c.stray(2.0, v6=v6, address=address)
        require(
            reply is not None and reply.data[4:] == data, "two pingers with one identifier: each gets its own reply"
        )
    if not v6:
        return
    truncated = p.echo(src, dst, 12, 1, b"x" * 40)[:6]
    c.wire.send(p.ip(src, dst, protocol, truncated))
    time.sleep(0.05)


@check("RFC 768")
def udp_echo(c: Case) -> None:
    _udp_echo(c, v6=False)


@check("RFC 8200")
def ipv6_udp_echo(c: Case) -> None:
    _udp_echo(c, v6=True)


def _udp_echo(c: Case, v6: bool) -> None:
    flow = c.udp(UDP_ECHO, v6=v6)
    for size in (1, 2, 100, 1000, 1452 if v6 else 1472):
        flow.echoes(pattern(size))
    require(len(c.datagrams(flow.dst)) == 5, "the server did not get each datagram once")
    flows = [c.udp(UDP_ECHO, v6=v6, sport=flow.sport + 1) for _ in range(20)]  # one source port, many destinations
    for number, one in enumerate(flows):
        one.send(b"to %d" % number)
    for number, one in enumerate(flows):
        one.expect(b"to %d" % number, "one source port to many destinations")
    same = flow.dst
    ports = [
        UdpApp(c.wire, flow.src, same, UDP_ECHO, 61000 + n) for n in range(20)
    ]  # many source ports, one destination
    for number, one in enumerate(ports):
        one.send(b"from %d" % number)
    for number, one in enumerate(ports):
        one.expect(b"from %d" % number, "many source ports to one destination")
    burst = c.udp(UDP_ECHO, v6=v6)
    for number in range(50):
        burst.send(b"%d" % number)
    got = set()
    while (packet := burst.next(0.5)) is not None:
        got.add(packet.data)
        if len(got) == 50:
            break
    require(len(got) == 50, f"{len(got)} of 50 datagrams sent at once came back")


@check("RFC 768 zero checksum means none")
def udp_zero_checksum(c: Case) -> None:
    flow = c.udp(UDP_ECHO)
    for size in (0, 1, 33, 1000):
        flow.send(pattern(size), value=0)
        flow.expect(pattern(size), "UDP without checksum over IPv4")
    for word in range(65536):  # a datagram whose computed checksum is 0, sent as 0xffff
        data = struct.pack("!H", word)
        if p.udp(flow.src, flow.dst, flow.sport, flow.dport, data)[6:8] == b"\xff\xff":
            flow.echoes(data)
            break


@check("RFC 1122 4.1.3.4 MUST")
def udp_bad_checksum_dropped(c: Case) -> None:
    for v6 in (False, True):
        flow = c.udp(UDP_ECHO, v6=v6)
        datagram = p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"corrupt")
        bad = [
            datagram[:6] + bytes((datagram[6] ^ 1, datagram[7])) + datagram[8:],
            datagram[:-1] + b"!",
            datagram[:6] + b"\0\1" + datagram[8:],
        ]
        bad.append(p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"too long a length", length=2000))
        bad.append(p.udp(flow.src, flow.dst, flow.sport, flow.dport, b"too short a length", length=7))
        for body in (*bad, datagram[:7]):
            flow.wire.send(p.ip(flow.src, flow.dst, p.UDP, body))
        flow.silence(0.3, "UDP with a wrong checksum or length")
        require(not c.datagrams(flow.dst), "the server got a corrupt datagram")
        flow.echoes()


@check("RFC 768 empty datagram")
def udp_empty(c: Case) -> None:
    for v6 in (False, True):
        flow = c.udp(UDP_ECHO, v6=v6)
        flow.echoes(b"")
        flow.echoes(b"not empty")
        flow.echoes(b"")
        require([data for _, data in c.datagrams(flow.dst)] == [b"", b"not empty", b""], "what the server got")


@check("RFC 768: three replies to one request")
def udp_many_replies(c: Case) -> None:
    for v6 in (False, True):
        flow = c.udp(8, v6=v6)
        flow.send(b"three")
        for number in range(3):
            flow.expect(b"%d:three" % number, f"reply {number + 1} of 3")
        flow.silence(0.1, "after three replies")


@check("RFC 1122 4.1.3.1 SHOULD: closed UDP port")
def udp_port_unreachable(c: Case) -> None:
    for v6 in (False, True):
        for data in (b"anyone?", b"", pattern(1400)):
            flow = c.udp(CLOSED_UDP, v6=v6, dst=ASSIGNED6 if v6 else None)
            datagram = p.udp(flow.src, flow.dst, flow.sport, flow.dport, data)
            packet = (
                p.ip6(flow.src, flow.dst, p.UDP, datagram, hop=63)
                if v6
                else p.ip4(flow.src, flow.dst, p.UDP, datagram, ttl=63, ident=0x4A4A)
            )
            flow.wire.send(packet)
            error = c.stray(2.5, v6=v6)
            require(error is not None, f"no port unreachable (IPv{6 if v6 else 4}, {len(data)} octets)")
            assert error is not None
            require((error.kind, error.code) == ((1, 4) if v6 else (3, 3)), f"wanted port unreachable, got {error}")
            require(error.src == flow.dst, "port unreachable does not come from the address that was asked")
            quoted = error.data[4:]
            size = 48 if v6 else 28
            require(len(quoted) >= size, f"only {len(quoted)} octets of the original are quoted")
            require(
                quoted[: len(packet)] == packet[: len(quoted)],
                f"the quoted packet {quoted[:size].hex()} is not the one that was sent, {packet[:size].hex()}",
            )
            require(len(error.raw) <= (1280 if v6 else 576), f"the error has {len(error.raw)} octets")
    blackhole = c.udp(BLACKHOLE)
    blackhole.send(b"no answer at all")
    require(c.stray(0.3) is None, "an error for a datagram that nobody refused")


CLOSED_UDP = 4


@check("RFC 1122 3.3.3: reply larger than the MTU")
def udp_large_reply(c: Case) -> None:
    for v6 in (False, True):
        for size in (1453 if v6 else 1473, 2000, 4000, 9000, 40000):
            flow = c.udp(10, v6=v6)
            flow.send(b"%d" % size)
            flow.expect(pattern(size), f"UDP reply of {size} octets (IPv{6 if v6 else 4})")


@check("RFC 8200, RFC 9293 over IPv6")
def ipv6_tcp_echo(c: Case) -> None:
    app: TcpApp = c.connect(v6=True)
    app.works(pattern(1000))
    app.works(pattern(100_000))
    app.close()
