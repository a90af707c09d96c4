"""DNS64 arithmetic: IPv4 addresses inside IPv6 prefixes, and finding the network's prefix.

Responsible for: embedding and extracting (RFC 6052), reading prefixes out of an answer for ipv4only.arpa
(RFC 7050), the AAAA answer made of an A answer (RFC 6147).
Refuses to know: when to do any of it (`answers`).
RFCs: 6052, 6147, 7050.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from netstack.core.flow import Endpoint
from netstack.dns.message import AAAA, CNAME, DNAME, QR, RA, RD, SOA, A
from netstack.dns.records import IN, Message, Record

LENGTHS = (96, 64, 56, 48, 40, 32)  # bits; RFC 6052 2.2
WELL_KNOWN = b"\0\x64\xff\x9b" + bytes(8)  # 64:ff9b::/96
ARPA = b"\x08ipv4only\x04arpa\0"
_ARPA_ADDRESSES = (b"\xc0\0\0\xaa", b"\xc0\0\0\xab")  # 192.0.0.170 and .171
PTR = 12
_IP6_ARPA = b"\x03ip6\x04arpa\0"
_NO_SOA_TTL = 600  # RFC 6147 5.1.7


def parse_prefix(text: str) -> bytes:
    """``64:ff9b::/96`` as its leading 4 to 12 octets. ValueError when it is no NAT64 prefix."""
    address, _, length = text.partition("/")
    packed = Endpoint.of(address, 0).address
    if len(packed) != 16 or not (length or "96").isdigit() or int(length or 96) not in LENGTHS:
        raise ValueError(f"{text!r} is not an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
    octets = int(length or 96) // 8
    if any(packed[octets:]) or (octets == 12 and packed[8]):
        raise ValueError(f"{text!r} has bits set behind its length, or in bits 64 to 71")
    return packed[:octets]


def embed(prefix: bytes, address: bytes) -> bytes:
    """The IPv6 address of an IPv4 `address` under `prefix`; octet 8 stays zero (RFC 6052 2.2)."""
    if len(prefix) == 12:
        return prefix + address
    joined = prefix + address
    whole = joined[:8] + b"\0" + joined[8:]
    return whole + bytes(16 - len(whole))


def extract(prefix: bytes, address: bytes) -> bytes | None:
    """The IPv4 address in `address`; None when it is not under `prefix`."""
    if not address.startswith(prefix):
        return None
    if len(prefix) == 12:
        return address[12:]
    return (address[:8] + address[9:])[len(prefix) : len(prefix) + 4]


def discovered(addresses: Iterable[bytes]) -> list[bytes]:
    """The prefixes in the AAAA answer for ipv4only.arpa, in order of appearance (RFC 7050 3)."""
    found: list[bytes] = []
    for address in addresses:
        for bits in LENGTHS:
            prefix = address[: bits // 8]
            if address[8] and bits != 96:
                continue
            inside = extract(prefix, address)
            if inside in _ARPA_ADDRESSES and embed(prefix, inside) == address:
                if prefix not in found:
                    found.append(prefix)
                break
    return found


def synthesize(
    answer: Message, question: bytes, prefix: bytes, soa_ttl: int | None, translatable: Callable[[bytes], bool]
) -> Message | None:
    """The AAAA answer made of an A `answer` for the same name; None when it has no address to translate.

    `question` is the AAAA question, `soa_ttl` the negative answer's (it caps the TTLs), `translatable` says which
    IPv4 addresses may be embedded. No signature can cover what is made here: RRSIG and AD are left out.
    """
    made = Message(answer.id, QR | RA | answer.flags & RD, question)
    cap = _NO_SOA_TTL if soa_ttl is None else soa_ttl
    some = False
    for record in answer.sections[0]:
        if record.kind in (CNAME, DNAME):
            made.sections[0].append(record)
        elif record.kind == A and record.cls == IN and len(record.data) == 4 and translatable(record.data):
            made.sections[0].append(Record(record.name, AAAA, min(record.ttl, cap), embed(prefix, record.data)))
            some = True
    return made if some else None


def reverse_name(name: bytes, prefixes: Iterable[bytes]) -> bytes | None:
    """The in-addr.arpa name of the IPv4 address in an ip6.arpa `name` (folded); None when it is under no prefix."""
    labels = name[: -len(_IP6_ARPA)]
    if not name.endswith(_IP6_ARPA) or len(labels) != 64 or labels[::2] != b"\1" * 32:
        return None
    try:
        address = bytes.fromhex(labels[1::2][::-1].decode("ascii"))
    except ValueError:
        return None
    for prefix in prefixes:
        inside = extract(prefix, address)
        if inside is not None and embed(prefix, inside) == address:
            texts = [str(octet).encode() for octet in reversed(inside)]
            return b"".join(bytes((len(text),)) + text for text in texts) + b"\x07in-addr\x04arpa\0"
    return None


def reverse_answer(answer: Message, question: bytes, target: bytes) -> Message:
    """The answer for `target`'s PTR records behind a CNAME from the name that was asked (RFC 6147 5.3.1)."""
    made = Message(answer.id, QR | RA | answer.flags & (RD | 0xF), question)
    ttl = min((record.ttl for record in answer.sections[0]), default=_NO_SOA_TTL)
    made.sections[0].append(Record(question[:-4], CNAME, min(ttl, _NO_SOA_TTL), target))
    for section, records in zip(made.sections[:2], answer.sections[:2], strict=True):
        section.extend(record for record in records if record.kind in (CNAME, DNAME, PTR, SOA))
    return made


def negative_ttl(answer: Message) -> int | None:
    """The TTL of a negative answer (RFC 2308 5), or None without SOA."""
    for record in answer.sections[1]:
        if record.kind == SOA:
            return min(record.ttl, int.from_bytes(record.data[-4:], "big"))
    return None
