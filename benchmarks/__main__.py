"""``python -m benchmarks``: measure, show, compare with the baseline.

Responsible for: options, the order of the parts, files.
Refuses to know: how anything is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import codec, crowd, footprint, live, machine, plot, replay, report, resolver
from benchmarks.topology import Topology
from netstack.codec import load

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"


class Bench:
    """What was asked for, and what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self.rounds: int = options.rounds or (1 if options.quick else 3)
        self.runs = 3 if options.quick else 9
        self.results: dict[str, Any] = {}
        self.notes: list[str] = []

    def say(self, words: str) -> None:
        """Progress, on standard error."""
        print(f"# {words}", file=sys.stderr, flush=True)

    # --- the parts, in order ---

    def codec(self) -> str:
        """Nanoseconds for each packet."""
        found = self.results["codec"] = {name: codec.in_memory(load(name), runs=self.runs) for name in crowd.codecs()}
        why = live.why_not()
        if why:
            self.notes.append(f"codec through a TUN: {why}")
        else:
            with Topology() as topology:
                for name, figures in found.items():
                    for offload in (False, True):
                        words = "with offloads" if offload else "plain TUN"
                        made = codec.through_tun_elsewhere(topology.far, name, offload=offload, runs=self.runs)
                        figures.update({f"{what}, {words}": value for what, value in made.items()})
        rows = [["codec, ns for each packet", *found]]
        rows += [[what, *(f"{found[name][what]:,.0f}" for name in found)] for what in next(iter(found.values()))]
        return report.table(rows)

    def machine(self) -> str:
        """Microseconds of the TCP machine."""
        found = self.results["machine"] = machine.measure(runs=self.runs)
        return report.plain_table(("TCP machine", "us"), found, "{:.1f}")

    def relay(self) -> str:
        """Microseconds for 64 kB through the whole engine in memory."""
        found = self.results["relay"] = {name: crowd.relay(name, self.runs) for name in crowd.codecs()}
        rows = [["64 kB through the engine in memory, us", "up", "down"]]
        rows += [[name, f"{cost['up_us']:.0f}", f"{cost['down_us']:.0f}"] for name, cost in found.items()]
        return report.table(rows)

    def flows(self) -> str:
        """What a packet and a flow cost when others are there."""
        cost = crowd.cost_of_flows(packets=2000 if self.quick else 10_000, runs=self.rounds)
        size = crowd.octets_per_flow()
        self.results["flows"] = {"cost": cost, "octets_per_flow": size}
        rows = [["live flows", "packet up and down, us", "flow opened and closed, us"]]
        rows += [[count, f"{row['packet_us']:.1f}", f"{row['flow_us']:.0f}"] for count, row in cost.items()]
        return report.table(rows) + f"\n\nPython memory of one idle flow, without its socket: {size:,.0f} octets"

    def dns(self) -> str:
        """Questions a second in memory."""
        found = self.results["dns"] = {name: crowd.dns(name, self.runs) for name in crowd.codecs()}
        return report.plain_table(("DNS in memory, answered at once", "questions/s"), found, "{:,.0f}")

    def replay(self) -> str:
        """Packets a second through a replay."""
        runs = max(1, self.runs // 3)
        found = self.results["replay"] = {name: replay.measure(name, runs=runs) for name in crowd.codecs()}
        return report.plain_table(("replay", "packets/s"), found, "{:,.0f}")

    def footprint(self) -> str:
        """Memory and start-up, embedded."""
        found = self.results["footprint"] = footprint.measure(rounds=self.runs)
        names = {
            "interpreter_mib": "interpreter alone, private dirty MiB",
            "idle_mib": "engine idle, private dirty MiB",
            "interpreter_ms": "interpreter alone, start to end, ms",
            "import_ms": "controller imported, ms",
            "running_ms": "running, ms",
            "first_ms": "first packet answered, ms",
            "cpu_ms": "processor time until then, interpreter included, ms",
            "modules": "modules loaded",
        }
        return report.plain_table(
            ("embedded engine", "figure"), {words: found[key] for key, words in names.items()}, "{:,.1f}"
        )

    def live(self) -> str:
        """Everything through devices."""
        why = live.why_not()
        if why:
            self.notes.append(f"live: {why}")
            return ""
        found = live.measure(
            rounds=self.rounds, seconds=0.4 if self.quick else 0.8, quick=self.quick, say=self.say
        )
        self.results["live"] = found
        self.notes += [f"{name}: {why}" for name, why in found["skipped"].items()]
        head = "Gbit/s; cpu: the engine's processor seconds for each GiB; rtt in us"
        return f"{head}\n\n{report.live_table(found['peers'])}"


    def resolver(self) -> str:
        """The resolver beside dnsmasq and unbound, through a device, and with block lists."""
        lists = resolver.measure_lists(100_000 if self.quick else 1_000_000, self.say)
        found = self.results["resolver"] = {"lists": lists}
        shown = [f"block lists of {lists['names']:,} names\n\n{resolver.show_lists(lists)}"]
        why = resolver.why_not()
        if why:
            self.notes.append(f"resolver beside others: {why}")
        else:
            servers = found["servers"] = resolver.measure_servers(self.rounds, 1.0 if self.quick else 2.0, self.say)
            self.notes += [f"resolver {name}: {why}" for name, why in servers["skipped"].items()]
            shown.insert(0, f"dnsperf -c 4 -q 100, medians of {self.rounds}\n\n{resolver.show_servers(servers)}")
        return "\n\n".join(shown)


PARTS: tuple[str, ...] = ("codec", "machine", "relay", "flows", "dns", "replay", "footprint", "live", "resolver")


def draw(results: dict[str, Any], where: Path) -> list[Path]:
    """The two charts, of what was measured."""
    made = []
    peers = results.get("live", {}).get("peers")
    if peers:
        rows = {
            peer: {test: tests[test]["gbit"] for test in ("up1", "up8", "down1", "down8") if test in tests}
            for peer, tests in peers.items()
        }
        made.append(where / "throughput.svg")
        made[-1].write_text(plot.bars("Gbit/s through the packet device", rows))
    cost = results.get("flows", {}).get("cost")
    if cost:
        series = {
            "packet up and down, us": {float(count): row["packet_us"] for count, row in cost.items()},
            "flow opened and closed, us": {float(count): row["flow_us"] for count, row in cost.items()},
        }
        made.append(where / "flow-cost.svg")
        made[-1].write_text(plot.lines("Cost against the number of live flows", "live flows", series))
    return made


def compare(found: dict[str, float], path: Path) -> bool:
    """Print what became slower than the baseline. Whether nothing did."""
    try:
        before = json.loads(path.read_text())["ratios"]
    except (OSError, ValueError, KeyError) as problem:
        print(f"\nno baseline to compare with: {problem}")
        return True
    worse = report.regressions(found, before)
    compared = sum(name in found for name in before)
    if not worse:
        print(f"\n{compared} ratios compared with {path.name}: none is worse by more than {report.TOLERANCE:.0%}")
        return True
    print(f"\nWARNING: {len(worse)} of {compared} ratios are more than {report.TOLERANCE:.0%} worse than {path.name}\n")
    rows = [["ratio (larger is better)", "baseline", "now", "change"]]
    rows += [[name, f"{then:.3f}", f"{now:.3f}", f"{now / then - 1:+.0%}"] for name, then, now in worse]
    print(report.table(rows))
    return False


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the engine, and compare.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=PARTS, help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="under a minute: one round, few peers")
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds of the live part (3)")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--baseline", metavar="FILE", default=str(BASELINE), help="ratios to compare with")
    parser.add_argument("--write-baseline", metavar="FILE", help="write this run's ratios")
    parser.add_argument("--plots", metavar="DIR", help="write throughput.svg and flow-cost.svg there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when something became slower")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; 0, or 1 with --strict when something became slower."""
    options = parse(arguments)
    bench = Bench(options)
    begin = time.monotonic()
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    for name in PARTS:
        if options.only and name not in options.only:
            continue
        bench.say(name)
        part: Callable[[], str] = getattr(bench, name)
        shown = part()
        if shown:
            print(f"\n{shown}", flush=True)
    for note in bench.notes:
        print(f"skipped: {note}")
    print(f"\ntook {time.monotonic() - begin:.0f} s")
    found = report.ratios(bench.results)
    if options.json:
        Path(options.json).write_text(json.dumps({**bench.results, "ratios": found}, indent=1) + "\n")
    if options.plots:
        for path in draw(bench.results, Path(options.plots)):
            print(f"wrote {path.name}")
    fine = compare(found, Path(options.baseline)) if found else True
    if options.write_baseline:
        Path(options.write_baseline).write_text(json.dumps({"ratios": found}, indent=1) + "\n")
    return 0 if fine or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())
