"""Rows about DNS and the DNS-first rule, with a lying resolver behind the engine. The engine enforces strictly.

RFCs: 1035, 2181, 2308, 5452, 7766, 9000 (the Initial packet); the requirement that an address may be dialled only
after a name gave it.
"""

from __future__ import annotations

import random
import socket
import struct
import time

from . import packets as p
from .app import TcpApp, UdpApp
from .registry import Case, Failure, check, require
from .resolver import AAAA, A, Answer, evil, name_for, query
from .upstream import ECHO, UDP_ECHO, pattern

SERVERS = (bytes((10, 0, 0, 1)), socket.inet_aton("8.8.8.8"), bytes((45, 200, 0, 9)))
SERVFAIL, NXDOMAIN = 2, 3


def ask(
    c: Case,
    name: str,
    kind: int = A,
    *,
    ident: int | None = None,
    timeout: float = 3.0,
    server: bytes = SERVERS[0],
    flow: UdpApp | None = None,
    edns: bool = False,
) -> Answer:
    """One query over UDP and its answer, which must be a response to this very question."""
    flow = flow or c.udp(53, dst=server)
    ident = random.randrange(65536) if ident is None else ident
    flow.send(query(name, kind, ident, edns=edns))
    return take(flow, name, ident, timeout)


def take(flow: UdpApp, name: str, ident: int, timeout: float = 3.0) -> Answer:
    packet = flow.next(timeout)
    if packet is None:
        raise Failure(f"no answer to {name} within {timeout:g} s")
    try:
        answer = Answer(packet.data)
    except ValueError as problem:
        raise Failure(f"the answer to {name} is no DNS message: {problem}") from None
    require(answer.is_response, "the answer has no QR bit")
    require(answer.ident == ident, f"the answer has id {answer.ident}, the query had {ident}")
    require(answer.question == name.lower(), f"the answer is to {answer.question!r}, the question was {name!r}")
    return answer


def refused(c: Case, dst: bytes, what: str, port: int = ECHO) -> None:
    """A connection to `dst` is refused by RST at once, and the server never sees it."""
    app = c.tcp(port, v6=len(dst) == 16, dst=dst)
    app.syn()
    answer = app.expect(f"RST for {what}", strict=True, timeout=2.0)
    require(not answer.flags & p.SYN, f"{what} can be dialled")
    require(
        answer.flags & (p.RST | p.ACK | p.FIN) == p.RST | p.ACK and answer.ack == (app.iss + 1) & 0xFFFFFFFF,
        f"{what}: wanted RST|ACK to the SYN, got {answer}",
    )
    require(not c.connections(dst), f"{what}: the server was dialled")


def allowed(c: Case, dst: bytes, what: str, *, src: bytes | None = None) -> TcpApp:
    app = c.tcp(v6=len(dst) == 16, dst=dst, src=src)
    app.syn()
    answer = app.next(3.0)
    require(answer is not None, f"{what}: no answer to the SYN")
    assert answer is not None
    require(not answer.flags & p.RST, f"{what} is refused")
    app.accept_syn_ack(answer)
    app.ack()
    app.works()
    return app


@check("answered, over UDP and TCP, from whichever server was asked", group="dns")
def query_answered(c: Case) -> None:
    for server in SERVERS:
        dst = c.destination()
        answer = ask(c, name_for("ok", dst), server=server)
        require(
            answer.rcode == 0 and answer.addresses == [dst],
            f"answer: rcode {answer.rcode}, {len(answer.addresses)} addresses",
        )
    flow = c.udp(53, v6=True, dst=socket.inet_pton(socket.AF_INET6, "2a45::53"))
    dst = c.destination(True)
    require(ask(c, name_for("ok", dst), AAAA, flow=flow).addresses == [dst], "a query over IPv6")
    upper = name_for("ok", c.destination()).upper()
    ask(c, upper)
    stream = c.connect(53, dst=SERVERS[0])  # DNS over TCP, two queries in one segment, one in two
    names = [name_for("ok", c.destination(), f"tcp{number}") for number in range(3)]
    framed = [
        struct.pack("!H", len(m)) + m for m in (query(name, A, 100 + number) for number, name in enumerate(names))
    ]
    stream.write(framed[0] + framed[1] + framed[2][:5])
    time.sleep(0.05)
    stream.write(framed[2][5:])
    got = {}
    for _ in names:
        size = int.from_bytes(stream.read(2), "big")
        require(size, "no answer over TCP")
        answer = Answer(stream.read(size))
        got[answer.ident] = answer.question
    require(got == {100 + number: name for number, name in enumerate(names)}, f"answers over TCP: {got}")


