"""Parameters of HTTPS and SVCB records: taken out where policy wants it.

Responsible for: reading SvcParams with bounds; dropping keys, HTTP/3 from ALPN and single address hints; keeping
`mandatory` and `no-default-alpn` consistent with what is left.
Refuses to know: why, and the rest of the message.
RFCs: 9460 (2.2, 7, 8), 9848 (ech), 9114 3.1 (h3).
"""

from __future__ import annotations

from collections.abc import Callable

MANDATORY, ALPN, NO_DEFAULT_ALPN, PORT, IPV4HINT, ECH, IPV6HINT = 0, 1, 2, 3, 4, 5, 6
_WIDTH = {IPV4HINT: 4, IPV6HINT: 16}


def edit_service(
    data: bytes, drop: frozenset[int], *, no_h3: bool = False, keep: Callable[[bytes], bool] | None = None
) -> bytes | None:
    """RDATA without the keys in `drop`, without h3 protocols, with the hinted addresses that `keep` accepts.

    The same object when nothing had to go. None when the record must go: it is malformed, or the endpoint speaks
    nothing but what was taken out.
    """
    head = _target_end(data)
    if head < 0:
        return None
    params = _read_params(data, head)
    if params is None:
        return None
    left: dict[int, bytes] = {}
    for key, value in params.items():
        new: bytes | None = None if key in drop else value
        if new is not None and key == ALPN and no_h3:
            new = _without_h3(value)
            if new is None:
                return None
        elif new is not None and key in _WIDTH and keep is not None:
            new = _kept(value, _WIDTH[key], keep)
            if new is None:
                return None
        if new or (new is not None and not value):  # emptied goes; no-default-alpn never had a value
            left[key] = new
    if left == params:
        return data
    if ALPN in params and ALPN not in left and left.pop(NO_DEFAULT_ALPN, None) is not None:
        return None
    if MANDATORY in left:
        listed = [left[MANDATORY][at : at + 2] for at in range(0, len(left[MANDATORY]), 2)]
        left[MANDATORY] = b"".join(key for key in listed if int.from_bytes(key, "big") in left)
        if not left[MANDATORY]:
            del left[MANDATORY]
    parts = [key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for key, value in left.items()]
    return data[:head] + b"".join(parts)


def _target_end(data: bytes) -> int:
    """The offset of the first parameter: behind priority and TargetName, which is never compressed."""
    at = 2
    while at < len(data):
        if data[at] == 0:
            return at + 1
        if data[at] > 63:
            break
        at += 1 + data[at]
    return -1


def _read_params(data: bytes, at: int) -> dict[int, bytes] | None:
    """Keys in strictly increasing order, as RFC 9460 2.2 demands; None when malformed."""
    params: dict[int, bytes] = {}
    last = -1
    while at < len(data):
        if at + 4 > len(data):
            return None
        key = data[at] << 8 | data[at + 1]
        end = at + 4 + (data[at + 2] << 8 | data[at + 3])
        if end > len(data) or key <= last:
            return None
        params[key] = data[at + 4 : end]
        last, at = key, end
    return params


def _without_h3(value: bytes) -> bytes | None:
    left = []
    at = 0
    while at < len(value):
        end = at + 1 + value[at]
        if end > len(value) or not value[at]:
            return None
        name = value[at + 1 : end]
        if name != b"h3" and not name.startswith(b"h3-") and not name.startswith(b"hq-"):
            left.append(value[at:end])
        at = end
    return b"".join(left)


def _kept(value: bytes, width: int, keep: Callable[[bytes], bool]) -> bytes | None:
    if len(value) % width:
        return None
    addresses = [value[at : at + width] for at in range(0, len(value), width)]
    return b"".join(address for address in addresses if keep(address))
