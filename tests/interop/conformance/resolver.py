"""A DNS resolver that lies on demand: the behaviour and the address are in the name that is asked.

Responsible for: names ``BEHAVIOUR.HEXADDRESS[.more].test`` -> the octets to send back, with delays.
Refuses to know: sockets.
RFCs: 1035, 2308.

Behaviours: ok, cname, nx, slow (0.8 s), silent, many (25 consecutive addresses), loop, selfloop, counts, cut, empty,
forgedid, otherq, noqr. The last three come first as a lie
that holds another address (`evil`), 0.15 s later as the truth; with ``only`` after the behaviour (``forgedidonly``)
the truth never comes.
"""

from __future__ import annotations

import struct

A, CNAME, AAAA = 1, 5, 28


def encode_name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"


def read_name(message: bytes, at: int) -> tuple[str, int]:
    """A name and the offset after it, following at most 40 pointers. Raises ValueError."""
    labels: list[str] = []
    after, hops = -1, 0
    while True:
        if at >= len(message):
            raise ValueError("name runs out of the message")
        size = message[at]
        if size >= 0xC0:
            if at + 1 >= len(message) or (hops := hops + 1) > 40:
                raise ValueError("bad pointer")
            after = at + 2 if after < 0 else after
            at = (size & 0x3F) << 8 | message[at + 1]
        elif size == 0:
            return ".".join(labels).lower(), at + 1 if after < 0 else after
        else:
            labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
            at += 1 + size


def query(name: str, kind: int = A, ident: int = 0x1234, *, edns: bool = False) -> bytes:
    extra = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0) if edns else b""
    return (
        struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, int(edns))
        + encode_name(name)
        + struct.pack("!HH", kind, 1)
        + extra
    )


def name_for(behaviour: str, address: bytes, salt: str = "") -> str:
    return f"{behaviour}.{address.hex()}{'.' + salt if salt else ''}.test"


def evil(address: bytes) -> bytes:
    """The address that only a forged answer holds: in the same block of 32, so no other check's."""
    return address[:-1] + bytes((address[-1] | 0x1F,))


class Answer:
    """A response taken apart: header fields, question and the addresses in it. Raises ValueError when it is no DNS."""

    def __init__(self, message: bytes) -> None:
        if len(message) < 12:
            raise ValueError("shorter than a header")
        self.ident, flags, questions, answers, *_ = struct.unpack_from("!HHHHHH", message)
        self.is_response, self.truncated, self.rcode = bool(flags & 0x8000), bool(flags & 0x0200), flags & 15
        self.question, self.kind, at = "", 0, 12
        self.addresses: list[bytes] = []
        for _ in range(questions):
            self.question, at = read_name(message, at)
            self.kind, at = int.from_bytes(message[at : at + 2], "big"), at + 4
        for _ in range(answers):
            _, at = read_name(message, at)
            if at + 10 > len(message):
                raise ValueError("record runs out of the message")
            kind, _, _, size = struct.unpack_from("!HHIH", message, at)
            if kind in (A, AAAA):
                self.addresses.append(message[at + 10 : at + 10 + size])
            at += 10 + size


def respond(message: bytes, *, over_tcp: bool = False) -> list[tuple[float, bytes]]:
    """What to send for a query: (seconds from now, octets) each. Nothing for what is no query."""
    try:
        name, at = read_name(message, 12)
        kind = int.from_bytes(message[at : at + 2], "big")
        behaviour, _, rest = name.partition(".")
        address = bytes.fromhex(rest.split(".")[0])
    except (ValueError, IndexError):
        return [(0.0, message[:2] + b"\x81\x83" + struct.pack("!HHHH", 0, 0, 0, 0))] if len(message) >= 12 else []
    ident, question = message[:2], message[12 : at + 4]
    if len(address) not in (4, 16):
        return [(0.0, _message(ident, question, []))]
    records = [_record(kind, address)] if len(address) == {A: 4, AAAA: 16}.get(kind, 0) else []
    truth = _message(ident, question, records)
    if behaviour == "silent":
        return []
    if behaviour == "slow":
        return [(0.8, truth)]
    if behaviour == "nx":
        return [(0.0, _message(ident, question, [], rcode=3))]
    if behaviour == "cname" and records:
        first, second = encode_name("edge.cdn.test"), encode_name("e1.far.test")
        return [
            (
                0.0,
                _message(
                    ident,
                    question,
                    [_named(b"\xc0\x0c", CNAME, first), _named(first, CNAME, second), _named(second, kind, address)],
                ),
            )
        ]
    if behaviour == "many" and records:
        start = int.from_bytes(address, "big")
        return [
            (
                0.0,
                _message(
                    ident, question, [_record(kind, (start + n).to_bytes(len(address), "big")) for n in range(25)]
                ),
            )
        ]
    if behaviour in ("loop", "selfloop", "counts", "cut", "empty"):
        return [(0.0, _broken(behaviour, ident, question, kind, address))]
    lie = _lie(behaviour.removesuffix("only"), ident, question, kind, address)
    if lie:
        return [(0.0, lie)] if behaviour.endswith("only") else [(0.0, lie), (0.15, truth)]
    return [(0.0, truth)]


def _named(owner: bytes, kind: int, data: bytes, ttl: int = 60) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def _record(kind: int, address: bytes) -> bytes:
    return _named(b"\xc0\x0c", kind, address)


def _message(
    ident: bytes, question: bytes, records: list[bytes], rcode: int = 0, flags: int = 0x8180, count: int | None = None
) -> bytes:
    answers = len(records) if count is None else count
    return ident + struct.pack("!HHHHH", flags | rcode, 1, answers, 0, 0) + question + b"".join(records)


def _broken(behaviour: str, ident: bytes, question: bytes, kind: int, address: bytes) -> bytes:
    end = 12 + len(question)
    if behaviour == "loop":  # two names that point at each other
        pair = struct.pack("!HH", 0xC000 | (end + 2), 0xC000 | end)
        return _message(ident, question, [pair + struct.pack("!HHIH", kind, 1, 60, len(address)) + address])
    if behaviour == "selfloop":
        return _message(ident, question, [_named(struct.pack("!H", 0xC000 | end), kind, address)])
    if behaviour == "counts":
        return _message(ident, question, [_record(kind, evil(address))], count=65535)
    if behaviour == "cut":
        return _message(ident, question, [_record(kind, evil(address))])[:-2]
    return ident


def _lie(behaviour: str, ident: bytes, question: bytes, kind: int, address: bytes) -> bytes:
    records = [_record(kind, evil(address))]
    if behaviour == "forgedid":
        return _message(bytes((ident[0] ^ 0x5A, ident[1] ^ 0xA5)), question, records)
    if behaviour == "otherq":
        return _message(ident, encode_name(f"ok.{evil(address).hex()}.other") + question[-4:], records)
    if behaviour == "noqr":
        return _message(ident, question, records, flags=0x0100)
    return b""
