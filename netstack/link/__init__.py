"""Where the app's packets come from and go to: implementations of `core.ports.Tunnel`.

`fd` serves a TUN descriptor (Android, Linux) through the codec; `linux` makes one; `queue` is fed by callbacks (iOS);
`memory` is a pair for tests; `packets` is what the packet-at-a-time links share; `decorators` trace and impair any of
them.
"""
