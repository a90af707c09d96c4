"""Errors by who must act on them.

Responsible for: one root, `NetstackError`, and a subclass for each party that can do something.
Refuses to know: how they are shown; the command line prints ``str(error)`` as its one line.
"""

from __future__ import annotations


class NetstackError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(NetstackError, ValueError):
    """A setting is wrong; the message names the key, the value and what would do."""


class UsageError(NetstackError):
    """The command line was called wrongly (exit status 2)."""


class PermissionProblem(NetstackError):
    """The operating system refused; the message names the permission and how to get it."""


class CaptureError(NetstackError):
    """A capture file cannot be read; the message names the file and the offset."""


class TunnelClosed(NetstackError):
    """The packet device is gone for good: descriptor closed or interface removed."""


class DialError(NetstackError):
    """A real socket could not be had. `errno` says why; 0 when the host refused to protect it."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class ProtectError(DialError):
    """The host refused to protect a socket: it would have looped back into the tunnel."""


class CodecError(NetstackError):
    """The native codec cannot be used; the message says whether to rebuild or to fall back."""


class StateError(NetstackError):
    """A controller verb was called in a state that does not allow it."""
