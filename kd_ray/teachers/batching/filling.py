"""Which of the items that wait in a queue share the next pass."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kd_ray.teachers.batching.fairness import Flow

Key = TypeVar("Key")
Payload = TypeVar("Payload")


@dataclass(eq=False, slots=True)
class Waiting(Generic[Key, Payload]):
    """An item in its queue. Times in seconds of the batcher's clock."""

    key: Key
    payload: Payload
    job: str
    size: int
    """Utterances."""
    length: int
    """Frames or tokens of its longest row; 0 where that is not known."""
    priority: int
    arrived: int
    """Running number."""
    arrived_s: float
    due_s: float
    """From here on its batch starts even if it is not full."""
    expires_s: float
    is_due: bool = False
    waits: bool = True
    """False once it was taken or given up."""
    passed_over: int = 0
    """Passes in which a younger item of the same job and queue was taken instead."""

    @property
    def cost(self) -> int:
        """What its job is charged: its padded area, or its utterances where no length is known."""
        return self.size * (self.length or 1)


@dataclass(frozen=True)
class Limits:
    """Of one pass.

    Attributes:
        max_size: utterances.
        max_padded: utterances x longest length, None for any.
        look_ahead: companions are sought among this many oldest items of each job (among as many as
            fit into a pass, if that is more).
        max_passed_over: how often an item may be passed over.
    """

    max_size: int
    max_padded: int | None = None
    look_ahead: int = 128
    max_passed_over: int = 8

    def __post_init__(self) -> None:
        for name in ("max_size", "max_padded", "look_ahead"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.max_passed_over < 0:
            raise ValueError(f"max_passed_over must be at least 0, got {self.max_passed_over}")


def fill(
    slots: Mapping[Flow, Sequence[Waiting[Key, Payload]]],
    limits: Limits,
    charge: Callable[[Flow, float], None],
) -> list[Waiting[Key, Payload]]:
    """Choose the items of a pass, the one whose turn it is first, and charge their flows.

    Jobs take turns as they would without a batch: the flow with the lowest rank gives the next
    item. Among its own items it gives the one nearest in length to the first item of the pass, so
    that a batch costs no job its share. Nothing is taken out of `slots`; they are never empty, each
    in the order of arrival.
    """
    turns = [(flow.rank(slot[0].arrived), flow) for flow, slot in slots.items()]
    heapq.heapify(turns)
    first = slots[turns[0][1]][0]
    batch: list[Waiting[Key, Payload]] = []
    givers: dict[Flow, _Giver[Key, Payload]] = {}
    size = longest = 0

    def fits(waiting: Waiting[Key, Payload]) -> bool:
        if waiting is first:
            return True
        rows = size + waiting.size
        return rows <= limits.max_size and (
            limits.max_padded is None or rows * max(longest, waiting.length) <= limits.max_padded
        )

    while turns and (not batch or size < limits.max_size):
        flow = turns[0][1]
        if flow not in givers:
            givers[flow] = _Giver(slots[flow], first, limits)
        waiting = givers[flow].give(fits)
        if waiting is None:
            heapq.heappop(turns)
            continue
        batch.append(waiting)
        size += waiting.size
        longest = max(longest, waiting.length)
        charge(flow, waiting.cost)
        heapq.heapreplace(turns, (flow.rank(slots[flow][0].arrived), flow))
    for giver in givers.values():
        giver.count_passed_over()
    return batch


class _Giver(Generic[Key, Payload]):
    """Offers the items of one flow for a pass, each at most once."""

    def __init__(
        self,
        slot: Sequence[Waiting[Key, Payload]],
        first: Waiting[Key, Payload],
        limits: Limits,
    ) -> None:
        self._max_passed_over = limits.max_passed_over
        self._window = slot[: max(limits.look_ahead, limits.max_size)]
        self._offers: Iterator[Waiting[Key, Payload]] = iter(
            sorted(self._window, key=lambda waiting: self._preference(waiting, first))
        )
        # What may not be passed over any more bars the way for everything younger.
        self._youngest = self._window[-1].arrived
        self._given: set[int] = set()

    def _preference(
        self, waiting: Waiting[Key, Payload], first: Waiting[Key, Payload]
    ) -> tuple[int, int, int]:
        if waiting is first:
            return 0, 0, waiting.arrived
        if self._held(waiting):
            return 1, 0, waiting.arrived
        return 2, abs(waiting.length - first.length), waiting.arrived

    def _held(self, waiting: Waiting[Key, Payload]) -> bool:
        return waiting.passed_over >= self._max_passed_over

    def give(self, fits: Callable[[Waiting[Key, Payload]], bool]) -> Waiting[Key, Payload] | None:
        """The next item that fits. What did not fit will not later on: a pass only grows."""
        for waiting in self._offers:
            if waiting.arrived > self._youngest:
                continue
            if fits(waiting):
                self._given.add(waiting.arrived)
                return waiting
            if self._held(waiting):
                self._youngest = waiting.arrived
        return None

    def count_passed_over(self) -> None:
        """Remember who stayed behind while somebody younger went."""
        youngest = max(self._given, default=-1)
        for waiting in self._window:
            if waiting.arrived >= youngest:
                break
            if waiting.arrived not in self._given:
                waiting.passed_over += 1
