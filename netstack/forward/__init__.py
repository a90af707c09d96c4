"""From packets to sockets and back: one module for each family of flows.

`tcp` opens, refuses and sheds TCP flows, which `relay` splices to real sockets and `flow_table` keeps; `udp` maps the
app's ports to real ones; `icmp` carries pings; `dns` hands queries to the bridge, over UDP and TCP. `fragments` puts
packets together before any of them sees one. `context` is what they share; `limiter` bounds what they answer.
"""