@check("a hard-coded address is refused with RST", group="dns")
def hardcoded_refused(c: Case) -> None:
    for v6 in (False, True):
        refused(c, c.destination(v6), "a hard-coded address")
        refused(c, c.destination(v6), "a hard-coded address, port 443", 443)
        flow = c.udp(UDP_ECHO, v6=v6)
        flow.send(b"hard-coded")
        error = c.stray(1.5, v6=v6)
        require(not c.datagrams(flow.dst), "UDP to a hard-coded address reached the server")
        require(
            error is not None and error.kind == (1 if v6 else 3), "no ICMP unreachable for UDP to a hard-coded address"
        )
        flow.silence(0.0, "a reply from a hard-coded address")
    dst = c.destination()  # blocked first, resolved, then allowed; the neighbour stays blocked
    refused(c, dst, "an address before it is resolved")
    ask(c, name_for("ok", dst))
    allowed(c, dst, "the same address after it was resolved")
    refused(c, dst[:3] + bytes((dst[3] ^ 1,)), "the neighbour of a resolved address")


@check("a resolved A may be dialled", group="dns")
def resolved_a_allowed(c: Case) -> None:
    dst = c.destination()
    require(ask(c, name_for("ok", dst)).addresses == [dst], "the answer")
    allowed(c, dst, "a resolved A").close()
    c.udp(UDP_ECHO, dst=dst).echoes()
    for number in range(20):  # the answer must not leave before the address may be dialled
        dst = c.destination()
        ask(c, name_for("ok", dst, f"race{number}"))
        allowed(c, dst, "an address in the moment its answer arrived").reset()


@check("a resolved AAAA may be dialled", group="dns")
def resolved_aaaa_allowed(c: Case) -> None:
    dst = c.destination(True)
    require(ask(c, name_for("ok", dst), AAAA).addresses == [dst], "the answer")
    allowed(c, dst, "a resolved AAAA").close()
    c.udp(UDP_ECHO, v6=True, dst=dst).echoes()
    refused(c, dst[:15] + bytes((dst[15] ^ 1,)), "the neighbour of a resolved AAAA")


def _initial(size: int = 1200) -> bytes:
    """A QUIC version 1 Initial as a client sends it (the protected part is noise)."""
    head = b"\xc3" + struct.pack("!I", 1) + b"\x08" + pattern(8) + b"\x08" + pattern(16)[8:] + b"\0"
    rest = size - len(head) - 2
    return head + struct.pack("!H", 0x4000 | rest) + pattern(rest)


@check("a QUIC Initial to port 443 or 80 is refused even when the address is resolved", group="dns")
def quic_refused(c: Case) -> None:
    for v6 in (False, True):
        dst = c.destination(v6)
        ask(c, name_for("ok", dst), AAAA if v6 else A)
        allowed(c, dst, "TCP to the resolved address")
        for port in (443, 80):
            flow = c.udp(port, v6=v6, dst=dst)
            for size in (1200, 1252):
                flow.send(_initial(size))
            error = c.stray(1.5, v6=v6)
            require(
                error is not None and (error.kind, error.code) == ((1, 4) if v6 else (3, 3)),
                f"no port unreachable for a QUIC Initial to port {port}",
            )
            flow.silence(0.1, "a reply to a QUIC Initial")
        require(not [1 for port, _ in c.datagrams(dst) if port in (80, 443)], "a QUIC Initial reached the server")
        c.udp(UDP_ECHO, v6=v6, dst=dst).echoes(b"not QUIC")


