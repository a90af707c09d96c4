"""A black-box judge of user-space network engines: raw packets on one side, real sockets on the other.

Responsible for: the 72 wire behaviours an app must see and the 18 of DNS and the DNS-first rule, each one named check.
Refuses to know: anything about the engine but its command line, its process id and the TUN device that it makes.
RFCs: those each check names.

The map: `packets` builds packets and takes them apart. `namespaces` and `bench` make the little world: an app side
without a kernel stack in the way, the engine's namespace, and a server namespace where any address answers. `wire`
reads and sorts what arrives; `app` is a TCP and a UDP client of which every field can be bent. `upstream` and
`resolver` run in the server namespace and are driven by a control socket. `registry` holds the checks, `checks_*` are
the rows, `runner` runs them. In kernel mode the server's own Linux stack takes the engine's place, which shows that
the checks ask for nothing Linux does not do.
"""
