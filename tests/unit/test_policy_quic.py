"""What counts as QUIC, by port and by content."""

from netstack.policy.quic import QuicPolicy

INITIAL = b"\xc3\0\0\0\1\x08" + bytes(range(8)) + b"\0\0\x44\x9e" + b"\x55" * 1182
STUN = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(range(12))


def policy(*, block: bool = True) -> QuicPolicy:
    return QuicPolicy(block=block, ports=(443, 80))


def test_everything_on_the_quic_ports_but_what_is_surely_something_else() -> None:
    for port in (443, 80):
        for payload in (INITIAL, INITIAL[:40], b"\x40" + b"x" * 30, b"", b"hello", b"\x0d" + bytes(30)):
            assert policy().blocks(port, payload), payload[:8]
        assert not policy().blocks(port, STUN)
        assert not policy().blocks(port, b"\4\0\0\0" + bytes(28)), "WireGuard"


def test_an_initial_on_any_other_port_but_53() -> None:
    assert policy().blocks(8443, INITIAL) and policy().blocks(8443, memoryview(INITIAL))
    assert not policy().blocks(53, INITIAL)
    for payload in (b"", b"\xc3", STUN, b"\x40" + b"x" * 30, b"\xc3" + bytes(100)):
        assert not policy().blocks(8443, payload)


def test_a_session_that_turns_into_quic() -> None:
    for port in (443, 8443):
        assert policy().blocks_in_session(port, INITIAL)
        for payload in (STUN, b"", b"\x5a" + bytes(40), b"\x40\0\0\4data"):
            assert not policy().blocks_in_session(port, payload)
    assert not policy().blocks_in_session(53, INITIAL) and not policy(block=False).blocks_in_session(443, INITIAL)


def test_allowed_means_all_of_it() -> None:
    assert not policy(block=False).blocks(443, INITIAL)
