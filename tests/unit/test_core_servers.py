"""Servers and networks as text."""

import pytest

from netstack.core.errors import ConfigError
from netstack.core.servers import parse_network, parse_server


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_a_server(text, wanted):
    assert parse_server(text) == wanted


def test_the_port_that_is_not_given():
    assert parse_server("192.0.2.1", 853) == ("192.0.2.1", 853)


@pytest.mark.parametrize(
    "text",
    ["", "name.example", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", "[2001:db8::1", "[::1]53"],
)
def test_what_is_no_server_is_quoted(text):
    with pytest.raises(ConfigError, match="'"):
        parse_server(text)


def test_networks():
    assert str(parse_network("192.0.2.0/24")) == "192.0.2.0/24" and str(parse_network("::1")) == "::1/128"
    for text in ("192.0.2.1/24", "x", "192.0.2.0/33"):
        with pytest.raises(ConfigError, match=text):
            parse_network(text)
