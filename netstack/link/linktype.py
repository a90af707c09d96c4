"""Finds the outermost IP header of a captured frame, whatever the link under it.

Responsible for: link-layer headers of capture files (LINKTYPE_ values), VLAN tags, LLC/SNAP, PPP, PPPoE, MPLS.
Refuses to know: capture file formats, and anything from the IP header upwards.

Sources: https://www.tcpdump.org/linktypes.html; IEEE 802.1Q, RFC 1042 (SNAP), RFC 1661 and 2516 (PPP, PPPoE),
RFC 2427 (Frame Relay), RFC 3032 (MPLS). A link type that is not here carries no IP as far as this engine can tell,
which is an answer and no error.
"""

from __future__ import annotations

from collections.abc import Callable

NULL, ETHERNET, SLIP, PPP = 0, 1, 8, 9
RAW_BSD, RAW_OPENBSD, RAW = 12, 14, 101
LINUX_SLL, LINUX_SLL2, IPV4, IPV6, NFLOG = 113, 276, 228, 229, 239

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
_VLAN = frozenset((0x8100, 0x88A8, 0x9100, 0x9200))
_MPLS = frozenset((0x8847, 0x8848))
_PPPOE_SESSION, _PPP, _VN_TAG = 0x8864, 0x880B, 0x8926
_MAX_TAGS = 16  # deeper nesting of tags or labels is an attack, not a network
_AF_INET6 = frozenset((10, 23, 24, 28, 30))  # Linux, Windows, NetBSD/OpenBSD, FreeBSD, Darwin

Found = tuple[int, int] | None
"""IP version and offset of the header, None when the frame carries no IP."""


def find_ip(linktype: int, frame: bytes) -> Found:
    """Version and offset of the outermost IP header in `frame`, or None.

    Found means that the link says so: the header itself may be short, broken or missing altogether. What calls
    itself IPv6 must also have that version nibble; under the name of IPv4 worse things travel, and are counted so.
    """
    finder = _FINDERS.get(linktype)
    return None if finder is None else finder(frame, 0)


def _v4(frame: bytes, at: int) -> Found:
    return (4, at) if at <= len(frame) else None


def _v6(frame: bytes, at: int) -> Found:
    if at < len(frame):
        return (6, at) if frame[at] >> 4 == 6 else None
    return (6, at) if at == len(frame) else None


def _either(frame: bytes, at: int) -> Found:
    """Where nothing but the version nibble tells."""
    nibble = frame[at] >> 4 if at < len(frame) else 0
    return (nibble, at) if nibble in (4, 6) else None


def _word(frame: bytes, at: int) -> int:
    """A 16-bit number, -1 past the end."""
    return frame[at] << 8 | frame[at + 1] if at + 2 <= len(frame) else -1


def _ethernet(frame: bytes, at: int) -> Found:
    return _typed(frame, at + 14, _word(frame, at + 12))


def _typed(frame: bytes, at: int, ethertype: int) -> Found:
    """What an ethertype (or, up to 1500, an IEEE 802.3 length) announces at `at`."""
    for _ in range(_MAX_TAGS):
        if ethertype == ETHERTYPE_IPV4:
            return _v4(frame, at)
        if ethertype == ETHERTYPE_IPV6:
            return _v6(frame, at)
        if ethertype in _VLAN:
            at, ethertype = at + 4, _word(frame, at + 2)
        elif ethertype == _VN_TAG:
            at, ethertype = at + 6, _word(frame, at + 4)
        elif ethertype in _MPLS:
            return _labelled(frame, at)
        elif ethertype == _PPPOE_SESSION:
            return _ppp_protocol(frame, at + 6)
        elif ethertype == _PPP:
            return _ppp(frame, at)
        elif 0 <= ethertype <= 1500:
            return _llc(frame, at)
        else:
            return None
    return None


def _llc(frame: bytes, at: int) -> Found:
    head = frame[at : at + 8]
    if head[:3] == b"\xaa\xaa\x03" and head[3:6] in (b"\0\0\0", b"\0\0\xf8") and len(head) == 8:
        ethertype = head[6] << 8 | head[7]
        return _typed(frame, at + 8, ethertype) if ethertype > 1500 else None
    if head[:3] == b"\x06\x06\x03":
        return _v4(frame, at + 3)
    return None


