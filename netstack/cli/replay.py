"""``netstack replay``: feed captures through the engine.

Responsible for: reading each file twice (what it holds, then the replay), the verdict table, JSON, progress.
Refuses to know: how a replay works (`runtime/replay.py`) and what a capture holds (`capture/`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from netstack import codec as codecs
from netstack.capture.facts import CaptureFacts
from netstack.cli.options import add_engine_options, make_configuration
from netstack.codec.base import PacketCodec
from netstack.config import Config
from netstack.core.errors import CaptureError, NetstackError, UsageError
from netstack.link.pcap import Frame, open_capture, read_frames, unpacked
from netstack.runtime.replay import Replay
from netstack.runtime.trace import AnnotatedCapture, EventLines

_DESCRIPTION = """\
Feed captures (pcap, pcapng) through the engine on a virtual clock, as if their apps ran behind it, and say what would
have happened to each flow. What the far ends answered, and when, comes from the capture; nothing is sent anywhere.

With the same file and seed the result is the same to the octet."""

_EXAMPLES = """\
examples:
  netstack replay examples/first-look.pcap                  a verdict for each flow
  netstack replay capture.pcapng --enforcement audit        what strict would refuse
  netstack replay *.pcap --json - | jq '.files[].totals'    for programs
  netstack replay capture.pcap --write annotated.pcapng     verdicts as packet comments, for Wireshark"""

_HEADS = ("VERDICT", "REASON", "FLOW", "NAME", "EVIDENCE")
_WIDEST = (7, 20, 64, 32, 56)
_PROGRESS_EVERY = 0.2  # seconds


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "replay", help="feed a capture through the engine", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="capture to replay; - for standard input")
    add_engine_options(parser)
    group = parser.add_argument_group("replay")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random (default 0)")
    group.add_argument(
        "--keep-bad-checksums", action="store_true",
        help="do not drop packets with wrong checksums: captures of senders with checksum offload are full of them",
    )  # fmt: skip
    group.add_argument(
        "--verify-streams", action="store_true",
        help="compare the TCP octets that the engine carries with the captured ones",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="OUT", help="write everything as JSON (- for standard output, no table then)")
    output.add_argument("--events", metavar="OUT", help="write every event as a JSON line (- for standard output)")
    output.add_argument("--write", metavar="OUT.pcapng", help="write the packets with their verdicts as comments")
    parser.set_defaults(function=run)


def run(options: argparse.Namespace) -> int:
    """Replay each file; 1 when any could not be read to its end."""
    if options.write and len(options.files) > 1:
        raise UsageError("--write takes one capture")
    if options.json == "-" and options.events == "-":
        raise UsageError("--json and --events cannot both have standard output")
    _refuse_overwriting(options)
    config = make_configuration(options, servers=("127.0.0.1",))  # the capture answers; no server is ever asked
    codec = codecs.load(options.codec)
    results = []
    interrupted = False
    table = None if "-" in (options.json, options.events) else sys.stdout
    with (
        _text_output(options.json) as report,
        _text_output(options.events) as events,
        _binary_output(options.write) as written,
    ):
        annotated = AnnotatedCapture(written) if written is not None else None
        lines = EventLines(events) if events is not None else None
        for path in options.files:
            try:
                result = _replay_file(path, options, config, codec, lines, annotated)
            except KeyboardInterrupt:  # the outputs are ended properly: they hold what was finished
                interrupted = True
                break
            results.append(result)
            if "error" in result:
                print(f"netstack: {result['error']}", file=sys.stderr)
            if table is not None and ("error" not in result or result["counts"]["frames"]):
                _print_result(result, table, verify=options.verify_streams)
        if annotated is not None:
            annotated.flush()
        if report is not None:
            json.dump({"files": results}, report, ensure_ascii=False)
            report.write("\n")
            report.flush()
    if table is not None:
        table.flush()
    if interrupted:
        return 130
    return 1 if any("error" in result for result in results) else 0


# --- one file ---


def _replay_file(
    path: str,
    options: argparse.Namespace,
    config: Config,
    codec: PacketCodec,
    lines: EventLines | None,
    annotated: AnnotatedCapture | None,
) -> dict[str, Any]:
    """Everything about one file; `error` when it could not be read to its end: what came before is valid."""
    result: dict[str, Any] = {"path": path}
    problem: str | None = None
    facts = CaptureFacts()
    name = "standard input" if path == "-" else path
    progress = _Progress(name)
    try:
        file = _open(path)
    except CaptureError as failure:
        return {**result, **facts.as_dict(), "flows": [], "queries": [], "totals": {}, "error": str(failure)}
    with file:
        try:
            for frame in read_frames(file, name):
                facts.add(frame)
                progress.step("reading", frame)
        except CaptureError as failure:
            problem = str(failure)
        facts.finish()
        result |= facts.as_dict()
        result |= {"flows": [], "queries": [], "totals": {}}
        file.seek(0)
        replay = Replay(
            facts, config, codec, seed=options.seed, keep_bad_checksums=options.keep_bad_checksums,
            emit=lines, annotated=annotated,
        )  # fmt: skip
        if lines is not None:
            lines.write({"event": "capture", "at": 0.0, "path": path, "first_time": result["first_time"]})
        try:
            with contextlib.suppress(CaptureError):
                for frame in read_frames(file, name):
                    replay.frame(frame)
                    progress.step("replaying", frame)
            replay.finish()
        except (BrokenPipeError, _OutputFailed):
            raise
        except Exception as failure:  # a packet that breaks the engine must not cost the account of the others
            problem = f"{name}: the replay broke at frame {replay.frame_number} ({type(failure).__name__}: {failure})"
        result |= replay.as_dict(streams=options.verify_streams)
    progress.end()
    if problem is not None:
        result["error"] = problem
    return result


def _open(path: str) -> BinaryIO:
    """The file, which must be readable twice: what comes through a pipe is kept in memory."""
    if path == "-":
        return unpacked(io.BytesIO(sys.stdin.buffer.read()))
    file = open_capture(path)
    mode = os.stat(path).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        with file:
            return io.BytesIO(file.read())
    return file


# --- what is written ---


def _refuse_overwriting(options: argparse.Namespace) -> None:
    """An output that is one of the captures, or another output, would destroy it. Raises UsageError."""
    outputs = [("--json", options.json), ("--events", options.events), ("--write", options.write)]
    seen = [("a capture to read", path) for path in options.files]
    for option, path in outputs:
        if path is None or path == "-":
            continue
        for what, other in seen:
            if other != "-" and _is_same_file(path, other):
                raise UsageError(f"{option} {path}: this file is {what}")
        seen.append((f"the output of {option}", path))


def _is_same_file(one: str, other: str) -> bool:
    if os.path.abspath(one) == os.path.abspath(other):
        return not one.startswith("/dev/")
    try:
        return os.path.samefile(one, other) and os.path.isfile(one)
    except OSError:
        return False


class _OutputFailed(NetstackError):
    """An output file cannot be written any more (the disk is full)."""


class _OutputFile(io.FileIO):
    """Writes, and complains by name."""

    def write(self, octets: Any, /) -> int:
        try:
            return super().write(octets)
        except BrokenPipeError:
            raise
        except OSError as problem:
            raise _OutputFailed(f"{self.name}: {problem.strerror}") from problem


@contextlib.contextmanager
def _text_output(path: str | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdout
    else:
        with io.TextIOWrapper(_made(path), encoding="utf-8") as file:
            yield file


@contextlib.contextmanager
def _binary_output(path: str | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdout.buffer
    else:
        with _made(path) as file:
            yield file


def _made(path: str) -> io.BufferedWriter:
    try:
        return io.BufferedWriter(_OutputFile(path, "w"))
    except OSError as problem:
        raise NetstackError(f"{path}: {problem.strerror}") from problem


class _Progress:
    """A line on standard error while a long file is worked on, when somebody watches."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._watched = sys.stderr.isatty()
        self._shown = False
        self._next = time.monotonic() + _PROGRESS_EVERY

    def step(self, what: str, frame: Frame) -> None:
        """After each frame."""
        if not self._watched or frame.number & 0xFF or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PROGRESS_EVERY
        self._shown = True
        sys.stderr.write(f"\r\x1b[K{what} {self._name}: {frame.number} frames")
        sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


