"""How large a named pool is: looks at its hosts, lets plain policies judge, and says what to plan.

The judgements are `kd_ray.teachers.policies.scaling`; the manager carries the plans out. Hosts that
find no room wait in Ray's queue of pending actors, which is what Ray's autoscaler looks at.
"""

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kd_ray.cluster.pool.plan import PoolPlan, next_plan, weight_bytes
from kd_ray.config.pool import PoolConfig, PoolScaling
from kd_ray.config.sources import HostSettings
from kd_ray.teachers.host import HostStatus
from kd_ray.teachers.policies.scaling import (
    Grow,
    HostLoad,
    PoolSample,
    ScaleLimits,
    Shrink,
    judge_replicas,
    judge_scale,
)

_KEEP_S = 120.0


@dataclass(frozen=True)
class Wish:
    """A plan that the pool should follow, and why."""

    plan: PoolPlan
    reason: str
    resized: bool
    """The number of hosts changes, not only copies of teachers."""


class PoolScaler:
    """Remembers what hosts said of themselves, and judges by it.

    Args:
        config: of the pool.
        scaling: its section of that name.
    """

    def __init__(self, config: PoolConfig, scaling: PoolScaling) -> None:
        self._settings = config.hosts
        self._scaling = scaling
        self._limits = ScaleLimits(
            min_hosts=scaling.min_hosts,
            max_hosts=scaling.max_hosts,
            grow_above_s=scaling.grow_above_s,
            shrink_below_s=scaling.shrink_below_s,
            hold_s=scaling.hold_s,
            cooldown_s=scaling.cooldown_s,
            # Without any job, all hosts leave (`idle_release_s` of the pool).
            idle_release_s=math.inf,
        )
        self._history: list[PoolSample] = []
        self._expired: dict[str, int] = {}
        self._busy: list[tuple[float, Mapping[int, float]]] = []
        self._changed_s = -math.inf

    def look(self, hosts: Mapping[str, HostStatus], jobs: int) -> None:
        """Take a sample of all hosts that answered."""
        now = time.monotonic()
        missed = 0
        for name, status in hosts.items():
            expired = status.batches.expired
            missed += max(0, expired - self._expired.get(name, expired))
            self._expired[name] = expired
        loads = tuple(
            HostLoad(name, queued_seconds(status), status.open_requests)
            for name, status in sorted(hosts.items())
        )
        self._history.append(PoolSample(now, loads, jobs, missed_deadlines=missed))
        busy: Counter[int] = Counter()
        for status in hosts.values():
            busy.update(status.busy_s)
        self._busy.append((now, busy))
        while self._history[0].at_s < now - _KEEP_S:
            self._history.pop(0)
            self._busy.pop(0)

    def judge(self, plan: PoolPlan, given_up: Collection[str] = ()) -> Wish | None:
        """What the pool should be; None: what it is.

        Args:
            plan: what it is.
            given_up: hosts of the plan that are not started again.
        """
        there = set(plan.hosts).difference(given_up)
        if not self._history or {each.name for each in self._history[-1].hosts} != there:
            # A host is down, or has just come: what is missing would be taken for idle.
            return None
        decision = judge_scale(self._history, self._limits, last_change_s=self._changed_s)
        if isinstance(decision, Grow):
            return self._wish(plan, len(plan.hosts) + decision.hosts, (), decision.reason)
        if isinstance(decision, Shrink):
            hosts = len(plan.hosts) - len(decision.hosts)
            return self._wish(plan, hosts, decision.hosts, decision.reason)
        if time.monotonic() - self._changed_s < self._scaling.cooldown_s:
            return None
        copies = self._copies(plan, len(plan.hosts))
        now = copies_of(plan)
        if all(copies[index] == now[index] for index in plan.teachers):
            return None
        after = self._plan(plan, 0, (), copies)
        hot = [f"{index}: {now[index]} -> {copies[index]}" for index in sorted(copies)
               if copies[index] != now[index]]  # fmt: skip
        return Wish(after, f"copies of teachers by their work: {', '.join(hot)}", resized=False)

    def changed(self) -> None:
        """The pool has been changed; what was seen before is no measure any more."""
        self._changed_s = time.monotonic()
        self._history.clear()
        self._busy.clear()

    def _wish(self, plan: PoolPlan, hosts: int, leaving: Sequence[str], reason: str) -> Wish | None:
        copies = self._copies(plan, hosts)
        # A host without a teacher would be of no use.
        hosts = min(hosts, sum(copies.values()))
        more = max(0, hosts - len(plan.hosts))
        if not more and not leaving:
            return None
        return Wish(self._plan(plan, more, leaving, copies), reason, resized=True)

    def _plan(
        self, plan: PoolPlan, more: int, leaving: Sequence[str], copies: Mapping[int, int]
    ) -> PoolPlan:
        return next_plan(
            plan,
            self._settings,
            {index: weight_bytes(folder) for index, folder in plan.teachers.items()},
            more_hosts=more,
            without_hosts=leaving,
            copies=copies,
            load=self._busy_shares(plan) or None,
        )

    def _copies(self, plan: PoolPlan, hosts: int) -> dict[int, int]:
        """Copies of each teacher on so many hosts, at most `max_replicas`."""
        most = min(hosts, max(self._settings.replicas, self._scaling.max_replicas))
        shares = self._busy_shares(plan) or dict.fromkeys(plan.teachers, 0.0)
        judged = judge_replicas(
            shares,
            hosts=hosts,
            current=copies_of(plan),
            at_least=min(hosts, self._settings.replicas),
        )
        return {index: min(most, count) for index, count in judged.copies.items()}

    def _busy_shares(self, plan: PoolPlan) -> dict[int, float]:
        """Seconds of each teacher's computation in a second of the time that is remembered."""
        if len(self._busy) < 2:
            return {}
        (first_s, first), (last_s, last) = self._busy[0], self._busy[-1]
        if last_s - first_s < self._scaling.hold_s:
            return {}
        # A host that was started again counts from 0: less than nothing is nothing.
        return {
            index: max(0.0, last.get(index, 0.0) - first.get(index, 0.0)) / (last_s - first_s)
            for index in plan.teachers
        }


def copies_of(plan: PoolPlan) -> Counter[int]:
    """How many hosts have each teacher."""
    return Counter(index for teachers in plan.hosts.values() for index in teachers)


def queued_seconds(status: HostStatus) -> float:
    """Seconds of computation that wait at a host, by what its work took so far."""
    teacher_s = sum(cost.teacher_s for cost in status.costs.values())
    rows = sum(cost.rows - cost.known_rows for cost in status.costs.values())
    return status.queued_utterances * teacher_s / rows if rows else 0.0


def healed(plan: PoolPlan, settings: HostSettings) -> PoolPlan:
    """The same plan anew, for hosts that came back without what has changed meanwhile."""
    sizes = {index: weight_bytes(folder) for index, folder in plan.teachers.items()}
    return next_plan(plan, settings, sizes, copies=copies_of(plan))
