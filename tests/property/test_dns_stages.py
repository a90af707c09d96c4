"""Any answer, any settings: nothing raises, nothing is invented, no TTL grows, what leaves can be read."""

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netstack.config import AnswersConfig, CacheConfig
from netstack.core.flow import Endpoint
from netstack.dns.answers import AnswerStage
from netstack.dns.cache import CacheStage
from netstack.dns.dns64 import WELL_KNOWN, extract
from netstack.dns.filter import read_answer
from netstack.dns.message import parse_question
from netstack.policy.lan import classify
from netstack.testing.world import ScriptedResolver

NAMES = ["a.test.", "b.test.", "c.b.test.", "nas.lan.", "test."]
V4 = ["192.0.2.1", "203.0.113.7", "10.0.0.1", "127.0.0.1", "0.0.0.0", "192.168.7.7"]
V6 = ["2001:db8::1", "fd00::1", "fe80::1", "::", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
SERVICES = [
    '1 . alpn="h3,h2" ipv4hint=192.0.2.9,10.0.0.9 ipv6hint=2001:db8::9,fd00::9', '1 . alpn="h3" no-default-alpn',
    "0 b.test.", '2 c.b.test. mandatory=ipv4hint ipv4hint=10.1.1.1 port=8443 ech="AAT+DQAA"',
]  # fmt: skip
DATA = {
    "A": V4, "AAAA": V6, "HTTPS": SERVICES, "CNAME": NAMES, "NS": NAMES, "MX": [f"10 {name}" for name in NAMES],
    "SOA": ["ns.test. admin.test. 1 2 3 4 60", "ns.test. admin.test. 1 2 3 4 5"], "TXT": ['"x"', '"y" "z"'],
    "RRSIG": ["A 8 2 300 20300101000000 20200101000000 1 test. AAAA"], "DNAME": ["b.test."],
    "SRV": ["1 2 3 a.test."], "NSEC": ["b.test. A RRSIG"],
}  # fmt: skip
TTLS = [0, 1, 5, 29, 60, 300, 86_400, 604_800, 2**31 - 1]

ANY_RECORD = st.sampled_from(sorted(DATA)).flatmap(
    lambda kind: st.tuples(st.sampled_from(NAMES), st.sampled_from(TTLS), st.just(kind), st.sampled_from(DATA[kind]))
)
ADDRESS = st.tuples(st.just("a.test."), st.sampled_from([29, 60, 300]), st.just("A"), st.sampled_from(V4))
RECORD = ADDRESS | ANY_RECORD
MESSAGE = st.tuples(
    st.lists(RECORD, max_size=6), st.lists(RECORD, max_size=2), st.lists(RECORD, max_size=2),
    st.sampled_from([0, 0, 0, 2, 3, 5]), st.booleans(), st.booleans(),
)  # fmt: skip
QUERY = st.tuples(st.sampled_from(["A", "AAAA", "HTTPS", "ANY", "MX"]), st.sampled_from(NAMES), st.booleans())
FEW = st.tuples(st.sampled_from(["A", "A", "AAAA"]), st.sampled_from(["a.test.", "nas.lan."]), st.just(False))
"""Queries that repeat, so that the cache has something to say."""
SETTINGS = st.fixed_dictionaries({
    "ttl_max": st.sampled_from([0, 60]), "hints": st.sampled_from(["track", "strip"]), "strip_ech": st.booleans(),
    "strip_h3": st.sampled_from(["on", "off"]), "aaaa": st.sampled_from(["pass", "filter"]),
    "dns64": st.sampled_from(["off", "64:ff9b::/96", "discover"]),
    "rebind": st.sampled_from(["off", "remove", "refuse"]), "client_subnet": st.sampled_from(["pass", "remove"]),
})  # fmt: skip


class Chain:
    """The stages over a scripted upstream, and every answer that left."""

    def __init__(self, options: dict) -> None:  # type: ignore[type-arg]
        self.upstream = ScriptedResolver()
        self.cache = CacheStage(self.upstream, CacheConfig(octets=20_000, prefetch_hits=1))
        self.stage = AnswerStage(self.cache, AnswersConfig(**options), scope_of=classify)
        self.stage.start(self)
        self.left: list[bytes] = []
        self.failed: list[str] = []

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.left.append(message)

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.failed.append(why)


def response_to(wire: bytes, parts) -> bytes:  # type: ignore[no-untyped-def]
    asked = dns.message.from_wire(wire)
    response = dns.message.make_response(asked, recursion_available=True)
    *sections, rcode, authentic, truncated = parts
    response.set_rcode(rcode)
    response.flags |= (dns.flags.AD if authentic else 0) | (dns.flags.TC if truncated and rcode == 2 else 0)
    for section, records in zip((response.answer, response.authority, response.additional), sections, strict=True):
        for name, ttl, kind, data in records:
            section.append(dns.rrset.from_text(name, ttl, "IN", kind, data))
    return response.to_wire(max_size=65_535)


def addresses(wire: bytes) -> dict[bytes, int]:
    """Every address in any section or hint, with the largest TTL it has."""
    found: dict[bytes, int] = {}
    message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    for section in (message.answer, message.authority, message.additional):
        for rrset in section:
            for record in rrset:
                texts = []
                if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                    texts = [record.address]
                elif rrset.rdtype == dns.rdatatype.HTTPS:
                    texts = [text for key in (4, 6) if key in record.params for text in record.params[key].addresses]
                for text in texts:
                    packed = Endpoint.of(text, 0).address
                    found[packed] = max(found.get(packed, 0), rrset.ttl)
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    options=SETTINGS,
    queries=st.lists(st.tuples(FEW | QUERY, MESSAGE, st.sampled_from([0.0, 1.5, 7.0, 90.0])), max_size=8),
)
def test_nothing_is_invented_and_no_ttl_grows(options, queries) -> None:  # type: ignore[no-untyped-def]
    chain = Chain(options)
    known: dict[bytes, int] = {}
    now, asked = 0.0, 0
    for (kind, name, dnssec), parts, pause in queries:
        now += pause
        asked += 1
        message = dns.message.make_query(name, kind, id=asked, want_dnssec=dnssec).to_wire()
        chain.stage.query(asked, message, now)
        for _ in range(4):
            for token, wire in list(chain.upstream.queries.items()):
                answer = response_to(wire, parts)
                for address, ttl in addresses(answer).items():
                    known[address] = max(known.get(address, 0), ttl)
                chain.upstream.answer(token, answer, now)
        due = chain.stage.next_timeout()
        assert due is None or due > now
    assert len(chain.left) + len(chain.failed) == asked, "one answer for each"
    for wire in chain.left:
        message = dns.message.from_wire(wire)
        question = parse_question(wire)
        assert question is not None and message.flags & dns.flags.QR
        for address, ttl in addresses(wire).items():
            embedded = extract(WELL_KNOWN, address) if options["dns64"] != "off" and len(address) == 16 else None
            origin = address if address in known else embedded
            assert origin is not None and origin in known, "invented"
            assert ttl <= max(known[origin], 30 if chain.cache.stale_answers else 0)
            assert not options["ttl_max"] or ttl <= options["ttl_max"]
        if options["rebind"] != "off" and not message.question[0].name.is_subdomain(dns.name.from_text("lan")):
            assert not any(classify(address) for address in addresses(wire))
        if options["aaaa"] == "filter":
            assert not any(len(address) == 16 for address in addresses(wire))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    options=SETTINGS, query=QUERY, parts=MESSAGE, cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(2, 400), st.integers(0, 255)), max_size=6),
)  # fmt: skip
def test_damaged_answers_never_raise_and_open_nothing_private(options, query, parts, cut, changes) -> None:  # type: ignore[no-untyped-def]
    chain = Chain(options)
    kind, name, dnssec = query
    message = dns.message.make_query(name, kind, id=1, want_dnssec=dnssec).to_wire()
    for now in (0.0, 1.0, 2.0):
        chain.stage.query(int(now) + 1, message, now)
        for _ in range(3):
            for token, wire in list(chain.upstream.queries.items()):
                octets = bytearray(response_to(wire, parts))
                for at, value in changes:
                    if at < len(octets):
                        octets[at] = value
                chain.upstream.answer(token, bytes(octets[: len(octets) - cut % (len(octets) + 1)]), now)
    assert len(chain.left) + len(chain.failed) == 3
    if options["rebind"] != "off" and name != "nas.lan.":
        question = parse_question(message)
        assert question is not None
        for wire in chain.left:
            read = read_answer(wire, question)
            # what the bridge would lease
            assert (
                read is None
                or wire[12 : 12 + len(question.wire)].lower() != question.wire
                or not any(classify(address) for address, _ in read.addresses)
            )


@settings(max_examples=300, deadline=None)
@given(octets=st.binary(max_size=120), start=st.booleans())
def test_queries_of_any_octets_never_raise(octets: bytes, start: bool) -> None:
    chain = Chain({"aaaa": "auto", "dns64": "64:ff9b::/96", "client_subnet": "remove", "rebind": "remove"})
    message = (dns.message.make_query("a.test.", "AAAA", use_edns=0).to_wire()[:-4] if start else b"") + octets
    chain.stage.query(1, message, 0.0)
    assert chain.upstream.queries or chain.left
    chain.stage.cancel(1)
    assert not chain.upstream.queries or chain.left
