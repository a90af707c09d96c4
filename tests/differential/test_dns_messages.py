"""The light DNS reader against dnspython: on the messages of real captures and on mutated ones.

Where dnspython reads an answer, this reader must read it and see the same addresses; what this reader
takes and dnspython refuses must hold no address that a tolerant parser would not also see.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dpkt
import pytest

from netstack.dns.filter import read_answer
from netstack.dns.message import Query, parse_query, parse_question

CAPTURES = Path(__file__).parents[3] / "shared" / "captures" / "real"


def payloads(path: Path) -> Iterator[bytes]:
    """UDP payloads of port 53 in an Ethernet capture; nothing from files of another kind."""
    with open(path, "rb") as file:
        try:
            reader = dpkt.pcapng.Reader(file) if path.suffix == ".pcapng" else dpkt.pcap.Reader(file)
            if reader.datalink() != dpkt.pcap.DLT_EN10MB:
                return
            for _, frame in reader:
                packet = dpkt.ethernet.Ethernet(frame).data
                if isinstance(packet, (dpkt.ip.IP, dpkt.ip6.IP6)) and isinstance(packet.data, dpkt.udp.UDP):
                    datagram = packet.data
                    if 53 in (datagram.sport, datagram.dport) and datagram.ulen - 8 == len(datagram.data):
                        yield bytes(datagram.data)
        except (dpkt.Error, ValueError, IndexError, EOFError):
            return


@pytest.fixture(scope="module")
def captured() -> list[bytes]:
    if not CAPTURES.is_dir():
        pytest.skip(f"captures are not at {CAPTURES}")
    found = {payload for path in sorted(CAPTURES.iterdir()) if "pcap" in path.suffix for payload in payloads(path)}
    assert len(found) > 300
    return sorted(found)


def expected(message: dns.message.Message) -> set[bytes]:
    """Addresses on the chain from the question, by dnspython's objects."""
    names = {message.question[0].name}
    in_class = [rrset for rrset in message.answer if rrset.rdclass == dns.rdataclass.IN]
    for _ in range(len(message.answer) + 1):
        for rrset in in_class:
            if rrset.rdtype == dns.rdatatype.CNAME and rrset.name in names:
                names |= {record.target for record in rrset}
    found = set()
    for rrset in in_class:
        if rrset.name in names and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            found |= {ip_address(record.address).packed for record in rrset}
        elif rrset.name in names and rrset.rdtype in (dns.rdatatype.HTTPS, dns.rdatatype.SVCB):
            for record in rrset:
                for key in (4, 6):
                    if key in record.params:
                        found |= {ip_address(address).packed for address in record.params[key].addresses}
    return found


def theirs(octets: bytes) -> dns.message.Message | None:
    try:
        return dns.message.from_wire(octets, one_rr_per_rrset=True, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, IndexError):
        return None


def test_captured_queries(captured: list[bytes]) -> None:
    seen = 0
    for octets in captured:
        message = theirs(octets)
        if message is None or octets[2] & 0xF8 or len(message.question) != 1:
            continue
        query = parse_query(octets)
        assert isinstance(query, Query), octets
        asked = message.question[0]
        assert dns.name.from_text(query.question.name) == asked.name
        assert (query.question.type, query.question.cls) == (asked.rdtype, asked.rdclass)
        assert query.edns == (message.edns >= 0)
        seen += 1
    assert seen > 100


def test_captured_answers(captured: list[bytes]) -> None:
    seen = with_addresses = 0
    for octets in captured:
        message = theirs(octets)
        if message is None or octets[2] & 0xF8 != 0x80 or len(message.question) != 1:
            continue
        question = parse_question(octets)
        assert question is not None
        answer = read_answer(octets, question)
        assert answer is not None, octets
        assert {address for address, _ in answer.addresses} == expected(message), octets
        seen += 1
        with_addresses += bool(answer.addresses)
    assert seen > 100 and with_addresses > 50


def test_mutated_answers(captured: list[bytes]) -> None:
    source = random.Random(11)
    whole = [octets for octets in captured if len(octets) > 12]
    answers = [octets for octets in whole if octets[2] & 0xF8 == 0x80 and octets[4:6] == b"\0\1"]
    taken = 0
    for _ in range(4000):
        octets = bytearray(source.choice(answers))
        for _ in range(source.randrange(1, 4)):
            octets[source.randrange(6, len(octets))] = source.choice((0, 1, 4, 0xC0, 0x0C, 0xFF, source.randrange(256)))
        question = parse_question(bytes(octets))
        if question is None:
            continue
        answer = read_answer(bytes(octets), question)
        message = theirs(bytes(octets))
        if answer is None or message is None or len(message.question) != 1:
            continue
        assert expected(message) <= {address for address, _ in answer.addresses}
        taken += 1
    assert taken > 500
