"""A micro-batcher: work that several callers hand in at about the same time is done in one pass.

Work is queued by a key (here: a teacher and what is wanted of it); only work of one queue shares a
pass, and one pass runs at a time. A batch is put together when its pass starts, not earlier, so
that under load the queue itself fills the batches. Items wait for companions only as long as the
caller allows, and not at all where the caller found the batcher idle. Callers name the job that
they work for; jobs get shares by weight (`fairness`), and a batch is made of items of about the
same length (`filling`). asyncio, no threads.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from kd_ray.teachers.batching.clock import Clock, LoopClock
from kd_ray.teachers.batching.filling import Limits, Waiting
from kd_ray.teachers.batching.schedule import Choose, Schedule
from kd_ray.teachers.batching.statistics import Accounts, BatchStatistics, JobStatistics

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)


class Expired(TimeoutError):
    """The work's deadline passed before its turn came; it was dropped without being done."""


class WrongCountError(RuntimeError):
    """A pass returned another number of results than it was given items."""


class _Asked(NamedTuple, Generic[Item, Result]):
    item: Item
    answer: "asyncio.Future[Result]"


class MicroBatcher(Generic[Key, Item, Result]):
    """Collects items per queue and runs them in passes.

    Args:
        run: does one pass: `await run(queue, items)` returns one result per item, in order. What
            it raises goes to every waiter of the pass.
        max_size: largest sum of sizes in one pass (an item that is larger by itself runs alone).
        max_padded: largest padded area of one pass, utterances x longest length; None for any
            (an item that is larger by itself runs alone).
        look_ahead: companions of a pass are sought among this many oldest items of each job.
        max_passed_over: an item that had to let younger ones of its job and queue go before it,
            because of its length, in this many passes is taken before them from then on.
        patience_s: an item that has waited longer counts as of the highest priority that waits;
            None: priorities are strict, and a lower one may wait for ever.
        choose: picks the queue to run next among those that are full or due; default: the one
            with the best-ranked item (priority, then the job's share, then arrival).
        clock: where time comes from.

    Raises:
        ValueError: a limit is too small.
    """

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_size: int,
        max_padded: int | None = None,
        look_ahead: int = 128,
        max_passed_over: int = 8,
        patience_s: float | None = None,
        choose: Choose[Key] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._run = run
        self._clock: Clock = clock or LoopClock()
        self._schedule: Schedule[Key, _Asked[Item, Result]] = Schedule(
            Limits(max_size, max_padded, look_ahead, max_passed_over),
            patience_s=patience_s,
            choose=choose,
        )
        self._accounts = Accounts()
        self._dispatcher: asyncio.Task[None] | None = None
        self._running = False
        self._wake = asyncio.Event()
        self._arrivals = 0

    @property
    def idle(self) -> bool:
        """True while nothing runs and nothing is queued."""
        return not self._running and not self._schedule

    @property
    def depth(self) -> int:
        """Units that wait for a pass."""
        return self._schedule.units

    @property
    def depth_by_queue(self) -> dict[Key, int]:
        """Units that wait in each queue; queues where none do are left out."""
        return self._schedule.units_by_key

    @property
    def depth_by_job(self) -> dict[str, int]:
        """Units that wait for each job; jobs for which none do are left out."""
        return self._schedule.units_by_job

    @property
    def statistics(self) -> BatchStatistics:
        """Counts since the start."""
        return self._accounts.total

    @property
    def statistics_by_job(self) -> dict[str, JobStatistics]:
        """Each job's own part in them."""
        return self._accounts.jobs

    @property
    def statistics_of_the_gone(self) -> JobStatistics:
        """The part of jobs that were forgotten, together."""
        return self._accounts.gone.copy()

    def set_weight(self, job: str, weight: float) -> None:
        """Set a job's share in relation to those of the others (1 by default).

        Raises:
            ValueError: the weight is not a positive number.
        """
        self._schedule.shares.set_weight(job, weight)

    def forget(self, job: str) -> None:
        """A job has ended: drop its weight and add its statistics to those of the gone."""
        self._schedule.shares.forget(job)
        self._accounts.forget(job)

    async def submit(
        self,
        queue: Key,
        item: Item,
        *,
        size: int = 1,
        length: int = 0,
        job: str = "",
        wait_s: float = 0.0,
        expires_s: float = float("inf"),
        priority: int = 0,
    ) -> Result:
        """Have `item` done in some pass over `queue`, and return its result.

        Args:
            queue: items of one queue may share a pass.
            item: what `run` gets.
            size: its utterances, counted against `max_size`.
            length: frames or source tokens of its longest row; 0 if there is no telling. The job
                is charged size x length, or size: let a batcher see only one kind.
            job: for whom it is done.
            wait_s: how long its batch may wait for companions before it starts.
            expires_s: by the clock; work that has not started by then is dropped with `Expired`.
            priority: higher goes first.

        Cancelling the caller drops the item if its pass has not started.

        Raises:
            Expired: as said.
            ValueError: size or length is too small.
        """
        if size < 1 or length < 0:
            raise ValueError(
                f"an item has at least 1 utterance of at least 0 frames, "
                f"got size {size}, length {length}"
            )
        loop, now = asyncio.get_running_loop(), self._clock.now()
        answer: asyncio.Future[Result] = loop.create_future()
        self._arrivals += 1
        waiting = Waiting(
            key=queue,
            payload=_Asked(item, answer),
            job=job,
            size=size,
            length=length,
            priority=priority,
            arrived=self._arrivals,
            arrived_s=now,
            due_s=now + wait_s,
            expires_s=expires_s,
        )
        self._schedule.add(waiting)
        self._wake.set()
        if self._dispatcher is None or self._dispatcher.done():
            self._dispatcher = loop.create_task(self._dispatch())
        try:
            return await answer
        except asyncio.CancelledError:
            if waiting.waits:
                self._schedule.remove(waiting)
                self._accounts.count_cancelled(job)
                self._wake.set()
            raise

    async def close(self) -> None:
        """Give everything up that has not been done; its waiters are cancelled."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.gather(self._dispatcher, return_exceptions=True)
        for waiting in self._schedule.remove_all():
            waiting.payload.answer.cancel()

    async def _dispatch(self) -> None:
        """Run passes until nothing is queued."""
        try:
            while True:
                # One turn of the loop: what was handed in, or given up, together is seen together.
                await asyncio.sleep(0)
                now = self._clock.now()
                self._refuse_expired(now)
                batch = self._schedule.next_batch(now)
                if batch:
                    await self._run_pass(batch)
                elif self._schedule:
                    await self._wait_for_arrival_or_event()
                if not self._schedule:
                    self._schedule.shares.settle()
                    return
        except Exception as error:
            # No pass raises here: `choose` does, or we have a bug. Nobody may wait for ever.
            for waiting in self._schedule.remove_all():
                _fail(waiting.payload.answer, error)

    def _refuse_expired(self, now: float) -> None:
        """Drop what is past its deadline."""
        depth = self.depth
        for waiting in self._schedule.remove_expired(now):
            self._accounts.count_expired(waiting.job)
            _fail(
                waiting.payload.answer,
                Expired(f"not started within its deadline ({depth} units queued)"),
            )

    async def _wait_for_arrival_or_event(self) -> None:
        """Sleep until something is handed in or given up, is due or expires."""
        self._wake.clear()
        timer = self._clock.call_at(self._schedule.next_event_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _run_pass(self, batch: Sequence[Waiting[Key, _Asked[Item, Result]]]) -> None:
        """One pass; every waiter gets its result or the pass's error."""
        key = batch[0].key
        answers = [waiting.payload.answer for waiting in batch]
        self._accounts.count_pass(batch, self._clock.now())
        self._running = True
        try:
            results = await self._run(key, [waiting.payload.item for waiting in batch])
            if len(results) != len(batch):
                raise WrongCountError(
                    f"pass over {key!r} returned {len(results)} results for {len(batch)} items"
                )
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()
            raise
        except Exception as error:
            for answer in answers:
                _fail(answer, error)
        else:
            for answer, result in zip(answers, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        finally:
            self._running = False


def _fail(answer: "asyncio.Future[Result]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
