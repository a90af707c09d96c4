"""What `make demo` shows: a replay with its verdicts, then real programs behind the engine.

Responsible for: the two parts of the demonstration, and saying why the second cannot run where it cannot.
Refuses to know: the engine; it runs the `netstack` command as anybody would.

The live part changes nothing on the host and needs no network: the servers that the programs talk to run in a network
namespace of the demonstration's own, on documentation addresses (RFC 5737, RFC 3849).
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's own package, installed or not
CAPTURE = "examples/first-look.pcap"
RESOLVER = "127.0.0.1:5354"
SITE, SITE6 = "198.51.100.10", "2001:db8::10"
NAMES = {b"\7example\3com\0": {1: socket.inet_aton(SITE), 28: socket.inet_pton(socket.AF_INET6, SITE6)}}  # A, AAAA
HARD_CODED = "198.51.100.20"
PROGRAMS = [
    ["python", "examples/fetch.py", "example.com"],
    ["curl", "-sS", "--max-time", "8", "http://example.com/"],
    ["dig", "+noall", "+answer", "example.com", "A", "example.com", "AAAA"],
    ["ping", "-c", "1", "-q", "example.com"],
]

say = functools.partial(print, flush=True)


def show(*command: str) -> int:
    """Run a command as a reader would type it, under its own line."""
    say(f"\n$ {' '.join(command)}")
    place = {"netstack": [sys.executable, "-m", "netstack"], "python": [sys.executable]}
    words = [word for shown in command for word in place.get(shown, [shown])]
    return subprocess.run(words, cwd=ROOT, check=False).returncode


# --- part one ---


def replay() -> int:
    """The bundled capture and its verdicts."""
    say("A replay. Seven minutes of an invented phone pass through the engine on a virtual clock: what DNS named is")
    say("allowed; a hard-coded address, QUIC, and an address whose lease ran out are not.")
    return show("netstack", "replay", CAPTURE)


# --- part two ---


def why_not_live() -> str:
    """Why this machine cannot run the live part; empty when it can."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun (load the tun module, or give the container the device)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun may not be opened by this user (run as root)"
    if shutil.which("unshare") is None:
        return "the unshare program is missing (util-linux)"
    probe = subprocess.run([*namespace(), "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"network namespaces are not allowed here ({probe.stderr.strip() or probe.returncode})"
    return ""


def namespace() -> list[str]:
    """The command that gives a program a network namespace of its own."""
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_user, "--net"]


def network_namespace() -> str:
    """What tells one network namespace from another."""
    return os.readlink("/proc/self/ns/net")


class Page(http.server.BaseHTTPRequestHandler):
    """One page for any address."""

    def do_GET(self) -> None:
        """Say who was asked."""
        body = f"hello from {self.headers['Host']}, through the engine\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server6(http.server.ThreadingHTTPServer):
    """Both families on one socket."""

    address_family = socket.AF_INET6


def answer_queries(server: socket.socket) -> None:
    """A resolver that knows one name; every other does not exist."""
    while True:
        query, sender = server.recvfrom(4096)
        server.sendto(answer(query), sender)


def answer(query: bytes) -> bytes:
    """The answer to a query without compression: NOERROR with an address, or NXDOMAIN (RFC 1035 4.1)."""
    end = query.index(b"\0", 12) + 5
    name, kind = query[12 : end - 4].lower(), int.from_bytes(query[end - 4 : end - 2], "big")
    records = NAMES.get(name)
    address = records.get(kind) if records else None
    flags = 0x8180 if records else 0x8183
    reply = query[:2] + struct.pack("!HHHHH", flags, 1, 1 if address else 0, 0, 0) + query[12:end]
    if address:
        reply += struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(address)) + address
    return reply


def serve() -> None:
    """Addresses, web server and resolver in this namespace."""
    from netstack.link.netlink import Netlink

    with Netlink() as netlink:
        netlink.set_up("lo")
        for address in (f"{SITE}/32", f"{HARD_CODED}/32", f"{SITE6}/128"):
            netlink.add_address("lo", address)
    web = Server6(("::", 80), Page)
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("127.0.0.1", 5354))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    threading.Thread(target=answer_queries, args=(resolver,), daemon=True).start()


def inside(host: str) -> int:
    """The live part, in a namespace that is not the `host`'s, where its servers are all there is."""
    if network_namespace() == host:
        sys.exit("demo: this is no namespace of its own, and the host's addresses are not to be touched")
    serve()
    failed = 0
    for program in PROGRAMS:
        if program[0] == "python" or shutil.which(program[0]):
            failed |= show("netstack", "exec", "--dns", RESOLVER, "--", *program)
        else:
            say(f"\n({program[0]} is not installed here)")
    say("\nA name opens its address; one that no answer named stays shut, though its server is up. With -v the engine")
    say("says what it decided, on standard error:")
    return failed | show(
        "netstack", "exec", "-v", "--dns", RESOLVER, "--", "python", "examples/fetch.py", "example.com", HARD_CODED
    )


def live() -> int:
    """Part two, or the reason why not."""
    say("\nLive. Real programs in a network namespace whose only way out is the engine.")
    reason = why_not_live()
    if reason:
        say(f"Not on this machine: {reason}.")
        return 0
    command = [*namespace(), sys.executable, __file__, "--inside", network_namespace()]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(inside(sys.argv[2]) if sys.argv[1:2] == ["--inside"] else replay() or live())
