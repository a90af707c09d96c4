"""Rows about apps that mean harm or are broken: scans, floods, mutated packets; and the form of all that came back.

RFCs: 9293 MUST-2 MUST-7 3.10.7, 1122 3.2.1.2, 4987.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from . import packets as p
from .captures import ip_packets
from .registry import Case, check, require
from .upstream import CLOSED, ECHO, PUPPET, UDP_ECHO, pattern

CAPTURES = Path(__file__).resolve().parents[4] / "shared" / "captures" / "malformed"
MIB = 1 << 20


@check("RFC 9293 MUST-7 illegal option length; suricata tcp-opt-invalid; tcpdump tcp-auth-heapoverflow")
def illegal_option_length(c: Case) -> None:
    illegal = [
        b"\x02\x00\x05\xb4",
        b"\x02\x01\x05\xb4",
        b"\x02\x03\x05\x01",
        b"\x02\xff\x05\xb4",
        b"\x08\x05\0\0\0",
        b"\x05\x03\0",
        b"\x05\xfe" + bytes(6),
        b"\x03\x28\x07\x00",
        b"\x01" * 39 + b"\x08",
        b"\x1d\x00\0\0",
        b"\x1d\x02\0\0",
        b"\x13\x00" + bytes(38),
        b"\xfd\x00\0\0",
        b"\x05\x02\0\0",
        b"\x04\x09" + bytes(7),
        b"\x22\x80\0\0",
        b"\x08\x0a\0\0",
        b"\x02\x04\x00\x00",
        b"\x02\x04\x00\x01",
        b"\x03\x03\xff\x00",
    ]
    for v6 in (False, True):
        for options in illegal:
            filled = options[:40] + b"\0" * (-len(options[:40]) % 4)
            app = c.tcp(PUPPET, v6=v6)
            app.emit(p.SYN, options=filled, raw_options=True)
            live = c.connect(v6=v6)
            live.emit(p.ACK | p.PSH, b"?", options=filled, raw_options=True)
            live.emit(p.ACK, options=b"\x01" * 37 + options[:3], raw_options=True)
        for offset in (0, 1, 4, 15):  # a header that is too small, or larger than the segment
            app = c.tcp(PUPPET, v6=v6)
            app.emit(p.SYN, options=b"", offset=offset)
            app.silence(0.06, f"a SYN whose data offset is {offset}")
            require(not c.connections(app), f"a SYN whose data offset is {offset} was dialled")
        c.serving(v6=v6)
    tiny = c.tcp(PUPPET, mss=0)  # an MSS of zero is no licence to divide by it
    tiny.syn()
    if (answer := tiny.next(1.0)) is not None and answer.flags & p.SYN:
        tiny.accept_syn_ack(answer)
        tiny.ack()
        c.puppet(tiny, "send", count=200)
        tiny.read(200, 1.0)
    c.serving()


@check("nmap NULL/FIN/XMAS/SYN+FIN/ACK scans; nDPI tcp_scan.pcapng")
def odd_flag_scans(c: Case) -> None:
    probes = [
        0,
        p.FIN,
        p.FIN | p.PSH | p.URG,
        p.PSH,
        p.URG,
        p.SYN | p.FIN,
        p.SYN | p.RST,
        p.SYN | p.FIN | p.RST | p.ACK | p.PSH | p.URG,
        p.ACK,
        p.FIN | p.ACK,
        p.ECE | p.CWR,
    ]
    for v6 in (False, True):
        for flags in probes:
            for port in (CLOSED, ECHO):
                app = c.tcp(port, v6=v6)
                app.rcv_nxt = 1000
                app.emit(flags, options=b"")
                answer = app.next(0.12)
                require(not c.connections(app), f"flags {flags:#x} opened a connection")
                if answer is None:
                    require(
                        port != CLOSED or flags & (p.SYN | p.RST),
                        f"no answer to flags {flags:#x} for a closed port (RFC 9293 3.10.7.1 wants RST)",
                    )
                    continue
                require(not answer.flags & p.SYN, f"SYN|ACK to flags {flags:#x}")
                require(not flags & p.RST, f"an answer to a RST (flags {flags:#x})")
                require(answer.flags & p.RST, f"answer to flags {flags:#x}: {answer}")
                if flags & p.ACK:
                    require(answer.seq == 1000 and not answer.flags & p.ACK, f"RST to flags {flags:#x}: {answer}")
                else:
                    length = bool(flags & p.SYN) + bool(flags & p.FIN)
                    require(
                        answer.flags & p.ACK
                        and answer.seq == 0
                        and (answer.ack - app.iss) & 0xFFFFFFFF in {length, min(length, 1)},
                        f"RST to flags {flags:#x}: {answer}",
                    )
        live = c.connect(v6=v6)
        for flags in (0, p.PSH, p.URG, p.FIN, p.FIN | p.PSH | p.URG):  # no ACK bit: dropped (RFC 9293 3.10.7.4, fifth)
            live.emit(flags, b"no ACK bit" if flags & p.PSH else b"")
        live.silence(0.1, "segments without the ACK bit", lambda s: s.flags == p.ACK)
        live.works()
    urgent = c.connect()
    urgent.emit(p.ACK | p.PSH | p.URG, b"urgent", urgent=3)
    urgent.snd_nxt += 6
    require(urgent.read(6)[:2] == b"ur", "data with URG")


def _seeds(c: Case) -> list[bytes]:
    """Good packets of every kind, some of them of live connections."""
    out: list[bytes] = []
    for v6 in (False, True):
        live, closed, flow = c.connect(v6=v6), c.tcp(CLOSED, v6=v6), c.udp(UDP_ECHO, v6=v6)
        syn, src, dst = c.tcp(v6=v6), c.client(v6), c.destination(v6)
        protocol = p.ICMP6 if v6 else p.ICMP
        out += [
            syn.packet(p.SYN),
            closed.packet(p.SYN),
            live.packet(p.ACK),
            live.packet(p.ACK | p.PSH, pattern(400)),
            live.packet(p.ACK | p.PSH, b"gap", seq=live.snd_nxt + 50),
            live.packet(p.FIN | p.ACK),
            live.packet(p.ACK, extra=p.sack((live.rcv_nxt, live.rcv_nxt + 9))),
            live.packet(p.RST),
            flow.packet(pattern(200)),
            flow.packet(b""),
            p.ip(src, dst, protocol, p.echo(src, dst, 5, 6, pattern(64))),
        ]
        datagram = p.udp(src, dst, 4000, UDP_ECHO, pattern(1600))
        out += p.fragments(src, dst, p.UDP, datagram, 99, [800])
        question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\4fuzz\4test\0\0\1\0\1"
        out.append(p.ip(src, dst, p.UDP, p.udp(src, dst, 5353, 53, question)))
        quic = b"\xc0\0\0\0\1\x08" + pattern(8) + b"\x08" + pattern(8) + b"\0\x44\x90" + pattern(1180)
        out.append(p.ip(src, dst, p.UDP, p.udp(src, dst, 6000, 443, quic)))
        hello = b"\x16\3\1\2\0\1\0\1\xfc\3\3" + pattern(400)
        out.append(live.packet(p.ACK | p.PSH, hello))
    src, dst = c.client(True), c.destination(True)
    out.append(
        p.ip6(
            src,
            dst,
            p.UDP,
            p.udp(src, dst, 1, UDP_ECHO, b"x"),
            extensions=((p.HOP_BY_HOP, b"\x01\x04\0\0\0\0"), (p.DESTINATION, b"\x01\x04\0\0\0\0")),
        )
    )
    return out


def _mutated(source: random.Random, packet: bytes) -> bytes:
    octets = bytearray(packet)
    head = min(len(octets), 80)
    for _ in range(source.choice((1, 1, 2, 4, 16))):
        kind = source.randrange(7)
        if kind == 0:
            octets[source.randrange(head)] ^= 1 << source.randrange(8)
        elif kind == 1:
            octets[source.randrange(head)] = source.choice((0, 1, 4, 5, 0x40, 0x7F, 0x80, 0xFF, source.randrange(256)))
        elif kind == 2 and len(octets) > 24:
            del octets[source.randrange(1, len(octets)) :]
        elif kind == 3:
            octets += source.randbytes(source.randrange(1, 64))
        elif kind == 4:
            at = source.randrange(head)
            octets[at : at + 2] = source.choice((b"\0\0", b"\xff\xff", b"\0\1", b"\x80\0"))
        elif kind == 5:
            at = source.randrange(len(octets))
            octets[at:at] = octets[: source.randrange(1, 30)]
        else:
            octets[source.randrange(len(octets)) :] = source.randbytes(source.randrange(1, 60))
        head = max(1, min(len(octets), 80))
    if source.random() < 0.6:
        _repair(octets)
    return bytes(octets[:1500])


def _repair(octets: bytearray) -> None:
    """Put the checksums right, so that a mutation is looked at and not just dropped."""
    if len(octets) < 20:
        return
    if octets[0] >> 4 == 4:
        octets[2:4] = min(len(octets), 65535).to_bytes(2, "big")
        at = max(20, min((octets[0] & 15) * 4, len(octets)))
        octets[10:12] = b"\0\0"
        octets[10:12] = p.checksum(bytes(octets[:at])).to_bytes(2, "big")
        protocol, src, dst = octets[9], bytes(octets[12:16]), bytes(octets[16:20])
    elif octets[0] >> 4 == 6 and len(octets) >= 40:
        octets[4:6] = (len(octets) - 40).to_bytes(2, "big")
        at, protocol, src, dst = 40, octets[6], bytes(octets[8:24]), bytes(octets[24:40])
    else:
        return
    place = {p.TCP: 16, p.UDP: 6, p.ICMP: 2, p.ICMP6: 2}.get(protocol)
    if place is None or len(octets) < at + place + 2:
        return
    octets[at + place : at + place + 2] = b"\0\0"
    body = bytes(octets[at:])
    cover = body if protocol == p.ICMP else p.pseudo(src, dst, protocol, len(body)) + body
    octets[at + place : at + place + 2] = p.checksum(cover).to_bytes(2, "big")


@check("tcpdump/zeek/suricata crash regressions: 3000 mutated packets, fixed seed", alone=True, order=2)
def fuzz_3000(c: Case) -> None:
    before = c.bench.resident()
    source = random.Random(3000)
    witness = c.connect()
    for _ in range(6):
        seeds = _seeds(c)
        c.wire.paced([_mutated(source, source.choice(seeds)) for _ in range(500)])
        require(c.bench.alive(), f"the engine died of mutated packets: {c.bench.engine_log()[-300:]}")
        witness.works()
    c.serving()
    c.udp(UDP_ECHO).echoes()
    c.settle(64 * MIB, before)


@check("third-party malformed captures fed as packets", alone=True, order=3)
def malformed_captures(c: Case) -> None:
    files = sorted(CAPTURES.glob("*"))
    if not files:
        raise NotImplementedError(f"no captures at {CAPTURES.relative_to(CAPTURES.parents[3])}")
    before, count = c.bench.resident(), 0
    witness = c.connect()
    source = random.Random(1)
    for path in files:
        found = list(ip_packets(path))
        found = found if len(found) <= 200 else source.sample(found, 200)
        cut = [packet[: source.randrange(1, len(packet) + 1)] for packet in found for _ in (0, 1)]
        repaired = []
        for packet in found:
            octets = bytearray(packet[:1500])
            _repair(octets)
            repaired.append(bytes(octets))
        c.wire.paced([packet[:1500] for packet in found] + cut + repaired)
        count += len(found)
        require(c.bench.alive(), f"the engine died of {path.name}: {c.bench.engine_log()[-300:]}")
    require(count > 500, f"only {count} packets could be read from {len(files)} captures")
    witness.works()
    c.serving()
    c.udp(UDP_ECHO).echoes()
    c.settle(64 * MIB, before)


@check("port scan: 500 closed ports", alone=True)
def port_scan_500(c: Case) -> None:
    before, dst = c.bench.resident(), c.destination()
    apps = [c.tcp(3000 + number, dst=dst) for number in range(500)]
    start = time.monotonic()
    waiting = apps
    for _ in range(4):  # SYNs repeated once a second, as an app's stack does
        for number, app in enumerate(waiting):
            app.syn()
            if number % 50 == 49:
                time.sleep(0.01)
        until = time.monotonic() + 1.0
        while waiting and time.monotonic() < until:
            waiting = [app for app in waiting if not _refused(app)]
            time.sleep(0.02)
    require(not waiting, f"{len(waiting)} of 500 closed ports were not refused within {time.monotonic() - start:.1f} s")
    c.serving()
    c.settle(64 * MIB, before)


def _refused(app: object) -> bool:
    for packet in app.inbox.drain():  # type: ignore[attr-defined]
        require(not packet.flags & p.SYN, "SYN|ACK from a closed port")
        if packet.flags & p.RST:
            return True
    return False


@check("SYN flood: 3000 half-open; then service; RSS bounded to +64 MiB", alone=True, order=1)
def syn_flood_3000(c: Case) -> None:
    before, dst = c.bench.resident(), c.destination()
    source = random.Random(2)
    flood = []
    for number in range(3000):
        src = bytes((10, 92, 200 + number % 50, source.randrange(1, 255)))
        options = p.mss(1460) + p.SACK_OK + p.timestamps(source.getrandbits(32), 0) + p.wscale(7)
        flood.append(
            p.ip4(
                src, dst, p.TCP, p.tcp(src, dst, 1024 + number, ECHO, source.getrandbits(32), 0, p.SYN, 65535, options)
            )
        )
    c.wire.paced(flood)
    took = c.serving(within=5.0)
    c.udp(UDP_ECHO).echoes()
    grown = c.bench.resident() - before
    require(c.kernel or grown <= 64 * MIB, f"RSS grew by {grown / MIB:.1f} MiB")
    time.sleep(1.5)  # SYN|ACKs are being repeated now
    c.serving(within=3.0)
    c.settle(64 * MIB, before)
    require(took < 5.0, "service came back too late")


@check("200 connections open at once, each echoes", alone=True)
def many_connections_200(c: Case) -> None:
    before = c.bench.resident()
    apps = [c.tcp(v6=number % 4 == 3) for number in range(200)]
    for number, app in enumerate(apps):
        app.syn()
        if number % 50 == 49:
            time.sleep(0.005)
    for app in apps:
        answer = app.expect("SYN|ACK", timeout=5.0)
        app.accept_syn_ack(answer)
        app.ack()
    for turn in range(3):
        for number, app in enumerate(apps):
            app.push(pattern(500, 2)[: 100 + number] + b"%d" % turn)
        for number, app in enumerate(apps):
            want = pattern(500, 2)[: 100 + number] + b"%d" % turn
            require(app.read(len(want), 5.0) == want, f"echo on connection {number}, turn {turn}")
    grown = c.bench.resident() - before
    require(c.kernel or grown < 32 * MIB, f"RSS grew by {grown / MIB:.1f} MiB for 200 connections")
    for app in apps:
        app.finish()
    for app in apps:
        app.read_to_end()


@check("RFC 9293 MUST-2, RFC 1122 3.2.1.2", alone=True, order=9)
def all_replies_well_formed(c: Case) -> None:
    if c.wire.received < 100:  # asked for alone: make some traffic
        app = c.connect()
        app.works(pattern(100_000))
        app.close()
        c.udp(UDP_ECHO).echoes(pattern(4000)[:1000])
        c.serving(v6=True)
        c.tcp(CLOSED).syn()
    time.sleep(0.2)
    faults = c.wire.faults
    require(
        not faults,
        "; ".join(
            f"{count} x {fault} (e.g. {c.wire.fault_examples.get(fault, '')[:80]})"
            for fault, count in faults.most_common(4)
        ),
    )
