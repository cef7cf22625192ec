"""Time and passes that tests of the micro-batcher steer."""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from kd_ray.teachers.batching import MicroBatcher


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    def __init__(self) -> None:
        self.time_s = 0.0
        self.timers: list[tuple[float, int, FakeTimer]] = []
        self.numbers = itertools.count()

    def now(self) -> float:
        return self.time_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        heapq.heappush(self.timers, (when_s, next(self.numbers), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        self.time_s += seconds
        while self.timers and self.timers[0][0] <= self.time_s:
            timer = heapq.heappop(self.timers)[2]
            if timer.callback is not None:
                timer.callback()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Passes:
    """Records passes; each waits until the test opens the gate, and doubles its items."""

    def __init__(self, *, gated: bool = False) -> None:
        self.seen: list[tuple[str, list[int]]] = []
        self.gated = gated
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.short = False

    async def __call__(self, queue: str, items: Sequence[int]) -> Sequence[int]:
        self.seen.append((queue, list(items)))
        if self.gated:
            await self.gate.wait()
            self.gate.clear()
        if self.error is not None:
            raise self.error
        return [2 * item for item in items][: -1 if self.short else None]


Batcher = MicroBatcher[str, int, int]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def later(work: Awaitable[int]) -> "asyncio.Task[int]":
    return asyncio.ensure_future(work)  # type: ignore[return-value]
