"""Chooses the packet codec: native where it was built, else pure.

`load("auto")` prefers the native one and says nothing; `load("native")` raises CodecError when it is
missing or was built for another layout; `load("pure")` never touches C.
"""

from __future__ import annotations

from netstack.codec.base import DESCRIPTOR, DESCRIPTOR_SIZE, PacketBatch, PacketCodec

__all__ = ["DESCRIPTOR", "DESCRIPTOR_SIZE", "PacketBatch", "PacketCodec", "load"]


def load(name: str = "auto") -> PacketCodec:
    """The codec called `name`: auto, pure or native. Raises CodecError, and ValueError for another name."""
    from netstack.core.errors import CodecError

    if name not in ("auto", "pure", "native"):
        raise ValueError(f"unknown codec {name!r}: use auto, pure or native")
    if name != "pure":
        try:
            from netstack.codec.native import NativeCodec

            return NativeCodec()
        except (ImportError, CodecError) as problem:
            if name == "native":
                raise CodecError(f"the native codec is not usable ({problem}); build it with `make build`") from problem
    from netstack.codec.pure import PureCodec

    return PureCodec()
