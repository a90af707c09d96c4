"""DNS between the apps and an upstream resolver.

`message` reads queries and builds the engine's own answers, `filter` reads upstream answers and puts
their addresses into the tracker, `bridge` matches the two and keeps time, `framing` is DNS over TCP.
"""
