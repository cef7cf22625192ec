"""Points in time at which something becomes due for an item that still waits."""

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

from kd_ray.teachers.batching.filling import Waiting

Key = TypeVar("Key")
Payload = TypeVar("Payload")


class Alarms(Generic[Key, Payload]):
    """Items by time. Those that wait no more are dropped when met, or when they are many."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiting[Key, Payload]]] = []
        self._sweep_at = 64

    def push(self, when_s: float, waiting: Waiting[Key, Payload]) -> None:
        """Ring for this item at `when_s`; never where that is infinite."""
        if when_s == float("inf"):
            return
        heapq.heappush(self._heap, (when_s, waiting.arrived, waiting))
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].waits]
            heapq.heapify(self._heap)
            self._sweep_at = max(64, 2 * len(self._heap))

    def ring(self, now: float) -> Iterator[Waiting[Key, Payload]]:
        """Take out the items whose time has come."""
        while self.first_s() <= now:
            yield heapq.heappop(self._heap)[2]

    def first_s(self) -> float:
        """When the next alarm rings; infinite if none is set."""
        while self._heap and not self._heap[0][2].waits:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")