# --- for people ---


def _print_result(result: dict[str, Any], out: TextIO, *, verify: bool) -> None:
    counts, totals = result["counts"], result["totals"]
    print(f"{result['path']}: {counts['frames']} frames, {counts.get('non_ip', 0)} without IP", file=out)
    if result["flows"]:
        print(file=out)
        rows = [_cells(row) for row in result["flows"]]
        widths = [min(most, max(len(cells[at]) for cells in [_HEADS, *rows])) for at, most in enumerate(_WIDEST)]
        print(_line(_HEADS, widths, "OCTETS", "STREAMS" if verify else ""), file=out)
        for row, cells in zip(result["flows"], rows, strict=True):
            octets = f"{row['octets_up']}/{row['octets_down']}"
            print(_line(cells, widths, octets, _streams(row) if verify else ""), file=out)
        print(file=out)
    if totals:
        words = [f"{totals['flows']} flows: {totals['allowed']} allowed, {totals['blocked']} blocked"]
        if totals["without_verdict"]:
            words.append(f"{totals['without_verdict']} without a verdict")
        words.append(f"{totals['queries']} DNS queries")
        if verify:
            words.append(
                f"streams: {totals['streams_match']} match, {totals['streams_partial']} partial, "
                f"{totals['streams_differs']} differ"
            )
        print("; ".join(words), file=out)
    bad = sum(count for name, count in result.get("engine", {}).get("drops", {}).items() if name.endswith("_checksum"))
    bad += result.get("skipped", {}).get("bad_checksum", 0)
    if bad:
        print(f"{bad} packets with wrong checksums dropped (--keep-bad-checksums keeps them)", file=out)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def end(host: str, port: int) -> str:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    flow = f"{row['protocol']} {end(row['client'], row['cport'])} > {end(row['server'], row['sport'])}"
    verdict = f"({row['verdict']})" if row.get("would_block") else row["verdict"]
    return tuple(map(_printable, (verdict, row["reason"], flow, " ".join(row["names"][:1]), row["evidence"])))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _line(cells: tuple[str, ...], widths: list[int], octets: str, streams: str) -> str:
    fitted = [
        text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
        for text, width in zip(cells, widths, strict=True)
    ]
    return "  ".join([*fitted, octets.rjust(15), streams]).rstrip()


def _streams(row: dict[str, Any]) -> str:
    if "streams" not in row or not (row["octets_up"] or row["octets_down"]):
        return ""
    up, down = row["streams"]["up"]["result"], row["streams"]["down"]["result"]
    return str(up) if up == down else f"up {up}, down {down}"
