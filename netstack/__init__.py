"""A user-space network stack that filters a device's traffic on the device.

A map of the system, in the order in which its layers may import one another:

`core`        the types and seams that everything shares: packets, flows, ports, events, verdicts, drop reasons.
`config`      every setting in place, with its unit and the reason for its default.
`wire`        octets to fields and back, as pure functions.
`codec`       batches of packets: parse, verify, coalesce; cut and checksum. A pure and a native one.
`tcp`         one connection's state machine, as verbs: receive, write, runs_to_send, next_event, next_timeout.
`dns`         messages, and the bridge that matches many questions to many answers.
`policy`      who may talk to whom: the tracker of resolved addresses, and the decision.
`forward`     one module for each family of flows: TCP, UDP, ICMP, DNS; the flow table; the relay.
`engine`      dispatch, one write phase for each batch, reload, network change, stop.

So far nothing has touched a socket or a clock. From here on the world comes in:

`link`        where packets come from: a descriptor, a Linux TUN, a queue, memory.
`upstream`    real sockets and resolvers.
`capture`     pcap and pcapng files.
`runtime`     what drives an engine: live on asyncio, or replay on a virtual clock.
`intercept`   reserved for DNS intercept on desktops.
`controller`  the life cycle that a host app holds.
`cli`         the `netstack` command.
`testing`     the public test kit.

An embedding app starts with `netstack.controller.PacketCaptureController` and `netstack.config.load_config`; a test
with `netstack.engine.Engine` and `netstack.testing`. Importing this package imports none of it.
"""

__version__ = "0.1.0"
