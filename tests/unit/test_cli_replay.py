"""``netstack replay`` as it is typed."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from netstack.cli import main
from netstack.cli import replay as module
from netstack.link.pcap import read_capture
from tests.made_captures import SERVER, exchange, lookup, pcap_file

PACKETS = lookup(0.0, 5000, "www.example.test", SERVER) + exchange(1.0, 40000, b"GET /", b"x" * 3000)
PACKETS += exchange(2.0, 40001, b"secret", b"y", server="192.0.2.9")


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "made.pcap"
    path.write_bytes(pcap_file(PACKETS))
    return str(path)


def test_a_verdict_for_each_flow(capture, capsys):
    assert main(["replay", capture]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == f"{capture}: 22 frames, 0 without IP"
    assert lines[2].split() == ["VERDICT", "REASON", "FLOW", "NAME", "EVIDENCE", "OCTETS"]
    words = [line.split() for line in lines[3:6]]
    assert [(row[0], row[1]) for row in words] == [("allow", "dns"), ("allow", "lease"), ("block", "unresolved")]
    assert words[1][2:6] == ["tcp", "10.0.0.2:40000", ">", f"{SERVER}:80"]
    assert words[1][-1] == "5/3000"
    assert lines[-1] == "3 flows: 2 allowed, 1 blocked; 1 DNS queries"
    assert shown.err == ""


def test_json_for_programs(capture, capsys):
    assert main(["replay", capture, "--json", "-", "--verify-streams"]) == 0
    [result] = json.loads(capsys.readouterr().out)["files"]
    assert result["path"] == capture
    assert result["counts"]["tcp_syn"] == 2
    assert [row["verdict"] for row in result["flows"]] == ["allow", "allow", "block"]
    assert result["totals"]["streams_match"] == 2
    assert result["dns"]["address_answers"][0]["ip"] == SERVER


def test_audit_shows_what_would_be_refused(capture, capsys):
    assert main(["replay", capture, "--enforcement", "audit"]) == 0
    assert "(allow)  unresolved" in capsys.readouterr().out


def test_files_are_written(capture, tmp_path, capsys):
    events, packets, report = tmp_path / "events", tmp_path / "out.pcapng", tmp_path / "report"
    assert main(["replay", capture, "--events", str(events), "--write", str(packets), "--json", str(report)]) == 0
    assert [json.loads(line)["event"] for line in events.read_text().splitlines()] == [
        "capture", "query_answered", "flow_opened", "flow_closed", "flow_blocked",
    ]  # fmt: skip
    assert len(list(read_capture(str(packets)))) > 22
    assert len(json.loads(report.read_text())["files"]) == 1
    assert "VERDICT" in capsys.readouterr().out


def test_both_codecs_give_the_same(capture, capsys):
    shown = []
    for codec in ("pure", "auto"):
        assert main(["replay", capture, "--json", "-", "--codec", codec]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_one_bad_file_does_not_cost_the_others(capture, tmp_path, capsys):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(pcap_file(PACKETS)[:-30])
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(b"")
    missing = str(tmp_path / "missing")
    assert main(["replay", missing, str(cut), str(empty), capture, "--json", "-"]) == 1
    shown = capsys.readouterr()
    results = json.loads(shown.out)["files"]
    assert ["error" in result for result in results] == [True, True, True, False]
    assert [len(result["flows"]) for result in results] == [0, 3, 0, 3]
    assert results[1]["counts"]["frames"] == 21
    errors = shown.err.splitlines()
    assert len(errors) == 3
    assert errors[0] == f"netstack: {missing}: cannot open: No such file or directory"
    assert f"{cut}: the file ends inside record 22" in errors[1]


def test_an_engine_that_breaks_is_an_error_of_that_file(capture, capsys, monkeypatch):
    def broken(self, frame):
        raise ZeroDivisionError("made up")

    monkeypatch.setattr("netstack.runtime.replay.Replay.frame", broken)
    assert main(["replay", capture]) == 1
    shown = capsys.readouterr()
    assert "the replay broke at frame 0 (ZeroDivisionError: made up)" in shown.err
    assert "22 frames" in shown.out


def test_standard_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pcap_file(PACKETS))))
    assert main(["replay", "-"]) == 0
    assert capsys.readouterr().out.startswith("-: 22 frames")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: FILE"),
        (["a", "b", "--write", "x"], "--write takes one capture"),
        (["a", "--json", "-", "--events", "-"], "cannot both have standard output"),
        (["a", "--enforcement", "bogus"], "invalid choice: 'bogus'"),
        (["a", "--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_command_lines(arguments, words, capsys):
    assert main(["replay", *arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1


def test_an_output_that_cannot_be_made_is_told_first(capture, tmp_path, capsys):
    assert main(["replay", capture, "--json", str(tmp_path / "no" / "where")]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.endswith("where: No such file or directory\n")


def test_wrong_checksums_are_mentioned(tmp_path, capsys):
    path = tmp_path / "bad.pcap"
    path.write_bytes(pcap_file([(at, packet[:-1] + b"?") for at, packet in PACKETS]))
    assert main(["replay", str(path)]) == 0
    assert "packets with wrong checksums dropped (--keep-bad-checksums keeps them)" in capsys.readouterr().out


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    path = tmp_path / "odd.pcap"
    path.write_bytes(pcap_file(lookup(0.0, 5000, "a\x1b[31m.test", SERVER)))
    main(["replay", str(path)])
    assert "\x1b" not in capsys.readouterr().out


def test_progress_is_shown_to_who_watches(capture, capsys, monkeypatch):
    from netstack.cli import replay

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = replay._Progress("made")
    progress._next = 0.0
    frame = next(iter(read_capture(capture)))
    frame.number = 256
    progress.step("reading", frame)
    progress.end()
    assert "reading made: 256 frames" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--events", "--write"])
def test_a_capture_is_never_overwritten(option, capture, tmp_path, capsys):
    link = tmp_path / "link.pcap"
    link.symlink_to(capture)
    before = Path(capture).read_bytes()
    for output in (capture, str(link)):
        assert main(["replay", capture, option, output]) == 2
        assert capsys.readouterr().err == f"netstack: {option} {output}: this file is a capture to read\n"
    assert Path(capture).read_bytes() == before


def test_two_outputs_cannot_share_a_file(capture, tmp_path, capsys):
    path = str(tmp_path / "one")
    assert main(["replay", capture, "--json", path, "--events", path]) == 2
    assert capsys.readouterr().err == f"netstack: --events {path}: this file is the output of --json\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--events", "--write"])
def test_a_full_disk_is_one_line(option, capture, capsys):
    assert main(["replay", capture, option, "/dev/full"]) == 1
    assert capsys.readouterr().err == "netstack: /dev/full: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line(capture):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "netstack", "replay", capture]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "netstack: No space left on device\n")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_read_once(pack, capture, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    packed = pack(Path(capture).read_bytes())
    feeder = threading.Thread(target=pipe.write_bytes, args=(packed,))
    feeder.start()
    assert main(["replay", str(pipe)]) == 0
    feeder.join()
    assert "3 flows: 2 allowed, 1 blocked" in capsys.readouterr().out


def test_a_packed_capture_on_standard_input(capture, capsys, monkeypatch):
    packed = gzip.compress(Path(capture).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed)))
    assert main(["replay", "-"]) == 0
    assert "3 flows: 2 allowed, 1 blocked" in capsys.readouterr().out


def test_a_cut_archive_gives_what_it_holds(capture, tmp_path, capsys):
    path = tmp_path / "cut.pcap.gz"
    path.write_bytes(gzip.compress(Path(capture).read_bytes())[:-40])
    assert main(["replay", str(path)]) == 1
    shown = capsys.readouterr()
    assert "cannot read" in shown.err and shown.err.count("\n") == 1
    assert " frames, 0 without IP" in shown.out and "www.example.test" in shown.out


def test_an_interrupted_run_ends_its_outputs(capture, tmp_path, capsys, monkeypatch):
    real, seen = module.Replay.frame, []

    def frame(self, frame):
        seen.append(frame)
        if len(seen) == 30:  # in the second file
            raise KeyboardInterrupt
        return real(self, frame)

    monkeypatch.setattr(module.Replay, "frame", frame)
    report, events = tmp_path / "report", tmp_path / "events"
    assert main(["replay", capture, capture, "--json", str(report), "--events", str(events)]) == 130
    assert len(json.loads(report.read_text())["files"]) == 1
    assert all(json.loads(line) for line in events.read_text().splitlines())
