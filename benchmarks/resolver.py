"""The resolver's figures, all of them: beside dnsmasq and unbound, through a packet device, with a million names.

Responsible for: what is measured and which targets there are; one table of figures and targets.
Refuses to know: how servers are run (`dns`) and lists are measured (`blocklist`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import blocklist, dns, report

# name, figure, format, target, stretch, larger is better
TARGETS: tuple[tuple[str, str, str, float, float, bool], ...] = (
    ("cached over dnsmasq", "cached / dnsmasq", "{:.2f}", 0.5, 1.0, True),
    ("uncached over dnsmasq", "uncached / dnsmasq", "{:.2f}", 0.4, 0.8, True),
    ("DoT over unbound's DoT, uncached", "DoT / unbound's DoT", "{:.2f}", 0.5, 1.0, True),
    ("DoT over DoH, uncached", "DoT / DoH", "{:.2f}", 1.5, 1.5, False),
    ("added median of one uncached query, ms", "added p50, ms", "{:.2f}", 0.4, 0.2, False),
)
LISTS: tuple[tuple[str, str, str, float, float, bool], ...] = (
    ("private dirty memory, MiB", "private_dirty_mib", "{:.2f}", *blocklist.TARGETS["private_dirty_mib"], False),
    ("file, MB", "file_mb", "{:.1f}", *blocklist.TARGETS["file_mb"], False),
    ("look-up, us", "lookup_us", "{:.2f}", *blocklist.TARGETS["lookup_us"], False),
    ("start, ms", "start_ms", "{:.1f}", *blocklist.TARGETS["start_ms"], False),
    ("compilation from text, s", "compile_s", "{:.1f}", *blocklist.TARGETS["compile_s"], False),
)


def why_not() -> str:
    """What keeps the servers' part from running on this machine; empty when nothing does."""
    missing = [program for program in dns.PROGRAMS if shutil.which(program) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def measure_servers(rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Medians by forwarder, their ratios, and why what was left out was."""
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        place = dns.Place(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netstack-dns-"))))
        place.make_certificates()
        stack.enter_context(dns.running(place.upstream(), place.plain))
        run = dns.Run(place, seconds, rounds)
        say("forwarders over plain UDP")
        run.plain()
        say("forwarders over DoT and DoH")
        run.encrypted()
        say("through a packet device")
        why = dns.why_no_tunnel()
        if why:
            skipped["through a packet device"] = why
        else:
            run.tunnel()
    found = run.medians()
    return {"figures": found, "ratios": dns.ratios(found), "skipped": skipped}


def measure_lists(names: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of `blocklist`, for a compiled file and for the text given as it is."""
    say(f"block lists of {names:,} names")
    with tempfile.TemporaryDirectory(prefix="netstack-lists-") as place:
        return blocklist.measure(names, Path(place))


def targets(rows: tuple[tuple[str, str, str, float, float, bool], ...], figures: Mapping[str, float]) -> str:
    """Each figure beside what it should be."""
    shown = [["", "here", "target", "stretch", ""]]
    for name, key, form, target, stretch, larger in rows:
        value = figures.get(key)
        if value is None:
            continue
        met = [value >= each if larger else value <= each for each in (target, stretch)]
        verdict = "stretch met" if all(met) else "met" if met[0] else "missed"
        shown.append([name, form.format(value), f"{target:g}", f"{stretch:g}", verdict])
    return report.table(shown)


def show_servers(found: Mapping[str, Any]) -> str:
    """Both tables."""
    return f"{dns.table(found['figures'])}\n\n{targets(TARGETS, found['ratios'])}"


def show_lists(found: Mapping[str, Any]) -> str:
    """Targets, and what has none."""
    others = (
        f"look-up of a name that is listed, below a listed one, absent, us: {found['listed']:.2f}, "
        f"{found['below']:.2f}, {found['absent']:.2f}\n"
        f"the text itself with --block: ready after {found['text_start_s']:.1f} s, "
        f"{found['text_private_mib']:.1f} MiB of private dirty memory then\n"
        f"compilation: {found['compile_peak_mib']:.0f} MiB at most"
    )
    return f"{targets(LISTS, found)}\n\n{others}"
