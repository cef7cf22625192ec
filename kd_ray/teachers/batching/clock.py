"""Time as the batcher sees it."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that is still to come."""

    def cancel(self) -> None:
        """Never call it."""
        ...


class Clock(Protocol):
    """Time as the batcher sees it; tests put in their own."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once `now()` has reached `when_s`."""
        ...


class LoopClock:
    """The running event loop's own time."""

    def now(self) -> float:
        """Seconds, monotonic."""
        return asyncio.get_running_loop().time()

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once `now()` has reached `when_s`."""
        return asyncio.get_running_loop().call_at(when_s, callback)
