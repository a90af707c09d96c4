"""The app's end of the tunnel: packets out, packets in, sorted to whoever waits for them.

Responsible for: one reading thread; every packet's well-formedness; inboxes by flow, then by app address; putting
fragments towards the app together.
Refuses to know: TCP state, the kind of descriptor beyond read and write.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import Counter, deque

from .packets import TCP, UDP, Packet, parse, parse_transport

FlowKey = tuple[int, bytes, int, bytes, int]


class Inbox:
    """Packets for one waiter, in order of arrival."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._packets: deque[Packet] = deque()

    def put(self, packet: Packet) -> None:
        with self._ready:
            self._packets.append(packet)
            self._ready.notify()

    def get(self, timeout: float) -> Packet | None:
        with self._ready:
            if not self._packets:
                self._ready.wait_for(lambda: self._packets, timeout)
            return self._packets.popleft() if self._packets else None

    def drain(self) -> list[Packet]:
        with self._ready:
            packets = list(self._packets)
            self._packets.clear()
            return packets


class Wire:
    """Sends and receives raw IP packets on a TUN descriptor or on an AF_PACKET socket of a TUN device."""

    def __init__(self, port: int | socket.socket, mtu: int = 1500) -> None:
        self._port, self._mtu = port, mtu
        self._flows: dict[FlowKey, Inbox] = {}
        self._addresses: dict[bytes, Inbox] = {}
        self._pieces: dict[tuple[bytes, bytes, int, int], dict[int, Packet]] = {}
        self._device = port.getsockname()[0] if isinstance(port, socket.socket) else ""
        self._stopping = False
        self.received = 0
        self.sent = 0
        self.faults: Counter[str] = Counter()
        self.fault_examples: dict[str, str] = {}
        if isinstance(port, socket.socket):
            port.settimeout(0.25)
        else:
            os.set_blocking(port, False)
        self._thread = threading.Thread(target=self._read_loop, name="wire", daemon=True)
        self._thread.start()

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.sent += 1
            try:
                if isinstance(self._port, socket.socket):
                    protocol = 0x86DD if packet[:1] and packet[0] >> 4 == 6 else 0x0800
                    self._port.sendto(packet, (self._device, protocol))
                else:
                    os.write(self._port, packet)
            except (OSError, ValueError):
                continue  # a device refuses what it cannot carry (an empty packet, a bad version)

    def paced(self, packets: list[bytes], burst: int = 64, pause: float = 0.004) -> None:
        """Send many packets slower than the device's queue overflows."""
        for at in range(0, len(packets), burst):
            self.send(*packets[at : at + burst])
            time.sleep(pause)

    def flow(self, key: FlowKey) -> Inbox:
        return self._flows.setdefault(key, Inbox())

    def address(self, address: bytes) -> Inbox:
        return self._addresses.setdefault(address, Inbox())

    def forget(self, key: FlowKey) -> None:
        self._flows.pop(key, None)

    def close(self) -> None:
        self._stopping = True
        self._thread.join(2)
        if isinstance(self._port, socket.socket):
            self._port.close()
        else:
            os.close(self._port)

    def _read_loop(self) -> None:
        poller = select.poll()
        poller.register(self._port, select.POLLIN)
        while not self._stopping:
            if not poller.poll(200):
                continue
            for _ in range(256):
                try:
                    raw = (
                        self._port.recv(70000, socket.MSG_DONTWAIT)
                        if isinstance(self._port, socket.socket)
                        else os.read(self._port, 70000)
                    )
                except OSError:
                    break
                self._sort(parse(raw, time.monotonic(), self._mtu))

    def _sort(self, packet: Packet) -> None:
        self.received += 1
        if packet.version == 6 and packet.protocol == 58 and packet.kind in (133, 134, 135, 136, 143):
            return  # neighbour discovery of a kernel that stands in for the engine
        for fault in packet.faults:
            self.faults[fault] += 1
            self.fault_examples.setdefault(fault, packet.raw[:96].hex())
        if packet.is_fragment:
            whole = self._join(packet)
            if whole is None:
                return
            packet = whole
        key = (packet.protocol, packet.dst, packet.dport, packet.src, packet.sport)
        inbox = self._flows.get(key) if packet.protocol in (TCP, UDP) else None
        if inbox is None:
            inbox = self._addresses.get(packet.dst)
        if inbox is not None:
            inbox.put(packet)

    def _join(self, packet: Packet) -> Packet | None:
        key = (packet.src, packet.dst, packet.protocol, packet.ident)
        pieces = self._pieces.setdefault(key, {})
        if packet.offset in pieces:
            self.faults["fragment sent twice"] += 1
        if packet.more and len(packet.payload) % 8:
            self.faults["inner fragment not a multiple of 8 octets"] += 1
        pieces[packet.offset] = packet
        at, body = 0, b""
        while at in pieces:
            piece = pieces[at]
            body += piece.payload
            at += len(piece.payload)
            if not piece.more:
                del self._pieces[key]
                whole = Packet(
                    packet.raw,
                    packet.time,
                    packet.version,
                    packet.src,
                    packet.dst,
                    packet.protocol,
                    packet.ttl,
                    packet.ident,
                )
                whole.payload = body
                parse_transport(whole)
                for fault in whole.faults:
                    self.faults[f"reassembled: {fault}"] += 1
                return whole
            if not piece.payload:
                return None
        return None
