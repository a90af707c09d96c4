"""Lists of names as people publish them: hosts files, domain lists and Adblock-style filters, one rule in a line.

Responsible for: reading each line into a name and what the line says of it, and counting the lines that say nothing
that a resolver can do.
Refuses to know: how names are stored (`list_compile`) or looked up (`blocklist`).
RFCs: 952/1123 (hosts), 1035 2.3.4 (sizes), 3490 (names in other scripts). Adblock syntax: the subset that AdGuard
documents for DNS filters.

The kind of a line is seen on the line itself, so a file may mix them. A line is read as less rather than as more than
it says: whatever is not understood (paths, parts of names, options for browsers) is skipped and counted, because a
name that is blocked by mistake costs more than one that is not.
"""

from __future__ import annotations

import re

from netstack.core.record import field, recordclass

SELF = 1  # the name itself
UNDER = 2  # every name below it
ALLOW = 2  # shift: the same two bits for exceptions
SUFFIX = SELF | UNDER
EXCEPTION = SUFFIX << ALLOW

SHOWN = 5  # skipped lines that are kept for a message
_LONGEST = 253
_LABEL = rb"[a-z0-9_-]{1,63}"
_NAME = rb"(?:" + _LABEL + rb"\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"  # an address or a line of dashes is no name
_plain = re.compile(_NAME).fullmatch
_NOWHERE = rb"0\.0\.0\.0|127\.\d+\.\d+\.\d+|::1?|0"
_hosts = re.compile(rb"(?:" + _NOWHERE + rb")[ \t]+(" + _NAME + rb")\.?").fullmatch
_hosts_more = re.compile(rb"(?:" + _NOWHERE + rb"|fe80::1%lo0|ff0[0-9]::[0-9a-f]*)[ \t]+(.*)").fullmatch
_adblock = re.compile(rb"(@@)?\|\|(\*\.)?(" + _NAME + rb")\.?\^?\|?(?:\$([a-z0-9_,=~-]*))?").fullmatch
_domain = re.compile(rb"(\*\.|\.)?(" + _NAME + rb")\.?").fullmatch
_OPTIONS = {b"important", b"all"}  # those that leave a rule's meaning for a whole name unchanged

LOCAL = {
    b"localhost", b"localhost.localdomain", b"local", b"broadcasthost", b"ip6-localhost", b"ip6-loopback",
    b"ip6-localnet", b"ip6-mcastprefix", b"ip6-allnodes", b"ip6-allrouters", b"ip6-allhosts", b"0.0.0.0",
}  # fmt: skip
"""Names that every hosts file has for the host itself."""


@recordclass(eq=False)
class ListText:
    """What lists say. `names` holds lower-case presentation form without the final dot -> SELF, UNDER, exceptions."""

    names: dict[bytes, int] = field(default_factory=dict)
    skipped: int = 0  # lines that are neither rules nor comments
    shown: list[str] = field(default_factory=list)  # the first of them

    def read(self, text: bytes, *, source: str = "") -> None:
        """Add the lines of a file. Octets of any kind are taken; nothing raises."""
        names = self.names
        have = names.get
        if text.startswith(b"\xef\xbb\xbf"):
            text = text[3:]
        lines = text.lower().splitlines()
        plain = dict.fromkeys(filter(_plain, lines), SUFFIX)  # the commonest kind at once
        if max(map(len, plain), default=0) > _LONGEST:
            plain = {name: SUFFIX for name in plain if len(name) <= _LONGEST}
        if names:
            for name in plain:
                names[name] = have(name, 0) | SUFFIX
        else:
            names.update(plain)
        if len(plain) == len(lines):
            return
        for number, line in enumerate(lines, 1):
            if line in plain:
                continue
            found = _hosts(line)
            if found is None or len(found[1]) > _LONGEST:
                if not self._unusual(line):
                    self._skip(source, number, line)
            elif found[1] not in LOCAL:
                names[found[1]] = have(found[1], 0) | SELF

    def _skip(self, source: str, number: int, line: bytes) -> None:
        self.skipped += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{source}:{number}: {line[:80].decode('utf-8', 'replace').strip()}")

    def _add(self, name: bytes, flags: int) -> bool:
        if not name.isascii():
            try:
                name = name.decode("utf-8").encode("idna").lower()
            except UnicodeError:
                return False
        if not _plain(name) or len(name) > _LONGEST:
            return False
        self.names[name] = self.names.get(name, 0) | flags
        return True

    def _unusual(self, line: bytes) -> bool:
        """Everything but the two commonest kinds; False when the line says nothing that can be done."""
        line = line.strip()
        if not line or (line[:1] in b"#!" and line[:2] != b"##") or line[:1] == b"[":
            return True
        found = _adblock(line)
        if found is not None:
            if found[4] is not None and not set(found[4].split(b",")) <= _OPTIONS:
                return False
            flags = UNDER if found[2] else SUFFIX
            return self._add(found[3], flags << ALLOW if found[1] else flags)
        mark = line.find(b"#")
        if mark > 0 and line[mark - 1 : mark].isspace():
            line = line[:mark].rstrip()
        found = _hosts_more(line)
        if found is not None:
            listed = [name.rstrip(b".") for name in found[1].split()]
            said = [name in LOCAL or self._add(name, SELF) for name in listed]  # all of them
            return bool(listed) and all(said)
        found = _domain(line)
        if found is not None:
            return self._add(found[2], UNDER if found[1] == b"*." else SUFFIX)
        if not line.isascii():
            exception = line.startswith(b"@@||")
            bare = line.removeprefix(b"@@").removeprefix(b"||").removesuffix(b"^")
            return self._add(bare, EXCEPTION if exception else SUFFIX)
        return False
