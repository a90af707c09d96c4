"""The token bucket."""

from netstack.forward.limiter import RateLimiter


def test_burst_then_rate() -> None:
    limiter = RateLimiter(10)
    assert sum(limiter.allow(0.0) for _ in range(20)) == 10
    assert sum(limiter.allow(0.5) for _ in range(20)) == 5
    assert sum(limiter.allow(100.0) for _ in range(20)) == 10


def test_time_running_backwards_gives_nothing() -> None:
    limiter = RateLimiter(1)
    assert limiter.allow(5.0)
    assert not limiter.allow(1.0)
