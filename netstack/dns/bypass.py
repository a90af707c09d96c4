"""Names by which a device finds its way around this resolver, and what they are answered.

Responsible for: the names that switch encrypted DNS or relays on and off, and the list of known DoH hosts.
Refuses to know: ports (`policy/`), what else is blocked.
RFCs: 9462 (discovery of designated resolvers).

These answers are what the makers of the clients ask a network to give when it filters; nothing is forged. The list
of DoH hosts is a file in the domains format (`doh_hosts.txt`), which a host replaces by giving its own.
"""

from __future__ import annotations

from pathlib import Path

from netstack.dns.ruleset import Action, Judgement

_SIGNALS = {
    "use-application-dns.net": Action.NXDOMAIN,  # Firefox leaves DoH off, unless the user insists
    "mask.icloud.com": Action.NXDOMAIN,  # iCloud Private Relay tells the user that the network does not allow it
    "mask-h2.icloud.com": Action.NXDOMAIN,
    "resolver.arpa": Action.NODATA,  # RFC 9462 6.4: no designated resolvers
}
BUILT_IN = "built-in"
"""Stands for the list of DoH hosts that comes with the package."""


def signal(name: str) -> Judgement | None:
    """What is answered to a name of this kind, or below one; None for all others."""
    if not name.endswith((".net", ".com", ".arpa")):
        return None
    rest = name
    while rest:
        action = _SIGNALS.get(rest)
        if action is not None:
            return Judgement(action, f"bypass {rest}")
        rest = rest.partition(".")[2]
    return None


def doh_hosts_path(setting: str) -> str:
    """The file for the setting: the built-in list or the host's own."""
    return str(Path(__file__).with_name("doh_hosts.txt")) if setting == BUILT_IN else setting
