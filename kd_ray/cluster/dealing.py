"""Which worker gets which batch: plain bookkeeping, no Ray."""

from collections import Counter, deque

_IN_FLIGHT = 2
"""Batches that a worker has at a time: one that it works at, and one that waits for it."""


class Dealing:
    """Deals batches to workers that join one by one, and some of them perhaps never.

    Args:
        batches: numbered from 0, and dealt in this order.
        workers: numbered from 0; how many may join.
    """

    def __init__(self, batches: int, workers: int) -> None:
        self._waiting = deque(range(batches))
        self._left = set(range(batches))
        self._absent = set(range(workers))
        self._has: dict[int, list[int]] = {}

    @property
    def is_over(self) -> bool:
        """Whether each batch is done."""
        return not self._left

    @property
    def joined(self) -> int:
        """How many workers have."""
        return len(self._has)

    def join(self, worker: int) -> None:
        """A worker is up."""
        self._absent.discard(worker)
        self._has[worker] = []

    def deal(self) -> list[tuple[int, int]]:
        """Workers and the batches that they are to get now.

        Nobody gets a second one that a worker without any could take, be it one that has not joined
        yet: a short split is to be spread over all of them.
        """
        dealt = []
        for load in range(_IN_FLIGHT):
            for worker, has in self._has.items():
                reserved = len(self._absent) if load else 0
                if len(has) == load and len(self._waiting) > reserved:
                    has.append(self._waiting.popleft())
                    dealt.append((worker, has[-1]))
        return dealt

    def done(self, worker: int, batch: int) -> bool:
        """A worker is through with a batch; whether it is the first one that is."""
        self._has[worker].remove(batch)
        first = batch in self._left
        self._left.discard(batch)
        return first

    def copies(self) -> list[tuple[int, int]]:
        """Idle workers, and unfinished batches of others that they are to get as well.

        For when nothing has come for long: the process that has them may be gone for good. Those go
        first that the fewest have.
        """
        dealt = []
        for worker, has in self._has.items():
            if has or self._waiting:
                continue
            held = Counter(batch for others in self._has.values() for batch in others)
            batch = min(self._left & held.keys(), key=lambda each: (held[each], each), default=None)
            if batch is not None:
                has.append(batch)
                dealt.append((worker, batch))
        return dealt