def _labelled(frame: bytes, at: int) -> Found:
    for _ in range(_MAX_TAGS):
        if at + 4 > len(frame):
            return None
        bottom = frame[at + 2] & 1
        at += 4
        if bottom:
            return _either(frame, at)
    return None


def _ppp(frame: bytes, at: int) -> Found:
    if frame[at : at + 2] == b"\xff\x03":
        at += 2
    return _ppp_protocol(frame, at)


def _ppp_protocol(frame: bytes, at: int) -> Found:
    if at >= len(frame):
        return None
    if frame[at] & 1:  # protocol field compression (RFC 1661 6.5)
        protocol, at = frame[at], at + 1
    else:
        protocol, at = _word(frame, at), at + 2
    if protocol == 0x21:
        return _v4(frame, at)
    if protocol == 0x57:
        return _v6(frame, at)
    if protocol in (0x281, 0x283):
        return _labelled(frame, at)
    return None


def _ppp_with_direction(frame: bytes, at: int) -> Found:
    return _ppp(frame, at + 1)


def _chdlc(frame: bytes, at: int) -> Found:
    if frame[at : at + 2] == b"\xff\x03":  # LINKTYPE_PPP_HDLC shares this format
        return _ppp(frame, at)
    return _typed(frame, at + 4, _word(frame, at + 2)) if _word(frame, at + 2) > 1500 else None


def _frame_relay(frame: bytes, at: int) -> Found:
    for end in range(at, min(at + 4, len(frame))):
        if frame[end] & 1:  # extended address bit: the last octet of the address
            at = end + 1
            break
    else:
        return None
    if frame[at : at + 1] != b"\x03":  # Cisco encapsulation: an ethertype at once
        ethertype = _word(frame, at)
        return _typed(frame, at + 2, ethertype) if ethertype > 1500 else None
    at += 1
    if frame[at : at + 1] == b"\0":  # pad
        at += 1
    nlpid = frame[at : at + 1]
    if nlpid == b"\xcc":
        return _v4(frame, at + 1)
    if nlpid == b"\x8e":
        return _v6(frame, at + 1)
    if nlpid == b"\x80" and frame[at + 1 : at + 4] == b"\0\0\0":
        ethertype = _word(frame, at + 4)
        return _typed(frame, at + 6, ethertype) if ethertype > 1500 else None
    return None


def _slip(frame: bytes, at: int) -> Found:
    """16 octets of direction and Van Jacobson header; a compressed TCP header is not undone."""
    if len(frame) <= at + 16 or frame[at] > 1 or frame[at + 1] >> 4 not in (4, 7):
        return None
    return _either(frame, at + 16)


def _null(frame: bytes, at: int) -> Found:
    """A 32-bit address family in the byte order of whoever captured: small numbers tell which."""
    if len(frame) < at + 4:
        return None
    family = int.from_bytes(frame[at : at + 4], "little")
    if family > 0xFFFF:
        family = int.from_bytes(frame[at : at + 4], "big")
    if family == 2:
        return _v4(frame, at + 4)
    if family in _AF_INET6:
        return _v6(frame, at + 4)
    if family > 1500:  # some tunnels write an ethertype there
        return _typed(frame, at + 4, family)
    return None


def _sll(frame: bytes, at: int) -> Found:
    return _cooked(frame, at + 16, _word(frame, at + 2), _word(frame, at + 14))


def _sll2(frame: bytes, at: int) -> Found:
    return _cooked(frame, at + 20, _word(frame, at + 8), _word(frame, at))


def _cooked(frame: bytes, at: int, hardware: int, protocol: int) -> Found:
    if hardware == 824:  # ARPHRD_NETLINK: the protocol field is a netlink family
        return None
    if protocol == 0x0004:
        return _llc(frame, at)
    return _typed(frame, at, protocol) if protocol > 1500 else None


