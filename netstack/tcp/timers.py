"""Round-trip estimation and the retransmission time-out.

Responsible for: SRTT, RTTVAR, RTO and its exponential back-off.
Refuses to know: which segment is timed, and the clock. RFCs: 6298; Karn's algorithm (RFC 6298 section 3).
"""

from __future__ import annotations

NEVER = float("inf")
"""A deadline that is not set; a float, so that the earliest of several deadlines is a plain `min`."""

KEEPALIVE_INTERVAL = 75.0
"""Seconds between keep-alive probes that were not answered (RFC 1122 leaves it open; 75 is customary)."""
KEEPALIVE_PROBES = 9
"""Unanswered probes until the app counts as gone."""


class RetransmissionTimer:
    """RFC 6298. `rto` is the base value, `timeout` the one with back-off applied; all in seconds."""

    __slots__ = ("_max", "_min", "backoff", "rto", "rttvar", "srtt")

    def __init__(self, initial: float, minimum: float, maximum: float) -> None:
        self.rto = initial
        self.srtt = 0.0  # 0 until the first measurement
        self.rttvar = 0.0
        self.backoff = 0
        self._min = minimum
        self._max = maximum

    def measured(self, sample: float) -> None:
        """A round trip took `sample` seconds (never of a retransmitted segment): sections 2.2, 2.3, 2.4."""
        if self.srtt == 0.0:
            self.srtt = sample if sample > 1e-6 else 1e-6
            self.rttvar = sample / 2
        else:
            error = sample - self.srtt
            self.rttvar += ((error if error >= 0 else -error) - self.rttvar) / 4
            self.srtt += error / 8
        self.backoff = 0
        rto = self.srtt + 4 * self.rttvar
        self.rto = self._min if rto < self._min else min(rto, self._max)

    def back_off(self) -> None:
        """The timer expired: double (section 5.5), up to the maximum."""
        if self.rto * (1 << self.backoff) < self._max:
            self.backoff += 1

    @property
    def timeout(self) -> float:
        """Seconds that a retransmission waits now."""
        if self.backoff == 0:
            return self.rto
        return min(self.rto * (1 << self.backoff), self._max)
