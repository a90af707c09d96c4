"""What the listeners of `netstack dns` are given in unit tests instead of a server and a poller."""

import struct

from netstack.config import ServerConfig
from netstack.core.stats import Stats

QUESTION = b"\x01a\x00" + struct.pack("!HH", 1, 1)


def query(ident: int) -> bytes:
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + QUESTION


class Poller:
    """Interest, kept."""

    def __init__(self):
        self.interest = {}

    def watch(self, fd, socket, readable, writable):
        self.interest[fd] = (readable, writable)


class Server:
    """Keeps what was asked; answers when told."""

    def __init__(self, **settings):
        self.settings = ServerConfig(**settings)
        self.stats = Stats()
        self.poller = Poller()
        self.asked = []
        self.later = []
        self.answering = set()

    def ask(self, flow, message, now, reply, *, over_tcp=False):
        self.asked.append((flow, message, reply, over_tcp))
        return True

    def call_later(self, seconds, callback):
        self.later.append((seconds, callback))

    def finish(self):
        while self.answering:
            self.answering.pop().flush()