def _forgery(c: Case, behaviour: str) -> None:
    for kind, v6 in ((A, False), (AAAA, True)):
        dst = c.destination(v6)
        answer = ask(c, name_for(behaviour, dst), kind, timeout=7.0)
        require(evil(dst) not in answer.addresses, f"the app got the forged address ({behaviour})")
        refused(c, evil(dst), "an address that only a forged answer had")
        require(
            answer.rcode == 0 and answer.addresses == [dst],
            f"the true answer after the forged one did not come (rcode {answer.rcode})",
        )
        allowed(c, dst, "the address of the true answer")
    dst = c.destination()
    flow = c.udp(53, dst=SERVERS[0])  # only the forgery ever comes
    flow.send(query(name_for(f"{behaviour}only", dst), A, 77))
    packet = flow.next(7.0)
    require(packet is not None, "no SERVFAIL within 7 s when only forged answers come")
    assert packet is not None
    answer = Answer(packet.data)
    require(
        not answer.addresses and answer.rcode == SERVFAIL and answer.ident == 77,
        f"only forged answers: rcode {answer.rcode}, {len(answer.addresses)} addresses",
    )
    refused(c, evil(dst), "an address that only a forged answer had")


@check("an answer with a forged id is never tracked", group="dns")
def forged_id_ignored(c: Case) -> None:
    _forgery(c, "forgedid")


@check("an answer to another question is never tracked", group="dns")
def forged_question_ignored(c: Case) -> None:
    _forgery(c, "otherq")


@check("an answer without QR is never tracked", group="dns")
def forged_no_qr_ignored(c: Case) -> None:
    _forgery(c, "noqr")


def _quick(c: Case, what: str) -> None:
    start, dst = time.monotonic(), c.destination()
    require(ask(c, name_for("ok", dst)).addresses == [dst], f"answers after {what}")
    require(time.monotonic() - start < 1.0, f"answers are slow after {what}")


@check("compression-pointer loops are survived", group="dns")
def compression_loops_survived(c: Case) -> None:
    for behaviour in ("loop", "selfloop"):
        dst = c.destination()
        flow = c.udp(53, dst=SERVERS[0])
        flow.send(query(name_for(behaviour, dst), A, 5))
        _quick(c, "a compression loop in an answer")
        packet = flow.next(7.0)
        require(packet is not None, f"no SERVFAIL within 7 s after an answer with a {behaviour}")
        assert packet is not None
        require(
            packet.data[:2] == b"\0\5" and packet.data[3] & 15 == SERVFAIL,
            f"the answer with a {behaviour} was passed on: {packet.data[:32].hex()}",
        )
        refused(c, dst, "an address behind a compression loop")
    head = struct.pack("!HHHHHH", 9, 0x0100, 1, 0, 0, 0)
    for body in (
        b"\xc0\x0c\0\1\0\1",
        b"\1a\xc0\x0c\0\1\0\1",
        b"\xc0\x0e\xc0\x0c\0\1\0\1",
        b"\xff\xff\0\1\0\1",
        b"\x40\0\0\1\0\1",
        b"\x3fabc",
    ):
        c.udp(53, dst=SERVERS[0]).send(head + body)
        c.udp(53, dst=SERVERS[0], v6=False, src=c.client(fresh=True)).send(head + body)
    _quick(c, "compression loops in queries")


@check("counts larger than the data are survived", group="dns")
def large_counts_survived(c: Case) -> None:
    for behaviour in ("counts", "cut", "empty"):
        dst = c.destination()
        flow = c.udp(53, dst=SERVERS[0])
        flow.send(query(name_for(behaviour, dst), A, 6))
        _quick(c, f"an answer that is broken ({behaviour})")
        packet = flow.next(7.0)
        require(packet is not None, f"no answer within 7 s ({behaviour})")
        assert packet is not None
        try:
            leaked = Answer(packet.data).addresses
        except ValueError:
            raise Failure(f"a broken answer was passed on ({behaviour})") from None
        require(not leaked, f"addresses out of a broken answer were passed on ({behaviour})")
        refused(c, evil(dst), f"an address out of a broken answer ({behaviour})")
    for counts in ((65535, 0, 0, 0), (1, 65535, 65535, 65535), (0, 0, 0, 0), (2, 0, 0, 0)):
        c.udp(53, dst=SERVERS[0]).send(struct.pack("!HHHHHH", 8, 0x0100, *counts) + query("ok.test")[12:])
    _quick(c, "queries with large counts")


