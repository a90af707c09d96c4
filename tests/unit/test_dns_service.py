"""SvcParams that are taken out."""

import dns.rdata
import pytest

from netstack.dns.service import ECH, IPV4HINT, IPV6HINT, edit_service


def rdata(text: str) -> bytes:
    wire = dns.rdata.from_text("IN", "HTTPS", text).to_wire()
    assert wire is not None
    return wire


NONE: frozenset[int] = frozenset()


@pytest.mark.parametrize(
    ("before", "how", "after"),
    [
        ('1 . alpn="h3,h2" ipv4hint=192.0.2.1', {"no_h3": True}, '1 . alpn="h2" ipv4hint=192.0.2.1'),
        ('1 . alpn="h3-29"', {"no_h3": True}, "1 ."),
        ('1 . alpn="h3" no-default-alpn', {"no_h3": True}, None),
        ('1 . alpn="h3,h2" no-default-alpn', {"no_h3": True}, '1 . alpn="h2" no-default-alpn'),
        ("1 . ipv4hint=192.0.2.1,10.0.0.1", {"keep": lambda a: a[0] != 10}, "1 . ipv4hint=192.0.2.1"),
        ("1 . ipv4hint=10.0.0.1 port=443", {"keep": lambda a: a[0] != 10}, "1 . port=443"),
        ("1 . ech=AAT+DQAA port=8443", {"drop": {ECH}}, "1 . port=8443"),
        ("1 . mandatory=ipv4hint,port ipv4hint=192.0.2.1 port=1", {"drop": {IPV4HINT}}, "1 . mandatory=port port=1"),
        ("1 . mandatory=ipv6hint ipv6hint=2001:db8::1", {"drop": {IPV6HINT}}, "1 ."),
        ("0 other.test.", {"drop": {ECH}, "no_h3": True}, "0 other.test."),
    ],
)
def test_edit(before: str, how: dict, after: str | None) -> None:  # type: ignore[type-arg]
    data = rdata(before)
    drop = frozenset(how.pop("drop", NONE))
    assert edit_service(data, drop, **how) == (None if after is None else rdata(after))


def test_what_needs_no_edit_is_the_same_object() -> None:
    data = rdata('1 . alpn="h2" ech=AAT+DQAA ipv4hint=192.0.2.1')
    assert edit_service(data, NONE, no_h3=True, keep=lambda address: True) is data


def test_malformed_records_go() -> None:
    data = rdata('1 a.test. alpn="h2" ipv4hint=192.0.2.1')
    whole = {len(rdata("1 a.test.")), len(rdata('1 a.test. alpn="h2"')), len(data)}
    for cut in range(len(data) + 1):
        assert (edit_service(data[:cut], NONE) is not None) == (cut in whole)
    assert edit_service(b"\0\1\0" + b"\0\3\0\0" + b"\0\1\0\0", NONE) is None, "keys out of order"
    assert edit_service(b"\0\1\0" + b"\0\1\0\2\5h", NONE, no_h3=True) is None, "a protocol that ends early"
    assert edit_service(b"\0\1\0" + b"\0\4\0\3abc", NONE, keep=lambda address: True) is None
