"""What the host says of a network."""

import dataclasses

from netstack.core.network import Network


def test_what_is_not_said_is_not_known():
    assert Network() == Network(name="", has_ipv6=None, nat64="", servers=())
    assert dataclasses.replace(Network(name="home"), has_ipv6=False) == Network(name="home", has_ipv6=False)
