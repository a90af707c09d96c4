"""The benchmarks' own logic, and that the in-memory parts do what they time."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import crowd, live, machine, plot, replay, report, resolver, topology
from benchmarks.timing import median_ns

RESULTS = {
    "live": {
        "peers": {
            "kernel, no offloads": {"up8": {"gbit": 5.0, "cpu_s_per_gib": 0.0}},
            "pasta@65520": {"up8": {"gbit": 20.0, "cpu_s_per_gib": 0.2}, "rtt": {"p50_us": 20.0}},
            "native@1500": {"up8": {"gbit": 10.0, "cpu_s_per_gib": 0.4}, "rtt": {"p50_us": 40.0}},
        }
    },
    "codec": {"native": {"cut": 100.0, "descriptor to object": 1.0}, "pure": {"cut": 2000.0}},
    "flows": {"cost": {"10": {"packet_us": 20.0, "flow_us": 80.0}, "5000": {"packet_us": 40.0, "flow_us": 80.0}}},
}


def test_ratios_are_larger_when_we_are_better() -> None:
    found = report.ratios(RESULTS)
    assert found["native@1500 over kernel, no offloads: up8"] == 2.0
    assert found["native@1500 over pasta@65520: up8"] == 0.5
    assert found["pasta@65520 over native@1500: rtt time"] == 0.5
    assert found["pure over native codec: cut"] == 20.0
    assert found["10 flows over 5000 flows: packet cost"] == 0.5
    assert "pure over native codec: descriptor to object" not in found


def test_ratios_of_what_was_not_measured_are_absent() -> None:
    assert report.ratios({}) == {}
    assert report.ratios({"live": {"peers": {"native@1500": {"up8": {"gbit": 1.0}}}}}) == {}


def test_a_regression_is_more_than_a_fifth_down() -> None:
    before = {"a": 1.0, "b": 1.0, "c": 1.0, "gone": 1.0}
    now = {"a": 0.79, "b": 0.81, "c": 3.0, "new": 0.1}
    assert report.regressions(now, before) == [("a", 1.0, 0.79)]


def test_compare_prints_the_regressions_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "base.json"
    path.write_text(json.dumps({"ratios": {"slow": 2.0, "same": 1.0}}))
    assert not program.compare({"slow": 1.0, "same": 1.0}, path)
    out = capsys.readouterr().out
    assert "1 of 2 ratios" in out and "-50%" in out and "same" not in out
    assert program.compare({"slow": 1.9, "same": 1.0}, path)
    assert program.compare({"slow": 1.0}, tmp_path / "none.json")
    assert "no baseline" in capsys.readouterr().out


def test_live_table_has_a_dash_for_what_was_not_measured() -> None:
    text = report.live_table(RESULTS["live"]["peers"])
    head, _, kernel, pasta, native = text.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["engine@MTU", "up8", "up8 cpu", "rtt"]
    assert [cell.strip() for cell in kernel.split("|")[1:-1]] == ["kernel, no offloads", "5.00", "-", "-"]
    assert [cell.strip() for cell in pasta.split("|")[1:-1]] == ["pasta@65520", "20.00", "0.20", "20"]
    assert len({len(line) for line in text.splitlines()}) == 1 and native.startswith("| native@1500")


def test_the_committed_baseline_holds_ratios_that_are_still_made() -> None:
    kept = json.loads(program.BASELINE.read_text())
    assert set(kept) == {"ratios"} and kept["ratios"]
    assert all(value > 0 for value in kept["ratios"].values())
    known = (*live.TESTS, *machine.measure(runs=1), "cost", "codec", "relay")
    assert all(any(word in name for word in known) for name in kept["ratios"])


def test_charts_are_well_formed_and_escaped() -> None:
    bars = ElementTree.fromstring(plot.bars("a < b", {"one & two": {"up": 10.0}, "none": {}}))
    texts = [node.text for node in bars.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in texts and "one & two" in texts and "10" in texts
    lines = ElementTree.fromstring(plot.lines("t", "x", {"s": {10.0: 2.0, 1000.0: 4.0}}))
    [path] = lines.iter("{http://www.w3.org/2000/svg}polyline")
    first, last = (tuple(map(float, point.split(","))) for point in path.attrib["points"].split())
    assert first[0] < last[0] and first[1] > last[1]  # upwards is a smaller y
    assert last[1] == 50.0


def test_draw_makes_only_what_was_measured(tmp_path: Path) -> None:
    assert [path.name for path in program.draw(RESULTS, tmp_path)] == ["throughput.svg", "flow-cost.svg"]
    assert program.draw({}, tmp_path) == []


def test_leftovers_are_those_of_dead_runs_only() -> None:
    names = ["nsbench-10-far", "nsbench-11-app1", "other-10-far", "nsbench", "nsbench-x-far"]
    assert topology.leftovers(names, alive=lambda pid: pid == 11) == ["nsbench-10-far"]


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.shutil, "which", lambda program: None if program == "pasta" else f"/bin/{program}")
    missing = {peer.name: peer.missing for peer in live.peers()}
    assert missing["pasta@65520"] == "pasta is not installed"
    assert missing["kernel"] == ""


def test_medians_over_rounds() -> None:
    assert live.medians({"up1": [{"gbit": 1.0}, {"gbit": 9.0}, {"gbit": 2.0}]}) == {"up1": {"gbit": 2.0}}


def test_median_ns_is_for_each_thing() -> None:
    calls = []

    def work() -> int:
        calls.append(1)
        return 1000

    assert 0 < median_ns(work, 3) < 1e6
    assert len(calls) == 3


def test_a_crowd_moves_octets_both_ways_and_its_flows_end() -> None:
    many = crowd.Crowd(20, "pure")
    assert many.answer(many.prepare(40)) == 40
    assert [app.stream.taken for app in many.apps] == [200] * 20
    assert many.engine.gauges().tcp_open == 20
    many.close(many.open(5))
    assert many.engine.gauges().tcp_open == 20
    assert not many.world.stats.drops


def test_the_dns_part_asks_what_the_engine_answers() -> None:
    assert crowd.dns("pure", 1) > 0  # asserts inside that every question has an answer


def test_the_replayed_capture_is_carried_whole() -> None:
    frames = replay.capture()
    assert len(frames) > replay.FLOWS * replay.SEGMENTS
    assert replay.measure("pure", runs=1) > 0  # asserts inside that every flow was allowed


@pytest.mark.parametrize("part", [machine.super_segments, machine.acknowledged_runs, machine.acknowledgements])
def test_the_machine_parts_move_everything(part: object) -> None:
    assert callable(part)
    assert part() >= 1  # asserts inside that every octet arrived or was acknowledged


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.parse(["--only", "nothing"])
    assert "invalid choice" in capsys.readouterr().err


def test_a_figure_of_the_resolver_is_judged_by_target_and_stretch() -> None:
    figures = {"cached / dnsmasq": 1.2, "uncached / dnsmasq": 0.5, "DoT / DoH": 1.6, "added p50, ms": 0.1}
    lines = resolver.targets(resolver.TARGETS, figures).splitlines()[2:]
    verdicts = [line.split("|")[-2].strip() for line in lines]
    assert verdicts == ["stretch met", "met", "missed", "stretch met"], "what was not measured is left out"


def test_the_servers_of_the_resolver_are_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None if program == "dnsmasq" else f"/bin/{program}")
    assert resolver.why_not() == "needs dnsmasq"
    monkeypatch.setattr("shutil.which", lambda program: f"/bin/{program}")
    assert resolver.why_not() == ""
