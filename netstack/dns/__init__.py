"""DNS between the apps and an upstream resolver.

`message` reads queries and builds the engine's own answers, `filter` reads upstream answers and puts
their addresses into the tracker, `bridge` matches the two and keeps time, `framing` is DNS over TCP.

Between bridge and upstream stand resolvers that wrap resolvers (`stage`): `cache` keeps answers, `answers`
edits them (with `service` for HTTPS records, `dns64`, and `records` and `edns` to take messages apart).
"""
