"""Nanoseconds per packet of the codecs, in memory and through a TUN.

``python benchmarks/codec.py`` measures in memory; with ``--tun`` also through a TUN device that it makes in
the network namespace it runs in, so run that as ``ip netns exec SOME-NEW-NAMESPACE python benchmarks/codec.py --tun``.
Each figure is the median of 9 runs; packets of 1,500 octets unless said otherwise.
"""

from __future__ import annotations

import fcntl
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable

from netstack.codec import PacketBatch, PacketCodec, load
from netstack.core.errors import CodecError
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import ACK, SegmentRun
from netstack.wire.tcp import emit_timestamps

RUNS = 9
MSS = 1448
NEAR, FAR = Endpoint.of("10.92.0.2", 1234), Endpoint.of("10.92.0.3", 5001)
NOWHERE = Endpoint.of("10.92.9.9", 1234)  # routed back out: the kernel drops it, so only the write is measured
OPTIONS = emit_timestamps(1, 2)
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR, OFFLOADS = 0x0001, 0x1000, 0x4000, 0x67


def run_of(packets: int, source: Endpoint = NEAR, destination: Endpoint = FAR) -> SegmentRun:
    return SegmentRun(pack_key(6, source, destination), 1, 5, ACK, 1000, MSS, OPTIONS, os.urandom(MSS * packets))


def timed(work: Callable[[], int]) -> float:
    """Median nanoseconds per packet; `work` returns how many packets it handled."""
    figures = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        packets = work()
        figures.append((time.perf_counter() - begin) / packets * 1e9)
    return statistics.median(figures)


def show(codec: PacketCodec, what: str, figure: float) -> None:
    print(f"{codec.name:7} {what:44} {figure:8.0f} ns")


def in_memory(codec: PacketCodec) -> None:
    batch = PacketBatch.for_tunnel(1500)
    run = run_of(64)
    bulk = codec.cut_run(run)
    flows = [codec.cut_run(run_of(0, Endpoint(NEAR.address, 1000 + n)))[0] for n in range(64)]
    show(codec, "parse_batch, one flow", timed(lambda: codec.parse_batch(bulk, batch)))
    show(codec, "parse_batch, 64 flows, 52 octets", timed(lambda: codec.parse_batch(flows, batch)))
    show(codec, "items(), 64 of them", timed(lambda: len(list(batch.items()))))
    show(codec, "cut_run", timed(lambda: len(codec.cut_run(run))))


def open_tun(*, vnet: bool) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if vnet else 0)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"bench0", flags))
    if vnet:
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS)
    for words in ("link set lo up", f"addr add {NEAR.host}/24 dev bench0", "link set bench0 txqueuelen 5000 up"):
        subprocess.run(["ip", *words.split()], check=True)
    return fd


def through_tun(codec: PacketCodec, fd: int, *, vnet: bool) -> None:
    batch = PacketBatch.for_tunnel(1500, vnet)
    kind = "virtio-net headers" if vnet else "plain TUN"
    down = run_of(44, FAR, NOWHERE)
    show(codec, f"write_run, {kind}", timed(lambda: codec.write_run(fd, down, vnet=vnet) // MSS))
    up = load("auto").cut_run(run_of(640))
    figures = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(RUNS):
            for packet in up:
                raw.sendto(packet, (FAR.host, 0))
            packets, begin = 0, time.perf_counter()
            while taken := codec.read_batch(fd, batch, vnet=vnet):
                packets += taken
            figures.append((time.perf_counter() - begin) / packets * 1e9)
    show(codec, f"read_batch, {kind}", statistics.median(figures))


def main() -> None:
    codecs = [load("pure")]
    try:
        codecs.insert(0, load("native"))
    except CodecError as problem:
        print(problem, file=sys.stderr)
    for codec in codecs:
        in_memory(codec)
    if "--tun" in sys.argv:
        for vnet in (False, True):
            fd = open_tun(vnet=vnet)
            for codec in codecs:
                through_tun(codec, fd, vnet=vnet)
            os.close(fd)


if __name__ == "__main__":
    main()
