"""Who is who in a capture: the app and the far end of each conversation, and the row that reports on it.

Responsible for: finding the script and row of a packet, by its pair and its place in the capture.
Refuses to know: what becomes of the packet.
"""

from __future__ import annotations

from collections.abc import Callable

from netstack.capture.conversations import Peer, TcpConversation, UdpConversation, format_time
from netstack.capture.facts import CaptureFacts
from netstack.core.flow import (
    TCP,
    UDP,
    Endpoint,
    FiveTuple,
    key_destination,
    key_destination_port,
    key_source,
    key_source_port,
)
from netstack.policy.lan import Scope, classify
from netstack.runtime.script import TcpScript
from netstack.runtime.verdicts import FlowRow, five_tuple

_EPHEMERAL = 1024
Key = tuple[int, Peer, Peer]


class Roster:
    """Made of what the first pass over a capture found. `on_reuse` learns of a conversation that another one of the
    same pair follows, before the first packet of that."""

    def __init__(self, facts: CaptureFacts, dns_ports: tuple[int, ...], on_reuse: Callable[[FlowRow], None]) -> None:
        self.rows: list[FlowRow] = []
        self._on_reuse = on_reuse
        self._tcp: dict[Key, list[TcpScript]] = {}  # by pair, in order of appearance
        self._udp: dict[Key, FlowRow] = {}
        self._pings: dict[Key, FlowRow] = {}
        self._current: dict[Key, TcpScript] = {}  # by app and far end
        names = {int(shown["tcp_stream"]): shown["name"] for shown in facts.server_names}
        for conversation in facts.tcp:
            client, server = conversation.peers[conversation.client], conversation.peers[1 - conversation.client]
            row = self._add(TCP, client, server, conversation)
            row.named(names.get(conversation.index, ""))
            script = TcpScript(conversation, row, is_dns=server[1] in dns_ports)
            self._tcp.setdefault(pair_of(TCP, client, server), []).append(script)
        for session in facts.udp:
            side = app_side(session)
            client, server = session.peers[side], session.peers[1 - side]
            self._udp[pair_of(UDP, client, server)] = self._add(UDP, client, server, session)
        self.far_ends = {row.flow.destination.address for row in self.rows}
        self.far_ends -= {row.flow.source.address for row in self.rows}

    def _add(
        self, protocol: int, client: Peer, server: Peer, conversation: TcpConversation | UdpConversation
    ) -> FlowRow:
        flow = five_tuple(protocol, client, server)
        row = FlowRow(flow, conversation.first_frame, format_time(conversation.first_time_ns))
        self.rows.append(row)
        return row

    def tcp(self, one: Peer, other: Peer, frame: int) -> TcpScript | None:
        """The conversation of a pair that the frame of this number belongs to; frames come in order."""
        scripts = self._tcp.get(pair_of(TCP, one, other))
        if scripts is None:
            return None
        while len(scripts) > 1 and scripts[1].conversation.first_frame <= frame:
            self._on_reuse(scripts.pop(0).row)
        script = scripts[0]
        flow = script.row.flow
        self._current[TCP, peer_of(flow.source), peer_of(flow.destination)] = script
        return script

    def udp(self, one: Peer, other: Peer) -> FlowRow | None:
        """The row of a UDP pair."""
        return self._udp.get(pair_of(UDP, one, other))

    def ping(self, key: Key) -> FlowRow | None:
        """The row of an echo session: protocol, (source, identifier), (destination, 0)."""
        return self._pings.get(key)

    def add_ping(self, key: Key, frame: int, time_ns: int) -> FlowRow:
        """The same, made on first sight."""
        row = self._pings.get(key)
        if row is None:
            row = self._pings[key] = FlowRow(five_tuple(*key), frame, format_time(time_ns))
            self.rows.append(row)
        return row

    def current(self, key: bytes) -> TcpScript | None:
        """The conversation that an app's packed flow key means now."""
        return self._current.get(
            (key[1], (key_source(key), key_source_port(key)), (key_destination(key), key_destination_port(key)))
        )

    def script_of(self, flow: FiveTuple) -> TcpScript | None:
        """The conversation that an app's TCP flow means now."""
        return self._current.get((TCP, peer_of(flow.source), peer_of(flow.destination)))

    def row_of(self, flow: FiveTuple) -> FlowRow | None:
        """The row of an app's flow."""
        source, destination = peer_of(flow.source), peer_of(flow.destination)
        if flow.protocol == TCP:
            script = self._current.get((TCP, source, destination))
            return script.row if script is not None else None
        if flow.protocol == UDP:
            return self.udp(source, destination)
        return self._pings.get((flow.protocol, source, destination))


def peer_of(endpoint: Endpoint) -> Peer:
    """As a plain tuple."""
    return endpoint.address, endpoint.port


def pair_of(protocol: int, one: Peer, other: Peer) -> Key:
    """The same for both directions."""
    return (protocol, one, other) if one <= other else (protocol, other, one)


def app_side(session: UdpConversation) -> int:
    """Who the app of a UDP conversation is: who was seen first, unless that was plainly an answer, because the
    capture starts in the middle."""
    (_, first_port), (second, second_port) = session.peers
    if first_port >= _EPHEMERAL or second_port < _EPHEMERAL or second_port == 5353:
        return 0
    scope = classify(second)
    if scope in (Scope.MULTICAST, Scope.BROADCAST):
        return 0
    return 1 if session.packets[1] == 0 or scope == Scope.LAN else 0
