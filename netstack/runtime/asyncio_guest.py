"""An asyncio loop inside an engine's loop, for resolvers that are asyncio protocols.

Responsible for: giving asyncio its turn when it has something to do.
Refuses to know: engines. Nothing else imports it: asyncio costs 3.5 MiB and 20 ms.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from netstack.runtime.loop import Loop


class GuestLoop(asyncio.SelectorEventLoop):
    """An ordinary asyncio loop. It waits in its host: its own selector is one descriptor that the host watches."""

    def __init__(self, host: Loop) -> None:
        self._host = host
        self._turn_comes = False
        selector = selectors.DefaultSelector()
        self._selector_fd: int = selector.fileno()
        super().__init__(selector)
        host.add_reader(self._selector_fd, self._turn)

    def call_soon(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        """As asyncio's."""
        if not self._turn_comes:
            self._turn_comes = True
            self._host.call_soon(self._turn)
        return super().call_soon(*args, **options)

    def call_at(self, when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        """As asyncio's."""
        self._host.call_at(when, self._turn)
        return super().call_at(when, *args, **options)

    def _turn(self) -> None:
        if self.is_closed():
            return
        self._turn_comes = False
        super().call_soon(self.stop)
        self.run_forever()

    def finish(self) -> None:
        """Cancel every task, let them end, and close."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._host.remove_reader(self._selector_fd)
        self.close()
