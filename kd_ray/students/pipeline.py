"""Keeps a few updates in flight: teachers score the next batch, the student learns this one."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from kd_ray.core.contracts import (
    Busy,
    Generated,
    PendingSignal,
    Signal,
    TeachersGone,
    TeacherSource,
)
from kd_ray.core.exploration import TriedItems
from kd_ray.core.imitation import Items
from kd_ray.speech.batches import GlobalBatches, shard
from kd_ray.students.data import Batch, StudentData
from kd_ray.students.explorer import Explorer
from kd_ray.students.requests import BuildRequest
from kd_ray.students.rollout_memory import Rollouts
from kd_ray.students.rollouts import Planner


@dataclass
class MicroBatch:
    """A batch, the prefixes its decoder reads, the signal it waits for, and whether it counts.

    `items` is None where every utterance is read along its reference. A ghost repeats a row of the
    global batch for a worker that got none, so that every worker takes part in the exchange of
    gradients; its loss is multiplied by zero.
    """

    batch: Batch
    part: int = 0
    """Which micro-batch of the update it is, among those of all workers."""
    ghost: bool = False
    items: Items | None = None
    rollouts: Rollouts = field(default_factory=dict)
    """What the student wrote for these utterances, now or before."""
    pending: PendingSignal[Signal | Generated] | None = None
    asked: bool = False
    settled: bool = False
    """The answer is here and keeps no room in the source, though nobody collected it yet."""


@dataclass
class Update:
    """What one optimiser step on this worker is made of."""

    index: int
    epoch: int
    ends_epoch: bool
    utterance_ids: tuple[str, ...]
    """Of the whole global batch, over all workers."""
    micro_batches: list[MicroBatch] = field(default_factory=list)
    data_s: float = 0.0
    """Seconds spent reading and making features."""
    rollout_s: float = 0.0
    """Seconds in which the student wrote its own prefixes."""
    teacher_wait_s: float = 0.0
    """Seconds the student stood still for its teachers."""
    gone: TeachersGone | TimeoutError | None = None
    """Why it could not be planned; told where its signals are collected, by all workers alike."""


def _rollouts_of(update: Update) -> Rollouts:
    """Over all micro-batches, each of which has utterances of its own."""
    return {
        name: read for micro in update.micro_batches for name, read in micro.rollouts.items()
    }  # fmt: skip


class Pipeline:
    """Yields updates in order, with the signals of `lookahead` later ones already asked for."""

    def __init__(
        self,
        data: StudentData,
        batches: GlobalBatches,
        *,
        total_updates: int,
        lookahead: int,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        source: TeacherSource | None = None,
        request: BuildRequest | None = None,
        planner: Planner | None = None,
        with_audio: bool = False,
        timeout_s: float = 600.0,
    ):
        """`parts`: micro-batches of an update, over all workers, which take turns at them."""
        self.data = data
        self.batches = batches
        self.total_updates = total_updates
        self.lookahead = lookahead
        self.rank = rank
        self.world = world
        self.parts = parts
        self.source = source
        self.request = request
        self.planner = planner
        self.with_audio = with_audio
        self.timeout_s = timeout_s
        self._flying: deque[Update] = deque()

    def updates(self, start: int) -> Iterator[Update]:
        """Updates `start`, `start + 1`, ... to the last one."""
        flying = self._flying
        flying.clear()
        try:
            for index in range(start, self.total_updates):
                while len(flying) <= self.lookahead and index + len(flying) < self.total_updates:
                    flying.append(self._prepare(index + len(flying)))
                    self._ask(flying)
                self._ask(flying)
                yield flying[0]
                flying.popleft()
        finally:
            for update in flying:
                for micro in update.micro_batches:
                    if micro.pending is not None:
                        micro.pending.cancel()

    def rollouts_in_flight(self, done: int) -> dict[str, Rollouts]:
        """Rollouts of this worker for updates from number `done` on, by update.

        They cannot be made again: the weights that they were made from are gone by then.
        Checkpoints keep them.
        """
        return {
            str(update.index): _rollouts_of(update) for update in self._flying
            if update.index >= done
        }  # fmt: skip

    def collect(self, update: Update, timeout_s: float) -> list[Signal | None]:
        """Wait for the signals of an update's micro-batches, in order.

        Where actions were tried, the items learn what they were worth instead.
        """
        if update.gone is not None:
            raise update.gone
        started = time.perf_counter()
        signals: list[Signal | None] = []
        for micro in update.micro_batches:
            if not micro.asked:
                self._ask_one(update, micro)
            answer = None if micro.pending is None else micro.pending.result(timeout_s)
            micro.pending = None
            if isinstance(micro.items, TriedItems):
                assert isinstance(self.planner, Explorer), "it tried the actions"
                assert not isinstance(answer, Signal), "teachers were asked to complete"
                micro.items = self.planner.judge(micro.items, micro.batch, answer)
                answer = None
            assert not isinstance(answer, Generated), "teachers were asked to score"
            signals.append(answer)
        update.teacher_wait_s += time.perf_counter() - started
        return signals

    def _prepare(self, index: int) -> Update:
        started = time.perf_counter()
        epoch, rows = self.batches.at(index)
        last = index + 1 == self.total_updates
        update = Update(
            index=index,
            epoch=epoch,
            ends_epoch=last or self.batches.at(index + 1)[0] != epoch,
            utterance_ids=tuple(self.data.utterances[row].id for row in rows),
        )
        for part, mine in shard(rows, self.rank, self.world, self.parts):
            if mine:
                batch = self.data.batch(mine, with_audio=self.with_audio)
                update.micro_batches.append(MicroBatch(batch, part))
            elif self.world > 1:
                ghost = self.data.batch(rows[:1], with_audio=False)
                update.micro_batches.append(MicroBatch(ghost, part, ghost=True))
        update.data_s = time.perf_counter() - started
        if self.planner is not None:
            started = time.perf_counter()
            for micro in update.micro_batches:
                if not micro.ghost:
                    self._plan(self.planner, update, micro)
            self.planner.remember(index, _rollouts_of(update))
            update.rollout_s = time.perf_counter() - started
        return update

    def _plan(self, planner: Planner, update: Update, micro: MicroBatch) -> None:
        """Decide what the decoder reads; a planner may ask teachers something, and wait."""
        while update.gone is None:
            try:
                micro.items, micro.rollouts = planner.plan(micro.batch, update.index, update.epoch)
            except Busy:
                if not self._settle_one():
                    raise
            except (TeachersGone, TimeoutError) as error:
                update.gone = error
            else:
                return

    def _settle_one(self) -> bool:
        """Wait for the oldest answer in flight, which makes room; whether there was one."""
        for update in self._flying:
            for micro in update.micro_batches:
                if micro.pending is not None and not micro.settled:
                    micro.settled = True
                    try:
                        # It stays with `pending`, for `collect`.
                        micro.pending.result(self.timeout_s)
                    except (TeachersGone, TimeoutError) as error:
                        update.gone = error
                    return True
        return False

    def _ask(self, flying: deque[Update]) -> None:
        """Ask for what was not asked yet, oldest first, until the source says it is busy."""
        for update in flying:
            for micro in update.micro_batches:
                if micro.asked or update.gone is not None:
                    continue
                try:
                    self._ask_one(update, micro)
                except Busy:
                    return

    def _ask_one(self, update: Update, micro: MicroBatch) -> None:
        if self.source is not None and self.request is not None and not micro.ghost:
            request = self.request(micro.batch, micro.items, update.epoch)
            if request is not None:
                micro.pending = self.source.ask(request)
        micro.asked = True
