"""Real sockets and resolvers: the engine's way out. `dialer` makes sockets, `streams` and `datagrams` are them."""
