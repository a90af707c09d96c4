"""A token bucket, so that answers owed to hostile packets cost a bounded amount.

Responsible for: saying whether one more ICMP error or reset may leave now (RFC 1812 4.3.2.8, RFC 4443 2.4 f).
Refuses to know: what is being limited.
"""

from __future__ import annotations


class RateLimiter:
    """At most `rate` per second with bursts of one second's worth."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = float(rate)
        self._tokens = float(rate)
        self._at = 0.0

    def allow(self, now: float) -> bool:
        """Take one token if there is one."""
        tokens = min(self._rate, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True
