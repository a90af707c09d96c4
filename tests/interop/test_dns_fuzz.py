"""Malformed messages through a live `netstack dns`, from its clients and from its upstreams: ten thousand each way.

Nothing ends the service or shows a traceback, every well-formed query is answered in time, and no address is believed
(`addresses` in the query log is what a tracker would be given) that the message does not have for the name asked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import shutil
import socket
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.interop.dns_load import Load, query
from tests.interop.dns_matrix import dig, resident, serving
from tests.interop.hostile_dns import TRANSPORTS, HostileServers, Site

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("dig") is None or find_spec("cryptography") is None, reason="needs dig and cryptography"
    ),
]
if find_spec("h2") is None or find_spec("aioquic") is None:
    pytest.skip("needs h2 and aioquic", allow_module_level=True)

MESSAGES = 10_000
SEED = 20_240_501


def mutated(chance: random.Random, message: bytes) -> bytes:
    """One to four changes of the kinds that have broken parsers."""
    octets = bytearray(message)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(octets)) if octets else 0
        kind = chance.randrange(9)
        if kind == 0 and octets:
            octets[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and octets:
            octets[at] = chance.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF))
        elif kind == 2:
            del octets[at:]
        elif kind == 3:
            octets += chance.randbytes(chance.choice((1, 2, 11, 300)))
        elif kind == 4 and len(octets) >= 12:  # counts that lie
            field = chance.choice((4, 6, 8, 10))
            octets[field : field + 2] = chance.choice((0, 1, 2, 255, 65_535)).to_bytes(2, "big")
        elif kind == 5 and len(octets) > 14:  # pointers: forward, to themselves, into the header
            octets[at : at + 2] = (0xC000 | chance.choice((at, 0, 2, 12, at + 2, 0x3FFF))).to_bytes(2, "big")
        elif kind == 6 and len(octets) >= 4:  # flags
            octets[2:4] = chance.randbytes(2)
        elif kind == 7:
            octets[at:at] = octets[at : at + chance.randint(1, 40)]
        elif octets:
            del octets[at : at + chance.randint(1, 12)]
    return bytes(octets)


def answer_of_some_kind(chance: random.Random, asked: bytes) -> bytes:
    """A sound answer: addresses, aliases, hints, none."""
    import dns.message
    import dns.rdatatype
    import dns.rrset

    message = dns.message.make_response(dns.message.from_wire(asked))
    name = message.question[0].name
    kind = chance.randrange(5)
    if kind == 0:
        message.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1", "192.0.2.2"))
    elif kind == 1:
        message.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", "cdn.example."))
        message.answer.append(dns.rrset.from_text("cdn.example.", 60, "IN", "A", "192.0.2.3"))
    elif kind == 2:
        message.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.4"))
        message.additional.append(dns.rrset.from_text("ns.example.", 60, "IN", "AAAA", "2001:db8::1"))
    elif kind == 3:
        message.authority.append(
            dns.rrset.from_text("example.", 60, "IN", "SOA", "a.example. b.example. 1 2 3 4 5")
        )
    else:
        message.answer.append(
            dns.rrset.from_text(name, 60, "IN", "HTTPS", "1 . alpn=h2 ipv4hint=192.0.2.5 ipv6hint=2001:db8::5")
        )
    return message.to_wire()


class Liar:
    """Says something malformed to the first query for a name and the truth to the next."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.said: dict[str, list[bytes]] = {}

    def twist(self, asked: bytes) -> bytes:
        import dns.message

        name = dns.message.from_wire(asked).question[0].name.to_text(omit_final_dot=True)
        sound = answer_of_some_kind(self._chance, asked)
        message = sound if name in self.said else mutated(self._chance, sound)
        self.said.setdefault(name, []).append(message)
        return message


def holds(message: bytes, address: str) -> bool:
    """True when the octets of this address are in the message."""
    return ipaddress.ip_address(address).packed in message


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServers]:
    made = HostileServers(tmp_path_factory.mktemp("fuzz"))
    try:
        yield made
    finally:
        made.stop()


def lying(hostile: HostileServers, transport: str, liar: Liar) -> Site:
    site = hostile.site(transport, "well")
    site.twist = liar.twist
    return site


@pytest.mark.parametrize("cache", ["on", "off"])
def test_malformed_queries(hostile: HostileServers, cache: str) -> None:
    chance = random.Random(SEED)
    upstream = hostile.site("udp", "well")
    with serving("--cache", cache, "--upstream", upstream.url()) as (process, port):
        assert dig(port, "before.example").code == "NOERROR"
        before = resident(process.pid)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            for number in range(MESSAGES):
                with contextlib.suppress(OSError):
                    client.send(mutated(chance, query(f"q{number}.example", number)))
                if number % 50 == 49:
                    time.sleep(0.01)
                    with contextlib.suppress(OSError):
                        while True:
                            assert client.recv(65_535)[2] & 0x80, "what is answered is an answer"
        for number in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as client:
                for _ in range(MESSAGES // 2 // 100):
                    message = mutated(chance, query(f"t{number}.example", number))
                    length = len(message) if chance.random() < 0.99 else chance.randrange(65_536)
                    client.sendall(length.to_bytes(2, "big") + message)
        assert dig(port, "after.example").code == "NOERROR"
        assert dig(port, "after-tcp.example", "+tcp").code == "NOERROR"
        assert resident(process.pid) - before < 16 * 1024
    said = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0 and "Traceback" not in said and "internal error" not in said, said


def test_malformed_answers(hostile: HostileServers, tmp_path: Path) -> None:
    liars = {transport: Liar(SEED + number) for number, transport in enumerate(TRANSPORTS)}
    text = f'[dns]\nupstreams = ["{lying(hostile, "udp", liars["udp"]).url()}"]\nca_file = "{hostile.ca_file}"\n'
    for transport in TRANSPORTS[1:]:
        url = lying(hostile, transport, liars[transport]).url()
        text += f'[[split]]\nupstreams = ["{url}"]\nsuffixes = ["{transport}.test"]\n'
    config, log = tmp_path / "fuzz.toml", tmp_path / "log"
    config.write_text(text + '[cache]\nuse = "on"\n')
    with serving("--config", str(config), "--log", str(log)) as (process, port):
        before = resident(process.pid)
        loads = [Load(port, "udp.example", rate=1500)]
        loads += [Load(port, f"{transport}.test", rate=100) for transport in TRANSPORTS[1:]]
        time.sleep(MESSAGES / 1500)
        asked = [one for load in loads for one in load.stop()]
        grown = resident(process.pid) - before
    said = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0 and "Traceback" not in said and "internal error" not in said, said
    assert len(asked) >= MESSAGES and all(one.answered and one.took < 6 for one in asked)
    assert grown < 32 * 1024
    told = {name: messages for liar in liars.values() for name, messages in liar.said.items()}
    assert len(told) >= MESSAGES * 0.9
    believed = 0
    for line in log.read_text().splitlines():
        event = json.loads(line)
        for address in event.get("addresses", ()):
            believed += 1
            assert any(holds(message, address) for message in told[event["name"]]), event
    assert believed > MESSAGES // 4, "sound answers still count"
