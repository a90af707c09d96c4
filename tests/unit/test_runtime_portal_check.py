"""Looking for a captive portal, with real sockets on loopback: a resolver, a probe's server, an API."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import dns.message
import dns.rrset
import pytest

from netstack.config import make_config
from netstack.core.errors import NetstackError
from netstack.core.network import Network
from netstack.runtime.portal_check import API_TYPE, Found, PortalCheck, PortalWatch
from tests.certificates import authority, server_context


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    reply: tuple[int, dict[str, str], bytes] = (204, {}, b"")
    asked: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        status, headers, body = type(self).reply
        self.asked.append((self.headers["Host"], self.path, self.headers["Accept"]))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *ignored: Any) -> None:
        pass


class Place:
    """A network: its resolver, which names everything 127.0.0.1, and a web server."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.settimeout(10)
        stack.callback(self.udp.close)
        self.resolver = f"127.0.0.1:{self.udp.getsockname()[1]}"
        threading.Thread(target=self._resolve, daemon=True).start()
        self.handler = type("Own", (Handler,), {"asked": []})
        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.port = self.web.server_address[1]
        stack.callback(self.web.server_close)
        stack.callback(self.web.shutdown)
        threading.Thread(target=self.web.serve_forever, args=(0.02,), daemon=True).start()
        self.protected: list[int] = []

    def _resolve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                octets, sender = self.udp.recvfrom(2048)
                query = dns.message.from_wire(octets)
                self.udp.sendto(b"\0\0" + octets[2:], sender)  # somebody else's answer is not ours
                response = dns.message.make_response(query)
                if query.question[0].rdtype == 1 and "nowhere" not in str(query.question[0].name):
                    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "127.0.0.1"))
                self.udp.sendto(response.to_wire(), sender)

    def protect(self, fd: int) -> bool:
        self.protected.append(fd)
        return True

    def check(self, **how: Any) -> PortalCheck:
        return PortalCheck([self.resolver], self.protect, **how)

    def probe(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Found:
        self.handler.reply = (status, headers or {}, body)  # type: ignore[attr-defined]
        return self.check().probe(f"http://check.example:{self.port}/generate_204?x=1")


@pytest.fixture
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


def test_what_a_probe_says(place: Place) -> None:
    url = f"http://check.example:{place.port}/generate_204?x=1"
    assert place.probe(204) == Found() and place.probe(200) == Found()
    assert place.probe(200, body=b"<HTML>Success</HTML>") == Found()
    assert place.probe(302, {"Location": "https://login.example/"}) == Found(captive=True, url="https://login.example/")
    assert place.probe(200, body=b"<html>Pay here</html>") == Found(captive=True, url=url)
    assert place.probe(511) == Found(captive=True, url=url)
    assert place.handler.asked[0] == (f"check.example:{place.port}", "/generate_204?x=1", "*/*")  # type: ignore[attr-defined]
    assert len(place.protected) >= 18, "every socket, also those of the resolver"
    with pytest.raises(NetstackError, match="answers 404"):
        place.probe(404)


def test_what_cannot_be_asked_is_said(place: Place) -> None:
    with pytest.raises(NetstackError, match=r"nowhere\.example has no address"):
        place.check().probe("http://nowhere.example/")
    with pytest.raises(OSError):
        place.check().probe("http://127.0.0.1:1/")
    with pytest.raises(NetstackError, match="not a host name"):
        place.check().probe("http://a..b/")
    with pytest.raises(NetstackError, match="could not be protected"):
        PortalCheck([place.resolver], lambda fd: False).probe("http://check.example/")


def test_what_is_no_http(place: Place) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listening.accept()
                peer.recv(4096)
                peer.sendall(b"\x15\x03\x01 nonsense\r\n\r\n")
                peer.close()

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(NetstackError, match="no HTTP"):
            place.check().probe(f"http://127.0.0.1:{listening.getsockname()[1]}/")


def test_the_api_is_asked_over_verified_tls(place: Place) -> None:
    anchors = authority().ca_file
    place.web.socket = server_context("portal.example").wrap_socket(place.web.socket, server_side=True)
    answer = b'{"captive": true}'
    place.handler.reply = (200, {}, answer)  # type: ignore[attr-defined]
    url = f"https://portal.example:{place.port}/api"
    assert place.check(ca_file=str(anchors)).ask_api(url) == Found(answer=answer)
    assert place.handler.asked[-1][2] == API_TYPE  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="certificate"):
        place.check().ask_api(url)
    with pytest.raises(OSError, match="certificate"):
        place.check(ca_file=str(anchors)).ask_api(f"https://other.example:{place.port}/api")
    place.handler.reply = (404, {}, b"")  # type: ignore[attr-defined]
    with pytest.raises(NetstackError, match="answers 404"):
        place.check(ca_file=str(anchors)).ask_api(url)


