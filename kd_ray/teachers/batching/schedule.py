"""What waits, and what runs next. Neither tasks nor time of its own: callers say what time it is.

A pass costs O(queues of the job whose turn it is + jobs + items looked at), so that hundreds of
queues are no burden; with `choose`, O(ready queues x jobs that wait in them).
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from kd_ray.teachers.batching.alarms import Alarms
from kd_ray.teachers.batching.fairness import Flow, Rank, Shares
from kd_ray.teachers.batching.filling import Limits, Waiting, fill

Key = TypeVar("Key", bound=Hashable)
Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True)
class Ready(Generic[Key]):
    """A queue that is full or due."""

    key: Key
    rank: Rank
    """Of its best item; the smallest goes first."""
    units: int
    """Utterances that wait in it."""
    oldest_s: float
    """How long its oldest item has waited."""


Choose: TypeAlias = Callable[[Sequence[Ready[Key]]], Key]
"""Says which of the ready queues (at least one) runs next."""


@dataclass(eq=False, slots=True)
class _Line(Generic[Key, Payload]):
    """What waits under one key: by flow, in order of arrival, no flow without items."""

    key: Key
    slots: dict[Flow, list[Waiting[Key, Payload]]] = field(default_factory=dict)
    units: int = 0
    area: int = 0
    """Sum of size x length."""
    due: int = 0
    """Items whose time has come."""


class Schedule(Generic[Key, Payload]):
    """Items that wait in queues, and whose turn it is.

    Args:
        limits: of a pass.
        patience_s: an item that has waited longer counts as of the highest priority that waits,
            and shares it by its job's weight; None for never.
        choose: picks the ready queue to run next; default: the one with the best-ranked item.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        patience_s: float | None = None,
        choose: Choose[Key] | None = None,
    ) -> None:
        if patience_s is not None and patience_s < 0:
            raise ValueError(f"patience_s must be at least 0, got {patience_s}")
        self.shares = Shares()
        self._limits = limits
        self._patience_s = float("inf") if patience_s is None else patience_s
        self._choose = choose
        self._lines: dict[Key, _Line[Key, Payload]] = {}
        self._by_flow: dict[Flow, dict[Key, list[Waiting[Key, Payload]]]] = {}
        """The lines' slots, the other way round."""
        self._ready: dict[Key, _Line[Key, Payload]] = {}
        self._due: Alarms[Key, Payload] = Alarms()
        self._expiring: Alarms[Key, Payload] = Alarms()
        self._patience: Alarms[Key, Payload] = Alarms()
        self._overdue: dict[int, Waiting[Key, Payload]] = {}
        self._top: int | None = None
        """The priority that overdue items have now."""
        self._units = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def units(self) -> int:
        """Utterances that wait."""
        return self._units

    @property
    def units_by_key(self) -> dict[Key, int]:
        """Utterances that wait in each queue."""
        return {key: line.units for key, line in self._lines.items()}

    @property
    def units_by_job(self) -> dict[str, int]:
        """Utterances that wait for each job."""
        units: dict[str, int] = {}
        for flow, slots in self._by_flow.items():
            mine = sum(waiting.size for slot in slots.values() for waiting in slot)
            units[flow.job] = units.get(flow.job, 0) + mine
        return units

    @property
    def next_event_s(self) -> float:
        """When the first queue becomes due or the first item expires."""
        return min(self._due.first_s(), self._expiring.first_s())

    def add(self, waiting: Waiting[Key, Payload]) -> None:
        """One more item waits."""
        line = self._lines.setdefault(waiting.key, _Line(waiting.key))
        line.units += waiting.size
        line.area += waiting.size * waiting.length
        self._units += waiting.size
        self._enlist(line, waiting)
        self._due.push(waiting.due_s, waiting)
        self._expiring.push(waiting.expires_s, waiting)
        self._patience.push(waiting.arrived_s + self._patience_s, waiting)
        self._note_readiness(line)

    def remove(self, waiting: Waiting[Key, Payload]) -> None:
        """An item waits no more."""
        line = self._lines[waiting.key]
        waiting.waits = False
        self._delist(line, waiting)
        self._overdue.pop(waiting.arrived, None)
        line.units -= waiting.size
        line.area -= waiting.size * waiting.length
        line.due -= waiting.is_due
        self._units -= waiting.size
        if not line.slots:
            del self._lines[waiting.key]
        self._note_readiness(line)

    def remove_all(self) -> list[Waiting[Key, Payload]]:
        """Nothing waits any more; returns what did."""
        return self._remove_each(
            [each for line in self._lines.values() for slot in line.slots.values() for each in slot]
        )

    def remove_expired(self, now: float) -> list[Waiting[Key, Payload]]:
        """Drop what is past its deadline; returns it."""
        return self._remove_each(list(self._expiring.ring(now)))

    def next_batch(self, now: float) -> list[Waiting[Key, Payload]]:
        """Take out what runs next, all of one queue; empty if no queue is full or due.

        Call it only while nothing runs.

        Raises:
            ValueError: `choose` named a queue that is not ready.
        """
        self.shares.settle()
        for waiting in self._due.ring(now):
            waiting.is_due = True
            line = self._lines[waiting.key]
            line.due += 1
            self._note_readiness(line)
        self._promote(now)
        if not self._ready:
            return []
        line = self._best_line() if self._choose is None else self._chosen_line(self._choose, now)
        return self._remove_each(fill(line.slots, self._limits, self.shares.charge))

    def _remove_each(self, batch: list[Waiting[Key, Payload]]) -> list[Waiting[Key, Payload]]:
        for waiting in batch:
            self.remove(waiting)
        return batch

    def _best_line(self) -> _Line[Key, Payload]:
        """The ready queue with the best-ranked item."""
        best: tuple[Rank, Key] | None = None
        # Arrival 0 comes before every item, so that this is a bound for the flow's items.
        for bound, flow in sorted(
            ((flow.rank(0), flow) for flow in self._by_flow), key=lambda entry: entry[0]
        ):
            if best is not None and best[0] < bound:
                break
            heads = (
                (slot[0].arrived, key)
                for key, slot in self._by_flow[flow].items()
                if key in self._ready
            )
            head = min(heads, key=lambda entry: entry[0], default=None)
            if head is not None and (best is None or flow.rank(head[0]) < best[0]):
                best = flow.rank(head[0]), head[1]
        assert best is not None, "a ready queue has items"
        return self._ready[best[1]]

    def _chosen_line(self, choose: Choose[Key], now: float) -> _Line[Key, Payload]:
        ready = [self._describe(line, now) for line in self._ready.values()]
        key = choose(ready)
        if key not in self._ready:
            raise ValueError(
                f"choose named queue {key!r}, which is not among the {len(ready)} ready ones: "
                "return the key of one of them"
            )
        return self._ready[key]

    def _describe(self, line: _Line[Key, Payload], now: float) -> Ready[Key]:
        heads = [(flow, slot[0]) for flow, slot in line.slots.items()]
        return Ready(
            line.key,
            rank=min(flow.rank(head.arrived) for flow, head in heads),
            units=line.units,
            oldest_s=now - min(head.arrived_s for _, head in heads),
        )

    def _promote(self, now: float) -> None:
        """Give what has waited too long the highest priority that waits."""
        late = {waiting.arrived: waiting for waiting in self._patience.ring(now)}
        self._overdue.update(late)
        if not self._overdue:
            return
        top = max(flow.priority for flow in self._by_flow)
        if not late and top == self._top:
            return
        self._top = top
        for waiting in self._overdue.values():
            if waiting.priority < top:
                line = self._lines[waiting.key]
                self._delist(line, waiting)
                waiting.priority = top
                self._enlist(line, waiting)

    def _enlist(self, line: _Line[Key, Payload], waiting: Waiting[Key, Payload]) -> None:
        """Put an item into its flow."""
        flow = self.shares.flow(waiting.priority, waiting.job)
        self.shares.enter(flow)
        slot = line.slots.setdefault(flow, [])
        self._by_flow.setdefault(flow, {})[line.key] = slot
        if slot and slot[-1].arrived > waiting.arrived:
            slot.insert(_place(slot, waiting), waiting)
        else:
            slot.append(waiting)

    def _delist(self, line: _Line[Key, Payload], waiting: Waiting[Key, Payload]) -> None:
        """Take an item out of its flow."""
        flow = self.shares.flow(waiting.priority, waiting.job)
        self.shares.leave(flow)
        slot = line.slots[flow]
        del slot[_place(slot, waiting)]
        if not slot:
            del line.slots[flow]
            del self._by_flow[flow][line.key]
            if not self._by_flow[flow]:
                del self._by_flow[flow]

    def _note_readiness(self, line: _Line[Key, Payload]) -> None:
        max_padded = self._limits.max_padded
        full = line.units >= self._limits.max_size or (
            max_padded is not None and line.area >= max_padded
        )
        if line.slots and (full or line.due):
            self._ready[line.key] = line
        else:
            self._ready.pop(line.key, None)


def _place(slot: Sequence[Waiting[Key, Payload]], waiting: Waiting[Key, Payload]) -> int:
    """Where an item is, or belongs, in the order of arrival."""
    return bisect_left(slot, waiting.arrived, key=lambda each: each.arrived)
