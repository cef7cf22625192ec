"""A micro-batcher: work that several callers hand in at about the same time is done in one pass.

Work is queued by a key (here: a teacher and what is wanted of it); only work of one queue shares a
pass, and one pass runs at a time. A batch is put together when its pass starts, not earlier, so
that under load the queue itself fills the batches. Items wait for companions only as long as the
caller allows, and not at all where the caller found the batcher idle. asyncio, no threads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)


class Expired(TimeoutError):
    """The work's deadline passed before its turn came; it was dropped without being done."""


class WrongCountError(RuntimeError):
    """A pass returned another number of results than it was given items."""


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


@dataclass(frozen=True)
class BatchStatistics:
    """What a batcher has done so far; `units` is the sum of the items' sizes that were run."""

    passes: int = 0
    items: int = 0
    units: int = 0
    cancelled: int = 0
    expired: int = 0


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    """An item in its queue. Times in seconds of the batcher's clock."""

    item: Item
    size: int
    priority: int
    arrived: int
    """Running number: the order among items of equal priority."""
    due_s: float
    """From here on its batch starts even if it is not full."""
    expires_s: float
    answer: "asyncio.Future[Result]"

    def rank(self) -> tuple[int, int]:
        """Sorts the item that goes first to the front."""
        return -self.priority, self.arrived


class MicroBatcher(Generic[Key, Item, Result]):
    """Collects items per queue and runs them in passes of at most `max_size` units.

    Args:
        run: does one pass: `await run(queue, items)` returns one result per item, in order. What
            it raises goes to every waiter of the pass.
        max_size: largest sum of sizes in one pass (an item that is larger by itself runs alone).
        clock: where time comes from.
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_size: int,
        clock: Clock | None = None,
    ) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, got {max_size}")
        self._run = run
        self._max_size = max_size
        self._clock: Clock = clock or LoopClock()
        self._queues: dict[Key, list[_Waiting[Item, Result]]] = {}
        self._dispatcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._arrivals = 0
        self._passes = self._items = self._units = self._cancelled = self._expired = 0

    @property
    def idle(self) -> bool:
        """True while nothing runs and nothing is queued."""
        return self._dispatcher is None or self._dispatcher.done()

    @property
    def depth(self) -> int:
        """Units that wait for a pass."""
        return sum(waiting.size for queue in self._queues.values() for waiting in queue)

    @property
    def statistics(self) -> BatchStatistics:
        """Counts since the start."""
        return BatchStatistics(
            self._passes, self._items, self._units, self._cancelled, self._expired
        )

    async def submit(
        self,
        queue: Key,
        item: Item,
        *,
        size: int = 1,
        wait_s: float = 0.0,
        expires_s: float = float("inf"),
        priority: int = 0,
    ) -> Result:
        """Have `item` done in some pass over `queue`, and return its result.

        Args:
            queue: items of one queue may share a pass.
            item: what `run` gets.
            size: its units, counted against `max_size`.
            wait_s: how long its batch may wait for companions before it starts.
            expires_s: by the clock; work that has not started by then is dropped with `Expired`.
            priority: higher goes first.

        Cancelling the caller drops the item if its pass has not started.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        due_s = self._clock.now() + wait_s
        self._arrivals += 1
        self._queues.setdefault(queue, []).append(
            _Waiting(item, size, priority, self._arrivals, due_s, expires_s, answer)
        )
        self._wake.set()
        if self.idle:
            self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())
        return await answer

    async def close(self) -> None:
        """Give everything up that has not been done; its waiters are cancelled."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.gather(self._dispatcher, return_exceptions=True)
        for queue in self._queues.values():
            for waiting in queue:
                waiting.answer.cancel()
        self._queues.clear()

    async def _dispatch(self) -> None:
        """Run passes until nothing is queued."""
        # One turn of the loop: what was handed in together is seen together.
        await asyncio.sleep(0)
        while True:
            self._drop_dead()
            if not self._queues:
                return
            ready = self._ready_queue()
            if ready is None:
                await self._wait_for_arrival_or_due()
            else:
                await self._run_pass(ready, self._take_batch(ready))

    def _drop_dead(self) -> None:
        """Forget what was cancelled, refuse what is past its deadline."""
        now = self._clock.now()
        for key, queue in list(self._queues.items()):
            alive = []
            for waiting in queue:
                if waiting.answer.done():
                    self._cancelled += 1
                elif waiting.expires_s <= now:
                    self._expired += 1
                    waiting.answer.set_exception(
                        Expired(f"not started within its deadline ({self.depth} units queued)")
                    )
                else:
                    alive.append(waiting)
            if alive:
                self._queues[key] = alive
            else:
                del self._queues[key]

    def _ready_queue(self) -> Key | None:
        """The queue to run now: full or due, and first by priority and arrival."""
        now = self._clock.now()
        ready = [
            (min(waiting.rank() for waiting in queue), key)
            for key, queue in self._queues.items()
            if sum(waiting.size for waiting in queue) >= self._max_size
            or min(waiting.due_s for waiting in queue) <= now
        ]
        return min(ready, key=lambda entry: entry[0])[1] if ready else None

    def _take_batch(self, key: Key) -> list[_Waiting[Item, Result]]:
        """Take from the front of a queue what fits into one pass (at least one item)."""
        queue = sorted(self._queues[key], key=_Waiting.rank)
        batch, size = [queue[0]], queue[0].size
        for waiting in queue[1:]:
            if size + waiting.size > self._max_size:
                break
            batch.append(waiting)
            size += waiting.size
        rest = queue[len(batch) :]
        if rest:
            self._queues[key] = rest
        else:
            del self._queues[key]
        return batch

    async def _wait_for_arrival_or_due(self) -> None:
        """Sleep until something is handed in or the first batch is due."""
        self._wake.clear()
        first_due_s = min(waiting.due_s for queue in self._queues.values() for waiting in queue)
        timer = self._clock.call_at(first_due_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _run_pass(self, key: Key, batch: Sequence[_Waiting[Item, Result]]) -> None:
        """One pass; every waiter gets its result or the pass's error."""
        self._passes += 1
        self._items += len(batch)
        self._units += sum(waiting.size for waiting in batch)
        try:
            results = await self._run(key, [waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise WrongCountError(
                    f"pass over {key!r} returned {len(results)} results for {len(batch)} items"
                )
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        except Exception as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        else:
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
