"""Events: dictionary form for NDJSON, and the log lines that existing filters know."""

import json

from netstack.core import events
from netstack.core.drops import DropReason
from netstack.core.flow import Endpoint, FiveTuple
from netstack.core.verdict import Action, Reason, Verdict

FLOW = FiveTuple(6, Endpoint.of("10.0.0.2", 54321), Endpoint.of("192.0.2.7", 443))
UDP = FiveTuple(17, Endpoint.of("fd00::2", 5000), Endpoint.of("2001:db8::7", 443))


def test_blocked_lines_of_the_original() -> None:
    verdict = Verdict(Action.BLOCK, Reason.UNRESOLVED)
    line = events.FlowBlocked(1.0, FLOW, verdict).line()
    assert line == "[TCP] BLOCKED hardcoded IP: 10.0.0.2:54321 -> 192.0.2.7:443"
    line = events.FlowBlocked(1.0, UDP, verdict).line()
    assert line == "[UDP] BLOCKED hardcoded IP: [fd00::2]:5000 -> [2001:db8::7]:443"
    assert "BLOCKED QUIC" in events.FlowBlocked(1.0, UDP, Verdict(Action.BLOCK, Reason.QUIC)).line()


def test_every_event_is_json_and_a_line() -> None:
    allowed = Verdict(Action.ALLOW, Reason.LEASE, "www.example, 200 s left", rule="r1", would_block=True)
    samples = [
        events.FlowOpened(1.5, 7, FLOW, allowed),
        events.FlowBlocked(1.5, FLOW, allowed),
        events.FlowClosed(1.5, 7, FLOW, "finished", 10, 20),
        events.QueryAnswered(1.5, UDP, "www.example", "A", "NOERROR", ("192.0.2.7",), 0.01),
        events.QueryFailed(1.5, UDP, "www.example", "A", "timeout"),
        events.QueryJudged(1.5, UDP, "ads.example", "A", "nxdomain", "blocked by ads.txt"),
        events.PacketDropped(1.5, DropReason.BAD_TCP_CHECKSUM, 40),
        events.EngineError(1.5, "tunnel", "gone", fatal=True),
        events.StateChanged(1.5, "running", "firewall"),
        events.LockdownChanged(1.5, "blocking", True, "always require VPN"),
        events.CaptivePortalChanged(1.5, "captive", "https://portal.example/", "api"),
    ]
    kinds = set()
    for event in samples:
        shown = json.loads(json.dumps(event.as_dict()))
        assert shown["at"] == 1.5
        assert shown["event"] == event.kind
        assert event.line().startswith("[") and "\n" not in event.line()
        kinds.add(event.kind)
    assert len(kinds) == len(samples)
    opened = samples[0].as_dict()
    assert opened["flow"] == {"protocol": 6, "source": "10.0.0.2:54321", "destination": "192.0.2.7:443"}
    assert opened["verdict"]["rule"] == "r1" and opened["verdict"]["would_block"] is True
    assert samples[6].as_dict()["reason"] == "bad_tcp_checksum"
