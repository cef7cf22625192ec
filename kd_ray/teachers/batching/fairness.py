"""Shares of a machine between jobs: start-time fair queueing (Goyal, Vin & Cheng 1996).

Priorities come first; the jobs of one priority share by weight. Each of them has a flow with a
start tag, a point in virtual time. The flow with the lowest tag is served next; serving an item
moves its tag on by cost / weight. Virtual time is the lowest tag among the flows that wait, and a
flow that begins to wait starts no earlier: nobody saves up credit while idle.

The paper tags items when they arrive. Here a flow knows only the tag of its next item, and an item
is charged when it is taken. Where a job's items are taken first come, first served, both are the
same; but here a batch may take them in any order, what is cancelled was never charged, and a new
weight counts from the next item.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Rank(NamedTuple):
    """Whose turn it is: the smallest goes first."""

    below: int
    """Negative priority."""
    start: float
    """Start tag: virtual time of its job."""
    arrived: int
    """Running number."""


@dataclass(eq=False, slots=True)
class Flow:
    """The items of one job at one priority."""

    priority: int
    job: str
    start: float = 0.0
    """Tag of its next item."""
    waiting: int = 0

    def rank(self, arrived: int) -> Rank:
        """Of its item with this number."""
        return Rank(-self.priority, self.start, arrived)


class Shares:
    """Weights of jobs, and the tags of those that have work; the rest is forgotten."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._flows: dict[tuple[int, str], Flow] = {}
        self._virtual: dict[int, float] = {}
        """Virtual time by priority."""

    @property
    def flows(self) -> Iterable[Flow]:
        """Those that wait, and those that are still ahead of virtual time."""
        return self._flows.values()

    def weight(self, job: str) -> float:
        """A job's share in relation to those of the others; 1 unless set."""
        return self._weights.get(job, 1.0)

    def set_weight(self, job: str, weight: float) -> None:
        """Counts from the job's next item.

        Raises:
            ValueError: the weight is not a positive number.
        """
        if not 0 < weight < math.inf:
            raise ValueError(f"job {job!r}: weight must be a number above 0, got {weight}")
        self._weights[job] = weight

    def forget(self, job: str) -> None:
        """Drop a job's weight."""
        self._weights.pop(job, None)

    def flow(self, priority: int, job: str) -> Flow:
        """The flow that an item of this job is in, or comes into."""
        return self._flows.setdefault((priority, job), Flow(priority, job))

    def enter(self, flow: Flow) -> None:
        """One more item waits."""
        if not flow.waiting:
            flow.start = max(flow.start, self._virtual.get(flow.priority, 0.0))
        flow.waiting += 1

    def leave(self, flow: Flow) -> None:
        """One item less waits, served or not."""
        flow.waiting -= 1

    def charge(self, flow: Flow, cost: float) -> None:
        """An item of this cost is served."""
        flow.start += cost / self.weight(flow.job)

    def settle(self) -> None:
        """Move virtual time on, and forget flows that it has caught up with.

        Call it while nothing runs: a priority with nothing waiting is then idle, and begins anew.
        """
        lowest: dict[int, float] = {}
        for flow in self._flows.values():
            if flow.waiting:
                lowest[flow.priority] = min(flow.start, lowest.get(flow.priority, math.inf))
        self._virtual = {
            priority: max(start, self._virtual.get(priority, 0.0))
            for priority, start in lowest.items()
        }
        self._flows = {
            key: flow
            for key, flow in self._flows.items()
            if flow.waiting or flow.start > self._virtual.get(flow.priority, math.inf)
        }
