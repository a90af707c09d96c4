"""Flow keys: packing, reversing, and the accessors that the hot path uses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.core import flow

PORTS = st.integers(0, 65535)
ADDRESSES = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


@given(ADDRESSES, PORTS, PORTS, st.sampled_from([flow.TCP, flow.UDP]))
def test_key_round_trip(addresses: tuple[bytes, bytes], sport: int, dport: int, protocol: int) -> None:
    source, destination = flow.Endpoint(addresses[0], sport), flow.Endpoint(addresses[1], dport)
    key = flow.pack_key(protocol, source, destination)
    assert len(key) == 38
    assert flow.unpack_key(key) == flow.FiveTuple(protocol, source, destination)
    assert flow.key_source(key) == source.address
    assert flow.key_destination(key) == destination.address
    assert (flow.key_source_port(key), flow.key_destination_port(key)) == (sport, dport)
    back = flow.reverse_key(key)
    assert flow.unpack_key(back) == flow.FiveTuple(protocol, destination, source)
    assert flow.reverse_key(back) == key


def test_text_forms() -> None:
    assert str(flow.Endpoint.of("192.0.2.1", 80)) == "192.0.2.1:80"
    assert str(flow.Endpoint.of("2001:db8::1", 443)) == "[2001:db8::1]:443"
    five = flow.FiveTuple(6, flow.Endpoint.of("10.0.0.2", 1), flow.Endpoint.of("192.0.2.1", 2))
    assert str(five) == "tcp 10.0.0.2:1 -> 192.0.2.1:2"
    assert five.version == 4


def test_a_name_is_not_an_address() -> None:
    with pytest.raises(ValueError, match="example"):
        flow.Endpoint.of("example.com", 80)
