"""Server names, wherever in a stream TLS begins."""

from netstack.capture.hello import HelloWatcher
from tests.made_captures import client_hello

DATA = b"\x17\x03\x03\0\x05hello"


def test_a_hello_in_one_piece_and_octet_by_octet():
    assert HelloWatcher().feed(client_hello("a.test")) == ["a.test"]
    watcher = HelloWatcher()
    hello = client_hello("a.test")
    got = watcher.feed(hello[:6]) + [name for octet in hello[6:] for name in watcher.feed(bytes((octet,)))]
    assert got == ["a.test"]


def test_a_hello_over_many_records():
    assert HelloWatcher().feed(client_hello("big.test", padding=40_000)) == ["big.test"]


def test_after_something_else():
    watcher = HelloWatcher()
    assert watcher.feed(b"CONNECT a.test:443 HTTP/1.1\r\n\r\n") == []
    assert watcher.feed(client_hello("a.test")) == ["a.test"]


def test_a_second_hello_after_a_retry():
    change = b"\x14\x03\x03\0\x01\x01"
    assert HelloWatcher().feed(client_hello("a.test") + change + client_hello("a.test") + DATA) == ["a.test"] * 2


def test_encrypted_handshakes_and_other_protocols_are_passed_over():
    watcher = HelloWatcher()
    finished = b"\x16\x03\x03\0\x28" + b"\x9c" * 40
    assert watcher.feed(client_hello("a.test") + finished + DATA) == ["a.test"]
    assert watcher.feed(b"\xff" * 100) == []
    assert watcher.feed(client_hello("b.test")) == ["b.test"]


def test_a_hole_ends_it():
    watcher = HelloWatcher()
    hello = client_hello("a.test")
    watcher.feed(hello[:40])
    watcher.lost()
    assert watcher.feed(hello[40:]) == []
    assert watcher.feed(client_hello("b.test")) == ["b.test"]


def test_endless_handshakes_are_not_kept():
    watcher = HelloWatcher()
    watcher.feed(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x4000 - 4))
    for _ in range(50):
        watcher.feed(b"\x16\x03\x01\x40\x00" + bytes(0x4000))
    assert len(watcher._handshake) <= 70_000
