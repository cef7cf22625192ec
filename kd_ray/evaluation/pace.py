"""How fast work gets done lately, and how long the rest of it will take."""

import time
from collections import deque
from collections.abc import Callable

_MARKS = 60
"""Moments that are remembered within the window."""


class Pace:
    """Units a second over the last while; what was done before the first look does not count.

    Args:
        window_s: how far back it looks, once the work has lasted for so long.
        now: seconds by a clock that never goes back.
    """

    def __init__(self, window_s: float = 60.0, now: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._now = now
        self._marks: deque[tuple[float, float]] = deque()
        self._latest = (0.0, 0.0)

    def at(self, done: float) -> None:
        """So much is done by now."""
        now = self._now()
        if done < self._latest[1]:
            # It was begun anew: a resumed run repeats what came after its checkpoint.
            self._marks.clear()
        self._latest = (now, done)
        if not self._marks or now - self._marks[-1][0] >= self._window_s / _MARKS:
            self._marks.append(self._latest)
        while len(self._marks) > 1 and now - self._marks[1][0] >= self._window_s:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Units a second; None before the second look."""
        if not self._marks or self._latest[0] <= self._marks[0][0]:
            return None
        (since, before), (now, done) = self._marks[0], self._latest
        return (done - before) / (now - since)

    def left_s(self, total: float | None) -> float | None:
        """Seconds until `total` is done; None where that cannot be told."""
        rate = self.rate
        if total is None or not rate:
            return None
        return max(0.0, total - self._latest[1]) / rate
