"""A file for events or packets that never holds up whoever writes to it.

Responsible for: keeping what a slow reader has not taken, up to a bound; leaving out what is over it, in whole
records; ending quietly, with one line, when the file cannot be written any more.
Refuses to know: what is written.

The engine's thread writes here, so a write that waits would stop the network. Regular files do not wait; for all
others poll(2) is asked first and no more is written than a pipe takes at once (PIPE_BUF), so that no flag of a
descriptor is changed that other processes share.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
from collections import deque

PENDING_MOST = 4 << 20
"""Octets kept for a slow reader."""
_PIECE = 4096  # PIPE_BUF on Linux, at least 512 elsewhere
_PATIENCE = 1.0  # seconds that a slow reader has for the rest when the file is closed


class Output:
    """An open descriptor. `write` takes a whole record (text as UTF-8) and never raises nor waits."""

    def __init__(self, fd: int, name: str, *, owned: bool = True) -> None:
        """`name` is for the complaint; a descriptor that is not `owned` stays open."""
        self._fd = fd
        self._name = name
        self._owned = owned
        self._pending: deque[bytes] = deque()
        self._octets = 0
        self.lost = 0  # records that were left out
        self.broken = False
        self._poll: select.poll | None = None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    @classmethod
    def create(cls, path: str) -> Output:
        """Make or empty the file at `path`. Raises OSError."""
        return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), path)

    def write(self, record: str | bytes) -> int:
        """Write a record, or keep it, or leave it out."""
        octets = record.encode("utf-8", "replace") if isinstance(record, str) else bytes(record)
        if self.broken or self._octets + len(octets) > PENDING_MOST:
            self.lost += 1
            if not self.broken:
                self._drain(0.0)
            return len(octets)
        self._pending.append(octets)
        self._octets += len(octets)
        self._drain(0.0)
        return len(octets)

    def flush(self) -> None:
        """Offer what is kept."""
        self._drain(0.0)

    def close(self) -> None:
        """Give a slow reader a last chance, then close. Idempotent."""
        if self._fd < 0:
            return
        self._drain(_PATIENCE)
        fd, self._fd = self._fd, -1
        self.broken = True
        if self._owned:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _drain(self, patience: float) -> None:
        pending, poll = self._pending, self._poll
        until = time.monotonic() + patience if patience else 0.0
        try:
            while pending and not self.broken:
                if poll is not None:
                    left = max(0.0, until - time.monotonic()) if patience else 0.0
                    if not poll.poll(left * 1000):
                        return
                first = pending[0]
                sent = os.write(self._fd, first if poll is None else first[:_PIECE])
                self._octets -= sent
                if sent == len(first):
                    pending.popleft()
                else:
                    pending[0] = first[sent:]
        except BlockingIOError:
            return
        except OSError as problem:
            self._break(problem)

    def _break(self, problem: OSError) -> None:
        self.broken = True
        self.lost += len(self._pending)
        self._pending.clear()
        self._octets = 0
        if not isinstance(problem, BrokenPipeError):  # a reader that goes away needs no word
            with contextlib.suppress(OSError, ValueError):
                print(f"netstack: {self._name}: {problem.strerror}; nothing more is written to it", file=sys.stderr)
