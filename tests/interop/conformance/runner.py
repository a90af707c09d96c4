"""Runs the rows and prints the table.

Responsible for: one bench for the wire rows and one (strict, lying resolver) for DNS; quiet rows side by side, the
others alone; results with reason and time; the command line.
Refuses to know: what the rows look at.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from . import checks_dns, checks_handshake, checks_hostile, checks_ip, checks_stream, checks_validation  # noqa: F401  (they register themselves)
from .bench import DEFAULT_ENGINE, Bench
from .namespaces import unavailable
from .registry import CHECKS, Case, Check, Failure

BESIDE = 5
GROUPS = ("wire", "dns")


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    group: str
    outcome: str
    """pass, fail or skip."""
    reason: str
    seconds: float
    source: str


def judge(bench: Bench, one: Check) -> Result:
    """Run one check on a running bench."""
    start, outcome, reason = time.monotonic(), "pass", ""
    bench.ensure_alive()
    try:
        one.run(Case(bench))
    except Failure as problem:
        outcome, reason = "fail", str(problem)
    except NotImplementedError as problem:
        outcome, reason = "skip", str(problem)
    except Exception as problem:  # a check that trips over what came back has failed, and the place is told
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        outcome, reason = "fail", f"{type(problem).__name__}: {problem} ({frame.name}:{frame.lineno})"
    if not bench.alive():
        outcome, reason = "fail", f"{reason + '; ' if reason else ''}the engine died: {bench.engine_log()[-300:]}"
    return Result(one.name, one.group, outcome, reason, time.monotonic() - start, one.source)


def run_group(
    group: str,
    names: Iterable[str],
    *,
    engine: str = DEFAULT_ENGINE,
    kernel: bool = False,
    tell: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Run the named checks of one group on a bench of their own."""
    wanted = [one for one in CHECKS.values() if one.group == group and one.name in set(names)]
    if not wanted:
        return []
    results: dict[str, Result] = {}
    lock = threading.Lock()

    def run(bench: Bench, one: Check) -> None:
        result = judge(bench, one)
        with lock:
            results[one.name] = result
            tell(result)

    with Bench(engine=engine, kernel=kernel, enforcement="strict" if group == "dns" else "off") as bench:
        with ThreadPoolExecutor(BESIDE) as pool:
            list(
                pool.map(
                    lambda one: run(bench, one),
                    sorted((one for one in wanted if not one.alone), key=lambda one: one.name not in _LONG),
                )
            )
        for one in sorted((one for one in wanted if one.alone), key=lambda one: one.order):
            run(bench, one)
    return [results[one.name] for one in wanted]


_LONG = {
    "blackhole_not_accepted",
    "silent_resolver_servfail",
    "silent_resolver_delays_nobody",
    "forged_id_ignored",
    "forged_question_ignored",
    "forged_no_qr_ignored",
    "compression_loops_survived",
    "large_counts_survived",
    "zero_window_probe",
    "data_retransmitted",
    "synack_retransmitted",
    "fin_retransmitted",
}
"""Rows that mostly wait: started first."""


def total(group: str) -> int:
    return sum(one.group == group for one in CHECKS.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.interop.conformance", description="Judge a network engine from outside."
    )
    parser.add_argument(
        "--engine",
        default=DEFAULT_ENGINE,
        metavar="CMD",
        help="command with {tun} {dns} {enforcement} {offload} {python} (default: %(default)s)",
    )
    parser.add_argument(
        "--kernel", action="store_true", help="judge the Linux kernel in the engine's place (wire rows only)"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="these checks (patterns allowed, may be repeated)"
    )
    parser.add_argument("--group", choices=GROUPS, help="only wire or only dns")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--smoke", action="store_true", help="instead: a real kernel as the app, engine with offloads")
    parser.add_argument("-v", "--verbose", action="store_true", help="say each result when it is known")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are deleted
    if problem := unavailable():
        print(f"cannot run here: {problem}", file=sys.stderr)
        return 2
    if options.smoke:
        from .smoke import main as smoke

        return smoke(options.engine)
    names = [
        name for name in CHECKS if not options.only or any(fnmatch.fnmatch(name, pattern) for pattern in options.only)
    ]
    start, results = time.monotonic(), []
    for group in GROUPS:
        if options.group in (None, group) and not (options.kernel and group == "dns"):
            results += run_group(
                group,
                names,
                engine=options.engine,
                kernel=options.kernel,
                tell=(lambda r: print(_line(r), flush=True)) if options.verbose else (lambda _: None),
            )
    if options.verbose:
        print()
    for result in results:
        print(_line(result))
    for group in sorted({result.group for result in results}, reverse=True):
        passed = sum(result.outcome == "pass" for result in results if result.group == group)
        print(
            f"{group}: {passed} of {sum(r.group == group for r in results)}"
            + (f" (of {total(group)} in all)" if options.only else "")
        )
    print(f"{time.monotonic() - start:.0f} s")
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(result) for result in results], file, indent=1)
    return 0 if all(result.outcome != "fail" for result in results) else 1


def _line(result: Result) -> str:
    return f"{result.outcome.upper():4}  {result.name:32} {result.seconds:6.1f} s  {result.reason}"
