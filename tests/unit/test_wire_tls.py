"""Server names from ClientHellos, whole, cut, and broken."""

import random
import ssl

import pytest

from netstack.wire.tls import MAX_HELLO, parse_client_hello, parse_sni, scan_client_hello


def real_hello(name: str | None, alpn: tuple[str, ...] = ()) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def server_name(name: bytes) -> bytes:
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    return extension(0, len(entry).to_bytes(2, "big") + entry)


def hello(*extensions: bytes) -> bytes:
    joined = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(joined).to_bytes(2, "big") + joined
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int) -> bytes:
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\3\1" + len(part).to_bytes(2, "big") + part for part in parts)


def test_what_openssl_sends() -> None:
    scan = scan_client_hello(real_hello("WWW.Example.com", ("h2", "http/1.1")))
    assert scan.hello is not None and not scan.more
    assert scan.hello.server_name == "www.example.com"
    assert scan.hello.alpn == ("h2", "http/1.1") and not scan.hello.has_ech
    nameless = scan_client_hello(real_hello(None)).hello
    assert nameless is not None and nameless.server_name is None


def test_every_prefix_asks_for_more() -> None:
    whole = real_hello("a.test")
    for size in range(len(whole)):
        scan = scan_client_hello(whole[:size])
        assert scan.more and scan.hello is None, size
    assert parse_sni(whole + b"\x14\3\3\0\1\1") == "a.test"


@pytest.mark.parametrize("size", [1, 3, 4, 5, 50])
def test_cut_over_many_records(size: int) -> None:
    stream = records(hello(server_name(b"a.test")), size)
    assert parse_sni(stream) == "a.test"
    for end in range(0, len(stream), 7):
        assert scan_client_hello(stream[:end]).more


def test_ech_and_final_dot() -> None:
    scan = scan_client_hello(records(hello(extension(0xFE0D, b"x" * 20), server_name(b"Outer.Test.")), 500))
    assert scan.hello is not None and scan.hello.has_ech and scan.hello.server_name == "outer.test"


@pytest.mark.parametrize("name", [b"", b"a b", b"a\0b", b"\xff\xfe", b"x" * 300, b"."])
def test_names_that_are_none(name: bytes) -> None:
    scan = scan_client_hello(records(hello(server_name(name)), 5000))
    assert scan.hello is not None and scan.hello.server_name is None


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"\x17\3\3\0\5hello",
        b"\x16\2\0\0\5hello",
        b"\x16\3\1\0\0" + b"\x16\3\1\0\0",  # empty records
        b"\x16\3\1\xff\xff" + bytes(100),  # a record that is too long
        b"\x16\3\1\0\4\2\0\0\0",  # a ServerHello
        records(b"\1\0\0\x05\3\3\0\0\0", 100),  # a body that is too short
        records(hello(server_name(b"a.test"))[:-3] + b"\xff\xff\xff", 5000)[:-1] + b"\x17\3\3",
    ],
)
def test_what_is_not_a_hello(stream: bytes) -> None:
    scan = scan_client_hello(stream)
    assert scan.hello is None or scan.hello.server_name != "a.test"
    assert parse_sni(stream) is None


def test_a_hello_without_end_is_given_up() -> None:
    endless = b"\1\xff\xff\xff" + bytes(MAX_HELLO * 2)
    assert not scan_client_hello(records(endless, 16_000)).more


def test_extensions_that_contradict_themselves() -> None:
    body = hello(server_name(b"a.test"))[4:]
    for size in range(len(body)):
        parse_client_hello(body[:size])
    assert parse_client_hello(body[:-1]) is None
    message = hello(extension(0, b"\0\x20\0\0\x20abc"), extension(16, b"\0\4\x09h2"))
    broken = scan_client_hello(records(message, 900)).hello
    assert broken is not None and broken.server_name is None and broken.alpn == ()


def test_mutations_never_raise() -> None:
    whole = real_hello("a.test", ("h2",))
    source = random.Random(2)
    for _ in range(3000):
        mutated = bytearray(whole)
        for _ in range(source.randrange(1, 8)):
            mutated[source.randrange(len(mutated))] = source.randrange(256)
        scan_client_hello(mutated[: source.randrange(len(mutated) + 1)])
