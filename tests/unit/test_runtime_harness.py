"""What a replay puts around an engine."""

from netstack.codec import PacketBatch, load
from netstack.config import Config, make_config
from netstack.core.packet import ACK, RST, Datagram, SegmentRun
from netstack.core.stats import Stats
from netstack.policy.tracker import IpTracker
from netstack.runtime.harness import ReplayTunnel, WitnessedPolicy, replay_config
from netstack.runtime.verdicts import five_tuple
from tests.made_captures import APP, SERVER, tcp

FLOW = five_tuple(6, (b"\x0a\0\0\2", 5), (b"\xcb\0\x71\x50", 443))


def test_policy_stays_when_tcp_becomes_patient():
    config = make_config({"policy": {"enforcement": "audit"}, "tracker": {"lease": 9.0}})
    changed = replay_config(config)
    assert (changed.policy, changed.tracker, changed.dns) == (config.policy, config.tracker, config.dns)
    assert changed.tcp.initial_cwnd > 1000


def test_each_packet_is_read_once_and_verified_as_asked():
    stats, runs, packets = Stats(), [], []
    tunnel = ReplayTunnel(load("pure"), 1500, stats, runs.append, packets.append)
    batch = PacketBatch()
    wrong = tcp(APP, 5, SERVER, 443, 1, 2, ACK, b"data")[:-1] + b"?"
    for verify, kind in ((True, "BadPacket"), (False, "Segment")):
        tunnel.give(wrong, verify)
        assert tunnel.read_batch(batch) == 1
        assert [type(item).__name__ for item in batch.items()] == [kind]
        assert tunnel.read_batch(batch) == 0
    run = SegmentRun(b"\x04\x06" + bytes(36), 1, 2, RST | ACK, 0)
    tunnel.write_run(run)
    tunnel.write_datagram(Datagram(b"\x04\x11" + bytes(36), b"x"))
    assert runs == [run] and len(packets) == 2
    assert stats.packets_out == 2


def test_no_packet_is_too_large_to_be_counted():
    tunnel = ReplayTunnel(load("pure"), 1500, Stats(), [].append, [].append)
    batch = PacketBatch(capacity=1, slot=100, arena=200)
    tunnel.give(bytes(5000), True)
    assert tunnel.read_batch(batch) == 1
    assert [type(item).__name__ for item in batch.items()] == ["BadPacket"]


def test_every_verdict_is_told():
    told = []
    policy = WitnessedPolicy(Config(), IpTracker(Config().tracker), lambda flow, verdict: told.append((flow, verdict)))
    verdict = policy.decide(FLOW, 0.0)
    assert told == [(FLOW, verdict)] and not verdict.allowed