@check("25 addresses in one answer are all tracked and may be dialled", group="dns")
def answer_of_25_addresses(c: Case) -> None:
    for v6 in (False, True):
        first = c.destination(v6)
        wanted = [(int.from_bytes(first, "big") + number).to_bytes(len(first), "big") for number in range(25)]
        answer = ask(c, name_for("many", first), AAAA if v6 else A, edns=True)
        require(
            not answer.truncated, "the answer is truncated although it has under 1,232 octets and the query has EDNS"
        )
        require(sorted(answer.addresses) == wanted, f"{len(answer.addresses)} of 25 addresses were passed on")
        for dst in wanted:
            allowed(c, dst, "one of 25 addresses").reset()
        refused(c, (int.from_bytes(first, "big") + 25).to_bytes(len(first), "big"), "the 26th address")
    first = c.destination(True)  # 25 AAAA are over 512 octets: without EDNS the app asks again over TCP
    name = name_for("many", first)
    answer = ask(c, name, AAAA)
    require(answer.truncated, "an answer over 512 octets went to an app without EDNS (RFC 1035 4.2.1)")
    stream = c.connect(53, dst=SERVERS[0])
    question = query(name, AAAA, 3)
    stream.write(struct.pack("!H", len(question)) + question)
    answer = Answer(stream.read(int.from_bytes(stream.read(2), "big")))
    require(len(answer.addresses) == 25, f"{len(answer.addresses)} of 25 addresses over TCP")
    for dst in answer.addresses:
        allowed(c, dst, "one of 25 addresses got over TCP").reset()


@check("addresses behind a CNAME chain are tracked", group="dns")
def cname_chain_tracked(c: Case) -> None:
    for v6 in (False, True):
        dst = c.destination(v6)
        require(dst in ask(c, name_for("cname", dst), AAAA if v6 else A).addresses, "the address behind the chain")
        allowed(c, dst, "an address behind a CNAME chain").close()


@check("NXDOMAIN passes", group="dns")
def nxdomain_passes(c: Case) -> None:
    for kind in (A, AAAA):
        dst = c.destination()
        answer = ask(c, name_for("nx", dst), kind)
        require(answer.rcode == NXDOMAIN and not answer.addresses, f"rcode {answer.rcode}")
        refused(c, dst, "an address whose name does not exist")
    require(ask(c, name_for("ok", c.destination()), AAAA).rcode == 0, "an empty answer (NODATA) is no error")


@check("a resolver that never answers gives SERVFAIL within 7 s of the query", group="dns")
def silent_resolver_servfail(c: Case) -> None:
    flows = [(c.udp(53, dst=SERVERS[0]), name_for("silent", c.destination(), str(n)), 200 + n) for n in range(3)]
    start = time.monotonic()
    for flow, name, ident in flows:
        flow.send(query(name, A, ident))
    for flow, name, ident in flows:
        answer = take(flow, name, ident, 7.0 - (time.monotonic() - start))
        require(
            answer.rcode == SERVFAIL and not answer.addresses, f"rcode {answer.rcode} for a resolver that is silent"
        )
        flow.silence(0.0, "a second answer")


@check("a silent resolver delays nobody else", group="dns")
def silent_resolver_delays_nobody(c: Case) -> None:
    dst = c.destination()
    ask(c, name_for("ok", dst))
    live = allowed(c, dst, "a resolved address")
    worst = 0.0
    for number in range(40):
        c.udp(53, dst=SERVERS[0]).send(query(name_for("silent", c.destination(), f"q{number}"), A, number))
    start = time.monotonic()
    while time.monotonic() - start < 6.0:
        begin, other = time.monotonic(), c.destination()
        require(ask(c, name_for("ok", other), timeout=1.0).addresses == [other], "an answer beside silent ones")
        allowed(c, other, "an address resolved beside silent queries").reset()
        live.works()
        worst = max(worst, time.monotonic() - begin)
        time.sleep(0.1)
    require(worst < 0.7, f"a query and connection beside silent ones took {worst:.2f} s")


