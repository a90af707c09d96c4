"""From results to a table, to ratios, and to what became slower than the baseline.

Responsible for: which figures are shown, which ratios are kept, and how they are compared.
Refuses to know: how anything is measured.

The baseline holds ratios only: a figure over the same run's kernel or pasta, or of one variant over another. They
survive another machine far better than nanoseconds and gigabits do. All ratios are so made that larger is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOLERANCE = 0.20
REFERENCE, PASTA = "kernel, no offloads", "pasta@65520"
COMPILED = "compiled@1500"
NATIVE, PURE, PLAIN, PURE_PLAIN = "native@1500", "pure@1500", "native, plain TUN@1500", "pure, plain TUN@1500"

# name of the column: test, figure, format
LIVE = {
    "up1": ("up1", "gbit", "{:.2f}"),
    "up8": ("up8", "gbit", "{:.2f}"),
    "down1": ("down1", "gbit", "{:.2f}"),
    "down8": ("down8", "gbit", "{:.2f}"),
    "up8 cpu": ("up8", "cpu_s_per_gib", "{:.2f}"),
    "down8 cpu": ("down8", "cpu_s_per_gib", "{:.2f}"),
    "CRR/s": ("crr", "rate", "{:,.0f}"),
    "rtt": ("rtt", "p50_us", "{:.0f}"),
    "udp rtt": ("urtt", "p50_us", "{:.0f}"),
    "echo64/s": ("uecho64", "rate", "{:,.0f}"),
    "echo1200/s": ("uecho1200", "rate", "{:,.0f}"),
    "DNS/s": ("dns", "rate", "{:,.0f}"),
    "MiB": ("memory", "idle_mib", "{:.1f}"),
    "MiB, 500 flows": ("memory", "flows_mib", "{:.1f}"),
}


def table(rows: list[list[str]]) -> str:
    """Markdown, padded so that it is a table in a terminal too. The first row is the head."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    out = []
    for number, row in enumerate(rows):
        out.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            out.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(out)


def live_table(peers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One row for each peer, one column for each figure that any of them has."""
    columns = {
        name: how for name, how in LIVE.items() if any(how[1] in tests.get(how[0], {}) for tests in peers.values())
    }
    rows = [["engine@MTU", *columns]]
    for peer, tests in peers.items():
        cells = []
        for test, figure, form in columns.values():
            value = tests.get(test, {}).get(figure)
            cells.append("-" if value is None or (value == 0 and figure.startswith("cpu")) else form.format(value))
        rows.append([peer, *cells])
    return table(rows)


def plain_table(head: tuple[str, str], figures: Mapping[str, float], form: str) -> str:
    """Two columns."""
    return table([list(head), *([name, form.format(value)] for name, value in figures.items())])


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """Everything in the results that a baseline may hold; larger is better."""
    found: dict[str, float] = {}

    def keep(name: str, above: float | None, below: float | None) -> None:
        if above and below:
            found[name] = round(above / below, 4)

    peers = results.get("live", {}).get("peers", {})

    def live(peer: str, test: str, figure: str) -> float | None:
        value: float | None = peers.get(peer, {}).get(test, {}).get(figure)
        return value

    for test in ("up8", "down8"):
        for peer in (NATIVE, PLAIN):
            keep(f"{peer} over {REFERENCE}: {test}", live(peer, test, "gbit"), live(REFERENCE, test, "gbit"))
        for peer in (NATIVE, COMPILED):
            keep(f"{peer} over {PASTA}: {test}", live(peer, test, "gbit"), live(PASTA, test, "gbit"))
        keep(f"{NATIVE} over {PURE}: {test}", live(NATIVE, test, "gbit"), live(PURE, test, "gbit"))
        keep(f"{PLAIN} over {PURE_PLAIN}: {test}", live(PLAIN, test, "gbit"), live(PURE_PLAIN, test, "gbit"))
    for test in ("crr", "uecho64", "uecho1200", "dns"):
        for peer in (NATIVE, COMPILED):
            keep(f"{peer} over {PASTA}: {test}", live(peer, test, "rate"), live(PASTA, test, "rate"))
    for test in ("rtt", "urtt"):
        for peer in (NATIVE, COMPILED):
            keep(f"{PASTA} over {peer}: {test} time", live(PASTA, test, "p50_us"), live(peer, test, "p50_us"))
    codec = results.get("codec", {})
    if "native" in codec:
        for name, native in codec["native"].items():
            if name != "descriptor to object":
                keep(f"pure over native codec: {name}", codec["pure"].get(name), native)
    relay = results.get("relay", {})
    if "native" in relay:
        for name in relay["native"]:
            keep(f"pure over native relay: {name[:-3]}", relay["pure"][name], relay["native"][name])
    flows = results.get("flows", {}).get("cost", {})
    if flows:
        few, many = min(flows, key=int), max(flows, key=int)
        for name in ("packet_us", "flow_us"):
            keep(f"{few} flows over {many} flows: {name[:-3]} cost", flows[few][name], flows[many][name])
    machine = results.get("machine", {})
    parse = codec.get("pure", {}).get("parse, 64 flows, 52 octets")
    for name, cost in machine.items():  # against plain Python work of the same run
        keep(f"one packet in the pure parser over: {name}", parse / 1e3 if parse else None, cost)
    return found


def regressions(now: Mapping[str, float], before: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """What is worse than the baseline by more than the tolerance: name, then, now. What is in one only is left out."""
    return [
        (name, before[name], now[name])
        for name in before
        if name in now and now[name] < before[name] * (1 - TOLERANCE)
    ]
