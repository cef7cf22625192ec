"""How many hosts a pool has, and how many copies a teacher.

A pool grows when work waits too long or deadlines are missed, and shrinks when it idles. Between
the two thresholds it stays (hysteresis); every sample of the last `hold_s` must agree, and a
change is given `cooldown_s` to show its effect. Times in seconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HostLoad:
    """One host in a sample."""

    name: str
    queued_s: float
    """Seconds of teacher computation that wait."""
    open_requests: int = 0


@dataclass(frozen=True)
class PoolSample:
    """A pool at one moment."""

    at_s: float
    hosts: tuple[HostLoad, ...]
    jobs: int
    """Attached now."""
    waiting_requests: int = 0
    """That no host has taken yet, as where there are no hosts."""
    missed_deadlines: int = 0
    """Since the sample before."""

    @property
    def queued_s(self) -> float:
        """Of all hosts together."""
        return math.fsum(host.queued_s for host in self.hosts)

    @property
    def idle(self) -> bool:
        """No job, and nothing left of one."""
        busy = any(host.queued_s > 0 or host.open_requests for host in self.hosts)
        return self.jobs == 0 and not self.waiting_requests and not busy


@dataclass(frozen=True)
class ScaleLimits:
    """What a pool's configuration says about its size."""

    min_hosts: int
    max_hosts: int
    grow_above_s: float = 2.0
    """Queued seconds per host that are too many."""
    shrink_below_s: float = 0.2
    """Queued seconds per host, were there one host less, that are few enough."""
    hold_s: float = 10.0
    cooldown_s: float = 30.0
    idle_release_s: float = 300.0
    """Without any job for so long, the pool goes down to `min_hosts`."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_hosts <= self.max_hosts or self.max_hosts < 1:
            raise ValueError(
                f"min_hosts ({self.min_hosts}) must be from 0 to max_hosts ({self.max_hosts}), "
                "and max_hosts at least 1"
            )
        if not 0 <= self.shrink_below_s < self.grow_above_s:
            raise ValueError(
                f"shrink_below_s ({self.shrink_below_s:g}) must be below grow_above_s "
                f"({self.grow_above_s:g}), or the pool would grow and shrink in turn"
            )


@dataclass(frozen=True)
class Stay:
    """The pool is as large as it should be."""

    reason: str


@dataclass(frozen=True)
class Grow:
    """So many hosts more."""

    hosts: int
    reason: str


@dataclass(frozen=True)
class Shrink:
    """These hosts are drained and leave."""

    hosts: tuple[str, ...]
    reason: str


def judge_scale(
    history: Sequence[PoolSample], limits: ScaleLimits, *, last_change_s: float = -math.inf
) -> Stay | Grow | Shrink:
    """Is the pool as large as it should be?

    Args:
        history: samples in order of time, the last one now; at least back to `hold_s` and, for
            release, to `idle_release_s` ago.
        limits: what is allowed.
        last_change_s: when the number of hosts last changed, on the clock of the samples.
    """
    now = history[-1]
    count = len(now.hosts)
    if count < limits.min_hosts:
        missing = limits.min_hosts - count
        return Grow(missing, f"{count} hosts, min_hosts is {limits.min_hosts}")
    if count > limits.max_hosts:
        return _shrink(now, count - limits.max_hosts, f"max_hosts is {limits.max_hosts}")
    if count == 0:
        if now.idle:
            return Stay("no hosts and no jobs")
        return Grow(1, f"{now.jobs} jobs, {now.waiting_requests} requests and no hosts")
    idle_s = _idle_s(history)
    if count > limits.min_hosts and idle_s >= limits.idle_release_s:
        reason = f"no job for {idle_s:.0f} s, idle_release_s is {limits.idle_release_s:g}"
        return _shrink(now, count - limits.min_hosts, reason)
    since_s = now.at_s - last_change_s
    if since_s < limits.cooldown_s:
        return Stay(f"{since_s:.0f} s since the last change, cooldown_s is {limits.cooldown_s:g}")
    held = [sample for sample in history if sample.at_s >= now.at_s - limits.hold_s]
    if history[0].at_s > now.at_s - limits.hold_s:
        return Stay(f"seen for {now.at_s - history[0].at_s:.0f} s, hold_s is {limits.hold_s:g}")
    return _by_load(held, limits)


def _by_load(held: Sequence[PoolSample], limits: ScaleLimits) -> Stay | Grow | Shrink:
    """Grow or shrink if every sample that is held says so."""
    now = held[-1]
    count = len(now.hosts)
    least_s = min(sample.queued_s for sample in held) / count
    missed = sum(sample.missed_deadlines for sample in held)
    # Deadlines missed without a queue are no lack of hosts: they are too short, or a host hangs.
    late = missed > 0 and least_s > limits.shrink_below_s
    if least_s > limits.grow_above_s or late:
        reason = (
            f"at least {least_s:.2f} s queued per host for {limits.hold_s:g} s (grow_above_s is "
            f"{limits.grow_above_s:g}), {missed} deadlines missed"
        )
        # In proportion to the queue, but at most twice as many at a time.
        wish = math.ceil(count * (least_s / limits.grow_above_s - 1))
        more = min(max(1, min(count, wish)), limits.max_hosts - count)
        return Grow(more, reason) if more else Stay(f"max_hosts is reached; {reason}")
    if count == max(1, limits.min_hosts):
        return Stay(f"{least_s:.2f} s queued per host, {count} hosts are the fewest while jobs run")
    most_s = max(sample.queued_s for sample in held) / (count - 1)
    if not missed and most_s < limits.shrink_below_s:
        reason = (
            f"{count - 1} hosts would have at most {most_s:.2f} s queued each for "
            f"{limits.hold_s:g} s, shrink_below_s is {limits.shrink_below_s:g}"
        )
        return _shrink(now, 1, reason)
    return Stay(
        f"{least_s:.2f} s queued per host, between shrink_below_s and grow_above_s, "
        f"{missed} deadlines missed"
    )


def _shrink(now: PoolSample, surplus: int, reason: str) -> Shrink:
    """Those leave that have least to finish."""
    leaving = sorted(now.hosts, key=lambda host: (host.open_requests, host.queued_s, host.name))
    names = tuple(sorted(host.name for host in leaving[:surplus]))
    return Shrink(names, f"{len(now.hosts)} hosts: {reason}")


def _idle_s(history: Sequence[PoolSample]) -> float:
    """How long the pool has been idle without a break."""
    began_s = math.inf
    for sample in reversed(history):
        if not sample.idle:
            break
        began_s = sample.at_s
    return history[-1].at_s - began_s if began_s < math.inf else 0.0


@dataclass(frozen=True)
class Replicas:
    """Copies of each teacher."""

    copies: Mapping[int, int]
    reason: str


def judge_replicas(
    busy: Mapping[int, float],
    *,
    hosts: int,
    current: Mapping[int, int] | None = None,
    at_least: int = 1,
    busy_per_copy: float = 0.7,
) -> Replicas:
    """How many copies each teacher should have: one for every `busy_per_copy` of a host it fills.

    Args:
        busy: seconds of its computation in a second, all copies together (1: a whole host).
        hosts: that are up; no teacher has two copies on one.
        current: copies now. One is taken away only if the others would stay below 0.7 of
            `busy_per_copy`, so that copies do not come and go.
        at_least: copies of every teacher, against the loss of hosts.
        busy_per_copy: more than this makes a teacher hot.
    """
    if hosts < 1 or at_least < 1 or not 0 < busy_per_copy <= 1:
        raise ValueError(
            f"copies need hosts, at_least 1 and busy_per_copy in (0, 1]; got {hosts} hosts, "
            f"at_least {at_least}, busy_per_copy {busy_per_copy:g}"
        )
    copies = {}
    for teacher, share in sorted(busy.items()):
        wanted = max(1, math.ceil(share / busy_per_copy - 1e-9))
        # As many as would be wanted if copies were fuller: what is there may stay up to here.
        tolerated = math.ceil(share / (0.7 * busy_per_copy) - 1e-9)
        have = (current or {}).get(teacher, 1)
        kept = max(wanted, min(have, tolerated))
        copies[teacher] = min(hosts, max(at_least, kept))
    more = {teacher: count for teacher, count in copies.items() if count > at_least}
    hot = ", ".join(f"{teacher} ({busy[teacher]:.2f}): {count}" for teacher, count in more.items())
    return Replicas(
        copies,
        f"{len(copies)} teachers, at least {at_least} copies each on {hosts} hosts; "
        f"hot teachers (busy share): {hot or 'none'}",
    )