@check("two apps with the same id get their own answers", group="dns")
def two_apps_same_id(c: Case) -> None:
    for same_name in (False, True):
        one, two = (c.udp(53, dst=SERVERS[0], src=c.client(fresh=True), sport=5353) for _ in range(2))
        addresses = [c.destination(), c.destination()]
        names = [name_for("slow", addresses[0]), name_for("ok", addresses[1])]
        if same_name:
            names[1], addresses[1] = names[0], addresses[0]
        one.send(query(names[0], A, 4242))
        two.send(query(names[1], A, 4242))
        require(take(two, names[1], 4242).addresses == [addresses[1]], "the second app's answer")
        require(take(one, names[0], 4242).addresses == [addresses[0]], "the first app's answer")
        one.silence(0.05, "a second answer")
        two.silence(0.0, "a second answer")
    flow = c.udp(53, dst=SERVERS[0])  # one socket, one id, two questions
    slow, fast = name_for("slow", c.destination()), name_for("ok", c.destination())
    flow.send(query(slow, A, 7))
    flow.send(query(fast, A, 7))
    take(flow, fast, 7)
    take(flow, slow, 7)


@check("500 queries at once", group="dns", alone=True)
def queries_500_at_once(c: Case) -> None:
    work: list[tuple[UdpApp, str, int, bytes]] = []
    for number in range(500):
        dst = c.destination()
        work.append(
            (c.udp(53, dst=SERVERS[0]), name_for("slow" if number % 2 else "ok", dst, f"n{number}"), number % 50, dst)
        )
    start = time.monotonic()
    c.wire.paced([flow.packet(query(name, A, ident)) for flow, name, ident, _ in work], 100, 0.003)
    for flow, name, ident, dst in work:
        answer = take(flow, name, ident, max(0.05, 5.0 - (time.monotonic() - start)))
        require(answer.rcode == 0 and answer.addresses == [dst], f"{name}: rcode {answer.rcode}")
    took = time.monotonic() - start
    require(took < 3.0, f"500 answers took {took:.1f} s")
    for _, _, _, dst in work[::50]:
        allowed(c, dst, "an address of one of 500 answers").reset()


@check("junk to port 53", group="dns")
def junk_to_port_53(c: Case) -> None:
    source = random.Random(53)
    good = query(name_for("ok", c.destination()))
    junk: list[bytes] = [
        b"",
        b"\0",
        good[:11],
        good[:12],
        good[:-1],
        good + b"trailing",
        b"\xff" * 600,
        good[:2] + b"\x81\x80" + good[4:],
    ]
    junk += [source.randbytes(source.randrange(1, 900)) for _ in range(200)]
    junk += [bytes(octet ^ (source.random() < 0.05) * source.randrange(256) for octet in good) for _ in range(300)]
    junk.append(b"\0\1\0\x08\x21\x12\xa4\x42" + bytes(20))  # STUN
    for v6 in (False, True):
        server = socket.inet_pton(socket.AF_INET6, "2a45::53") if v6 else SERVERS[0]
        flow = c.udp(53, v6=v6, dst=server)
        c.wire.paced([flow.packet(octets) for octets in junk], 100, 0.005)
    for octets in (b"\0\0", b"\xff\xff" + bytes(100), struct.pack("!H", 5) + b"short", good, b"GET / HTTP/1.1\r\n\r\n"):
        app = c.tcp(53, dst=SERVERS[0])
        app.syn()
        answer = app.expect("SYN|ACK for DNS over TCP")
        app.accept_syn_ack(answer)
        app.push(octets)
    _quick(c, "junk to port 53")
    require(c.bench.alive(), "the engine died of junk to port 53")
    dst = c.destination()
    ask(c, name_for("ok", dst))
    allowed(c, dst, "a resolved address after junk")
    before = c.bench.cpu_seconds()
    time.sleep(0.8)
    require(c.bench.cpu_seconds() - before < 0.4, "the engine is busy after junk to port 53")
