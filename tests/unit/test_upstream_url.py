"""Upstreams as URLs, stamps and presets."""

import base64

import pytest

from netstack.core.errors import ConfigError
from netstack.core.flow import Endpoint
from netstack.upstream.url import CONTROL_D_BOOTSTRAP, UpstreamUrl, control_d, parse_upstream


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.53", UpstreamUrl("udp", "192.0.2.53", 53)),
        ("192.0.2.53:5353", UpstreamUrl("udp", "192.0.2.53", 5353)),
        ("[2001:db8::53]:54", UpstreamUrl("udp", "2001:db8::53", 54)),
        ("udp://192.0.2.53", UpstreamUrl("udp", "192.0.2.53", 53)),
        ("tcp://[2001:db8::53]:54/", UpstreamUrl("tcp", "2001:db8::53", 54)),
        ("tls://dns.example", UpstreamUrl("tls", "dns.example", 853, "", "dns.example")),
        ("TLS://DNS.Example.:8853", UpstreamUrl("tls", "dns.example", 8853, "", "dns.example")),
        ("tls://192.0.2.53#dns.example", UpstreamUrl("tls", "192.0.2.53", 853, "", "dns.example")),
        ("https://dns.example", UpstreamUrl("https", "dns.example", 443, "/dns-query", "dns.example")),
        ("https://dns.example/a/B?c=d", UpstreamUrl("https", "dns.example", 443, "/a/B?c=d", "dns.example")),
        ("https://dns.example/q{?dns}", UpstreamUrl("https", "dns.example", 443, "/q", "dns.example")),
        ("quic://192.0.2.53", UpstreamUrl("quic", "192.0.2.53", 853, "", "192.0.2.53")),
        ("tls://bücher.example", UpstreamUrl("tls", "xn--bcher-kva.example", 853, "", "xn--bcher-kva.example")),
    ],
)
def test_urls(text: str, wanted: UpstreamUrl) -> None:
    assert parse_upstream(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dns.example", "not an IP address"),
        ("udp://dns.example", "plain DNS needs an address"),
        ("ftp://dns.example", "scheme must be one of udp://"),
        ("tls://", "no host"),
        ("tls://dns.example:0x1", "Port"),
        ("tls://dns.example:99999", "ort"),
        ("tls://dns.example/path", "takes no path"),
        ("tls://user:secret@dns.example", "passwords"),
        ("tls://bad name", "neither a host name nor an address"),
        ("tls://192.0.2.999", "not an IPv4 address"),
        ("tls://" + "a" * 64 + ".example", "neither"),
        ("udp://192.0.2.53#dns.example", "a name to verify"),
        ("https://dns.example/a{b}", "not a path"),
        ("sdns://!!!", "base64"),
        ("sdns://", "too early"),
        ("sdns://AAAA", "too early"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        parse_upstream(text)
    assert text in str(raised.value)


def lp(octets: bytes) -> bytes:
    return bytes([len(octets)]) + octets


def stamp(kind: int, rest: bytes) -> str:
    octets = bytes([kind]) + bytes(8) + rest
    return "sdns://" + base64.urlsafe_b64encode(octets).decode().rstrip("=")


def test_stamps() -> None:
    assert parse_upstream(stamp(0, lp(b"192.0.2.53"))) == UpstreamUrl("udp", "192.0.2.53", 53)
    assert parse_upstream(stamp(0, lp(b"[2001:db8::53]:54"))) == UpstreamUrl("udp", "2001:db8::53", 54)
    made = parse_upstream(stamp(2, lp(b"192.0.2.53") + lp(b"\xaa" * 32) + lp(b"dns.example") + lp(b"/q")))
    assert made == UpstreamUrl(
        "https", "dns.example", 443, "/q", "dns.example", ("192.0.2.53",), (), (b"\xaa" * 32,)
    )  # fmt: skip
    two = b"\xa0" + b"\xaa" * 32 + lp(b"\xbb" * 32)
    made = parse_upstream(stamp(3, lp(b":8853") + two + lp(b"dns.example") + lp(b"192.0.2.1")))
    assert made.scheme == "tls" and made.port == 8853 and made.bootstrap == ("192.0.2.1",)
    assert made.pins == (b"\xaa" * 32, b"\xbb" * 32) and made.addresses == ()
    made = parse_upstream(stamp(4, lp(b"192.0.2.53") + b"\0" + lp(b"dns.example:784")))
    assert made == UpstreamUrl("quic", "dns.example", 784, "", "dns.example", ("192.0.2.53",))


def test_a_published_stamp() -> None:
    # the specification's own example of DoH
    made = parse_upstream(
        "sdns://AgcAAAAAAAAABzEuMC4wLjGgENk8mGSlIfMGXMOlIlCcKvq7AVgcrZxtjon911-ep0cg63Ul-I8NlFj4GplQGb_TTLiczclX57DvMV8Q-Jdjg"
        "RgSZG5zLmNsb3VkZmxhcmUuY29tCi9kbnMtcXVlcnk"
    )
    assert made.host == "dns.cloudflare.com" and made.addresses == ("1.0.0.1",) and made.path == "/dns-query"
    assert [len(pin) for pin in made.pins] == [32, 32]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (stamp(1, b""), "DNSCrypt"),
        (stamp(5, b""), "Oblivious"),
        (stamp(9, b""), "protocol 9"),
        (stamp(0, lp(b"")), "no address"),
        (stamp(0, lp(b"name.example")), "not an address"),
        (stamp(3, lp(b"") + lp(b"short") + lp(b"dns.example")), "not SHA-256"),
        (stamp(3, lp(b"") + b"\0" + lp(b"")), "neither"),
        (stamp(3, lp(b"") + b"\0" + lp(b"dns.example:0")), "not a port"),
        (stamp(3, lp(b"") + b"\0" + lp(b"\xff\xfe")), "ASCII"),
        (stamp(2, lp(b"") + b"\0" + lp(b"dns.example") + lp(b"q")), "not a path"),
    ],
)
def test_stamps_that_will_not_do(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_upstream(text)


def test_a_label_keeps_the_path_to_itself() -> None:
    assert parse_upstream("https://dns.example/secret").label == "https://dns.example"
    assert parse_upstream("tcp://[2001:db8::1]:54").label == "tcp://[2001:db8::1]:54"
    assert parse_upstream("tls://192.0.2.1").endpoint == Endpoint.of("192.0.2.1", 853)
    assert parse_upstream("tls://192.0.2.1").is_address and not parse_upstream("tls://a.example").is_address


def test_control_d() -> None:
    made = control_d("AbC12")
    assert (made.scheme, made.host, made.path) == ("https", "dns.controld.com", "/abc12")
    assert made.bootstrap == CONTROL_D_BOOTSTRAP
    made = control_d("abc12", client="My phone", hostname="phone-1")
    assert made.path == "/abc12/My%20phone" and made.headers == (("x-cd-host", "phone-1"),)
    assert control_d("abc12", "dot", client="My phone").host == "my--phone-abc12.dns.controld.com"
    made = control_d("abc12", "doq")
    assert (made.scheme, made.host, made.port, made.server_name) == ("quic", "abc12.dns.controld.com", 853, made.host)
    for bad in (
        {"uid": "a/b"}, {"uid": ""}, {"uid": "abc", "protocol": "udp"}, {"uid": "abc", "client": "a\nb"},
        {"uid": "abc", "protocol": "dot", "client": "a.b"}, {"uid": "abc", "protocol": "doq", "client": "a" * 62},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="Control D"):
            control_d(**bad)
