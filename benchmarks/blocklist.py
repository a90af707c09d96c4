"""Block lists of a million names: the compiled file, its memory, look-up, start and compilation.

Responsible for: making a list that looks like published ones, and measuring each figure in a process of its own.
Refuses to know: what a query costs beside the look-up.

    python -m benchmarks.blocklist [--names 1000000] [--json FILE]

Look-up is the median over rounds of the mean, in processor time, for names that were never asked before: listed ones,
names below listed ones, and names that are not in the list. Private dirty memory is what the process holds and has
written with the list open and asked, less what it held before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
TOPS = ["com"] * 50 + ["net"] * 12 + ["org"] * 8 + ["de"] * 5 + ["co.uk"] * 4 + ["io", "xyz", "top", "info", "ru"] * 2
TARGETS = {  # target and stretch
    "private_dirty_mib": (2.0, 1.0),
    "file_mb": (24.0, 12.0),
    "lookup_us": (5.0, 2.0),
    "start_ms": (50.0, 50.0),
    "compile_s": (10.0, 3.0),
}

_COMPILE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from netstack.dns.list_compile import compile_files, write_list
begin = time.thread_time()
data, text = compile_files([sys.argv[2]])
write_list(data, sys.argv[3])
import json, resource
print(json.dumps({"compile_s": time.thread_time() - begin, "compiled": len(text.names), "skipped": text.skipped,
                  "compile_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""

_ASK = """
import sys, time, json, gc
sys.path.insert(0, sys.argv[1])
from netstack.dns.blocklist import open_list
def dirty():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
before = dirty()
begin = time.perf_counter()
names = open_list(sys.argv[2])
start = (time.perf_counter() - begin) * 1e3
match = names.match
for number in range(1000):
    match([b"www", b"n%d" % number, (b"com", b"net", b"de")[number % 3]])
after = dirty()
asked = [[line.split(b".") for line in open(path, "rb").read().split()] for path in sys.argv[3:]]
gc.collect()
figures = {}
wrong = 0
for path, labels in zip(sys.argv[3:], asked):
    rounds = []
    for part in range(0, len(labels), len(labels) // 5):
        batch = labels[part : part + len(labels) // 5]
        begin = time.thread_time_ns()
        for each in batch:
            match(each)
        rounds.append((time.thread_time_ns() - begin) / len(batch) / 1e3)
    figures[path.rpartition("/")[2]] = sorted(rounds)[len(rounds) // 2]
figures.update(start_ms=start, private_dirty_mib=after - before, names=len(names), nodes=names.nodes)
figures["blocked"] = [sum(map(bool, map(match, labels))) for labels in asked]
print(json.dumps(figures))
"""

_TEXT = """
import sys, time, json
sys.path.insert(0, sys.argv[1])
from netstack.dns.list_compile import load_list
def dirty():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
before = dirty()
begin = time.perf_counter()
names = load_list(sys.argv[2])
taken = time.perf_counter() - begin
print(json.dumps({"text_start_s": taken, "text_private_mib": dirty() - before, "text_names": len(names)}))
"""


def make_names(count: int, seed: int = 1) -> list[str]:
    """Names as block lists have them: domains of their own, and many below a few."""
    dice = random.Random(seed)

    def label(least: int, most: int) -> str:
        made = "".join(dice.choices(LETTERS, k=dice.randint(least, most)))
        return made if dice.random() < 0.85 else f"{made[: len(made) // 2]}a-{made[len(made) // 2 :]}"

    parents = [f"{label(4, 14)}.{dice.choice(TOPS)}" for _ in range(max(1, count * 3 // 10))]
    names: set[str] = set()
    while len(names) < count:
        own = dice.random() < 0.4
        names.add(f"{label(5, 16)}.{dice.choice(TOPS)}" if own else f"{label(2, 9)}.{dice.choice(parents)}")
    made = sorted(names)
    dice.shuffle(made)
    return made


def measure(count: int, place: Path, *, asked: int = 50_000) -> dict[str, Any]:
    """Every figure, by name."""
    names = make_names(count)
    text, compiled = place / "list.txt", place / "list.compiled"
    text.write_text("\n".join(names))
    dice = random.Random(2)
    listed = dice.sample(names, min(asked, count))
    have = set(names)
    absent = [f"www.{''.join(dice.choices(LETTERS, k=dice.randint(5, 12)))}.{dice.choice(TOPS)}" for _ in listed]
    absent = [name for name in absent if name.partition(".")[2] not in have]
    samples = {"listed": listed, "below": [f"cdn.{name}" for name in reversed(listed)], "absent": absent}
    for kind, sample in samples.items():
        (place / kind).write_text("\n".join(sample))
    figures = _run(_COMPILE, ROOT, text, compiled)
    figures |= _run(_ASK, ROOT, compiled, *(place / kind for kind in samples))
    figures |= _run(_TEXT, ROOT, text)
    blocked = figures.pop("blocked")
    if blocked != [len(listed), len(listed), 0]:
        raise RuntimeError(f"wrong answers: {blocked} of {[len(each) for each in samples.values()]} are blocked")
    figures["lookup_us"] = sum(figures[kind] for kind in samples) / len(samples)
    figures["text_mb"] = text.stat().st_size / 1e6
    figures["file_mb"] = compiled.stat().st_size / 1e6
    return figures


def _run(code: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description="Block lists of many names.")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        figures = measure(options.names, Path(place))
    print(f"{figures['names']} names, text of {figures['text_mb']:.1f} MB, {os.cpu_count()} processors")
    for name, (target, stretch) in TARGETS.items():
        print(f"{name:20} {figures[name]:8.2f}   target {target:g}, stretch {stretch:g}")
    print("look-up, us: " + ", ".join(f"{kind} {figures[kind]:.2f}" for kind in ("listed", "below", "absent")))
    print(f"compilation: {figures['compile_peak_mib']:.0f} MiB at most")
    print(f"the text itself: {figures['text_start_s']:.1f} s, then {figures['text_private_mib']:.1f} MiB private dirty")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
