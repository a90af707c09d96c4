"""Names that lead around the resolver."""

from pathlib import Path

import pytest

from netstack.dns.bypass import BUILT_IN, doh_hosts_path, signal
from netstack.dns.list_text import ListText
from netstack.dns.lists import Lists
from netstack.dns.ruleset import Action


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("use-application-dns.net", Action.NXDOMAIN), ("mask.icloud.com", Action.NXDOMAIN),
        ("mask-h2.icloud.com", Action.NXDOMAIN), ("resolver.arpa", Action.NODATA),
        ("_dns.resolver.arpa", Action.NODATA), ("_dns.dns.example.resolver.arpa", Action.NODATA),
        ("icloud.com", None), ("xmask.icloud.com", None), ("arpa", None), ("example.net", None), ("a.test", None),
    ],
)  # fmt: skip
def test_signals(name: str, action: Action | None) -> None:
    judgement = signal(name)
    assert (None if judgement is None else judgement.action) is action


def test_the_list_of_doh_hosts_is_a_list_and_can_be_replaced() -> None:
    path = doh_hosts_path(BUILT_IN)
    text = ListText()
    text.read(Path(path).read_bytes())
    assert text.skipped == 0 and len(text.names) > 50
    lists = Lists([path])
    for name in (b"dns.google", b"chrome.cloudflare-dns.com", b"abc123.dns.nextdns.io"):
        assert lists.judge(name.split(b".")) is not None
    for name in (b"google", b"www.google.com", b"cloudflare.com", b"nextdns.io", b"quad9.net"):
        assert lists.judge(name.split(b".")) is None
    assert doh_hosts_path("mine.txt") == "mine.txt"