# --- when it is looked ---


class Portal:
    location = ""
    allowing = False


class Run:
    """The engine's thread, and what it was told."""

    def __init__(self, table: dict[str, Any] | None = None, network: Network | None = None) -> None:
        self.config = make_config(table or {})
        self.network = network or Network(servers=("192.0.2.7",))
        self.known_portal: Portal | None = None
        self.is_blocking = False
        self.told: list[dict[str, Any]] = []
        self.events: list[Any] = []
        self.later: list[tuple[float, Any]] = []
        self.done = threading.Semaphore(0)
        self.found: Found | Exception = Found()
        self.asked: list[str] = []
        self.watch = PortalWatch(
            self.change, lambda after, call: self.later.append((after, call)), None, self.events.append,
            check=self.made,  # type: ignore[arg-type]
        )  # fmt: skip

    def change(self, function: Any) -> bool:
        function(self, 1.0)
        if threading.current_thread().name == "portal":
            self.done.release()
        return True

    def captive_portal(self, now: float, **what: Any) -> None:
        self.told.append(what)

    def made(self, servers: Any, protect: Any, *, ca_file: str) -> Any:
        self.servers = servers
        return self

    def ask_api(self, url: str) -> Found:
        return self.probe(url)

    def probe(self, url: str) -> Found:
        self.asked.append(url)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def look(self) -> None:
        self.watch.look()
        assert self.done.acquire(timeout=5)


def test_a_probe_without_an_api_and_the_api_once_it_is_known() -> None:
    run = Run({"captive": {"probe": "http://check.example/"}})
    run.look()
    assert run.asked == ["http://check.example/"] and run.told == [{"captive": False, "url": ""}] and not run.later
    assert run.servers == ("192.0.2.7",)
    run.known_portal = Portal()
    run.known_portal.location, run.known_portal.allowing = "https://portal.example/api", True
    run.found = Found(answer=json.dumps({"captive": True}).encode())
    run.look()
    assert run.asked[-1] == "https://portal.example/api" and run.told[-1] == {"answer": b'{"captive": true}'}
    [(after, again)] = run.later
    assert after == 10.0
    run.known_portal.allowing = False
    again()
    assert run.done.acquire(timeout=5) and len(run.later) == 1, "not any more"


@pytest.mark.parametrize("problem", [TimeoutError("timed out"), NetstackError("answers 500"), ValueError("bad URL")])
def test_what_cannot_be_found_out_is_an_event_and_changes_nothing(problem: Exception) -> None:
    run = Run()
    run.found = problem
    run.look()
    assert not run.told and [event.where for event in run.events] == ["portal"]
    run.look()
    assert len(run.asked) == 2


def test_nothing_is_asked_while_everything_is_blocked() -> None:
    run = Run()
    run.is_blocking = True
    run.watch.look()
    assert not run.asked
    run.is_blocking = False
    run.look()
    assert len(run.asked) == 1


def test_the_resolvers_of_the_configuration_when_the_host_named_none() -> None:
    run = Run({"dns": {"network_servers": ["192.0.2.8"]}}, Network())
    run.look()
    assert run.servers == ("192.0.2.8",)
