"""Nanoseconds per packet of the codecs, in memory and through a TUN.

Responsible for: `in_memory`, and `through_tun` on a device in a network namespace that is there for it.
Refuses to know: the engine. Packets of 1,500 octets unless said otherwise.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import median_ns
from netstack.codec import PacketBatch, PacketCodec, load
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import ACK, SegmentRun
from netstack.link.linux import configure, open_tun
from netstack.wire.tcp import emit_timestamps

MSS = 1448
DEVICE = "bench0"
NEAR, FAR = Endpoint.of("10.92.0.2", 1234), Endpoint.of("10.92.0.3", 5001)
NOWHERE = Endpoint.of("10.92.9.9", 1234)  # routed back out: the kernel drops it, so only the write is measured
OPTIONS = emit_timestamps(1, 2)


def run_of(packets: int, source: Endpoint = NEAR, destination: Endpoint = FAR) -> SegmentRun:
    """A run of full segments."""
    return SegmentRun(pack_key(6, source, destination), 1, 5, ACK, 1000, MSS, OPTIONS, os.urandom(MSS * packets))


def in_memory(codec: PacketCodec, *, runs: int) -> dict[str, float]:
    """Parsing and cutting, without a system call. Each figure covers several batches."""
    batch = PacketBatch.for_tunnel(1500)
    run = run_of(44)
    bulk = codec.cut_run(run)
    flows = [codec.cut_run(run_of(0, Endpoint(NEAR.address, 1000 + n)))[0] for n in range(64)]

    def many(work: Callable[[], int]) -> float:
        return median_ns(lambda: sum(work() for _ in range(20)), runs)

    return {
        "parse, one flow": many(lambda: codec.parse_batch(bulk, batch)),
        "parse, 64 flows, 52 octets": many(lambda: codec.parse_batch(flows, batch)),
        "descriptor to object": many(lambda: len(list(batch.items()))),
        "cut": many(lambda: len(codec.cut_run(run))),
    }


def through_tun(codec: PacketCodec, *, offload: bool, runs: int) -> dict[str, float]:
    """One flow's packets from and to a TUN of the namespace that this process is in."""
    device = open_tun(DEVICE, offload=offload)
    try:
        configure(DEVICE, [f"{NEAR.host}/24"], [], mtu=1500, queue=5000)
        batch = PacketBatch.for_tunnel(1500, device.offload)
        down = run_of(44, FAR, NOWHERE)
        found = {"write": median_ns(lambda: codec.write_run(device.fd, down, vnet=device.offload) // MSS, runs)}
        packets = load("auto").cut_run(run_of(44))
        figures = []
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for _ in range(runs):
                for packet in packets * 10:
                    raw.sendto(packet, (FAR.host, 0))
                count, begin = 0, time.thread_time_ns()
                while taken := codec.read_batch(device.fd, batch, vnet=device.offload):
                    count += taken
                figures.append((time.thread_time_ns() - begin) / count)
        return {**found, "read": sorted(figures)[len(figures) // 2]}
    finally:
        os.close(device.fd)


def through_tun_elsewhere(namespace: str, codec: str, *, offload: bool, runs: int) -> dict[str, float]:
    """`through_tun` in another namespace."""
    words = ["ip", "netns", "exec", namespace, sys.executable, "-m", "benchmarks.codec"]
    words += [codec, str(int(offload)), str(runs)]
    done = subprocess.run(words, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(through_tun(load(sys.argv[1]), offload=sys.argv[2] == "1", runs=int(sys.argv[3]))))
