"""Who asks an upstream's resolver in unit tests, and what a server answers."""

import dns.message
import dns.rrset

from netstack.core.events import EngineError
from netstack.core.ports import Resolver
from netstack.testing.world import ScriptedDialer


def response(asked: bytes, size: int = 1) -> bytes:
    query = dns.message.from_wire(asked)
    made = dns.message.make_response(query)
    made.answer.append(
        dns.rrset.from_text(query.question[0].name, 5, "IN", "A", *(f"192.0.2.{each}" for each in range(1, size + 1)))
    )
    return made.to_wire()


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


class Asker:
    """A ResolverOwner that keeps what it is told; its user makes `resolver` and starts it."""

    resolver: Resolver

    def __init__(self, now: float = 0.0) -> None:
        self.dialer = ScriptedDialer()
        self.events: list[EngineError] = []
        self.answers: dict[int, bytes] = {}
        self.failures: dict[int, str] = {}
        self.now = now

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.answers[token] = message

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.failures[token] = why

    def ask(self, token: int) -> bytes:
        message = dns.message.make_query(f"n{token}.test", "A", id=token).to_wire()
        self.resolver.query(token, message, self.now)
        return message