def _nflog(frame: bytes, at: int) -> Found:
    """Family, version, resource, then type-length-value items in the capturing host's byte order."""
    at += 4
    order: str | None = None
    while at + 4 <= len(frame):
        little = frame[at] | frame[at + 1] << 8
        big = frame[at] << 8 | frame[at + 1]
        if order is None:
            order = "little" if little <= len(frame) - at and little >= 4 else "big"
        size = little if order == "little" else big
        kind = int.from_bytes(frame[at + 2 : at + 4], "little" if order == "little" else "big") & 0x7FFF
        if size < 4 or at + size > len(frame):
            return None
        if kind == 9:  # NFULA_PAYLOAD
            return _either(frame, at + 4)
        at += (size + 3) & ~3
    return None


def _pflog(frame: bytes, at: int) -> Found:
    if at >= len(frame):
        return None
    return _either(frame, at + ((frame[at] + 3) & ~3))


def _enc(frame: bytes, at: int) -> Found:
    return _either(frame, at + 12)


def _firewire(frame: bytes, at: int) -> Found:
    return _typed(frame, at + 18, _word(frame, at + 16))


def _wifi(frame: bytes, at: int) -> Found:
    """IEEE 802.11 data frames in clear."""
    if len(frame) < at + 24:
        return None
    control, flags = frame[at], frame[at + 1]
    if control & 0x0C != 0x08 or control & 0x40 or flags & 0x40:  # not data, no payload, or protected
        return None
    header = 24 + (6 if flags & 3 == 3 else 0)
    if control & 0x80:
        header += 2 + (4 if flags & 0x80 else 0)
    return _llc(frame, at + header)


def _radiotap(frame: bytes, at: int) -> Found:
    if len(frame) < at + 8:
        return None
    header = frame[at + 2] | frame[at + 3] << 8
    padded = _radiotap_pads(frame, at)
    found = _wifi(frame, at + header)
    if found is None and padded and len(frame) > at + header + 26:
        return _llc(frame, at + header + 28)
    return found


def _radiotap_pads(frame: bytes, at: int) -> bool:
    """Whether the flags field says that the 802.11 header was padded to 4 octets."""
    present = int.from_bytes(frame[at + 4 : at + 8], "little")
    fields = at + 8
    more = present
    while more >> 31 and fields + 4 <= len(frame):
        more = int.from_bytes(frame[fields : fields + 4], "little")
        fields += 4
    if not present & 2:
        return False
    flags_at = ((fields - at + 7) & ~7) + at + 8 if present & 1 else fields
    return flags_at < len(frame) and bool(frame[flags_at] & 0x20)


def _ppi(frame: bytes, at: int) -> Found:
    if len(frame) < at + 8:
        return None
    header = frame[at + 2] | frame[at + 3] << 8
    inner = _FINDERS.get(int.from_bytes(frame[at + 4 : at + 8], "little"))
    return None if inner is None or inner is _ppi or header < 8 else inner(frame, at + header)


def _prism(frame: bytes, at: int) -> Found:
    return _wifi(frame, at + int.from_bytes(frame[at + 4 : at + 8], "little")) if len(frame) >= at + 8 else None


_FINDERS: dict[int, Callable[[bytes, int], Found]] = {
    NULL: _null,
    ETHERNET: _ethernet,
    SLIP: _slip,
    PPP: _ppp,
    RAW_BSD: _either,
    RAW_OPENBSD: _either,
    50: _chdlc,  # PPP in HDLC-like framing
    51: _ppp_protocol,
    100: _llc,  # LLC/SNAP over ATM
    RAW: _either,
    104: _chdlc,
    105: _wifi,
    106: _v4,  # classical IP over ATM
    107: _frame_relay,
    108: _null,
    109: _enc,
    LINUX_SLL: _sll,
    117: _pflog,
    119: _prism,
    127: _radiotap,
    138: _firewire,
    166: _ppp,
    192: _ppi,
    204: _ppp_with_direction,
    IPV4: _v4,
    IPV6: _v6,
    NFLOG: _nflog,
    LINUX_SLL2: _sll2,
}
