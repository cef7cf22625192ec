"""Hosts that fall silent, fail or die: when they are started again, and who answers meanwhile.

Times in seconds on one clock.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Death:
    """A host's process ended without being asked to."""

    at_s: float
    out_of_memory: bool = False


@dataclass(frozen=True)
class HostRecord:
    """What is known of a host."""

    name: str
    heartbeat_age_s: float
    """Since it last said anything."""
    consecutive_failures: int = 0
    """Requests that it failed or kept past their deadline, since the last that it answered."""
    dead: str | None = None
    """Why its process is gone, if it is; its death is the last of `deaths`."""
    deaths: Sequence[Death] = ()
    """Of this host and of those it replaced, in order of time."""


@dataclass(frozen=True)
class HealthLimits:
    """How patient a pool is with its hosts."""

    suspect_after_s: float = 2.0
    """Silence after which replicas are asked instead."""
    hung_after_s: float = 10.0
    """Silence after which the process is ended and started again."""
    suspect_failures: int = 1
    respawn_failures: int = 3
    backoff_s: float = 1.0
    """Wait before the first respawn; doubled with each further death within the window."""
    max_backoff_s: float = 60.0
    max_deaths: int = 5
    """A host that dies so often within `window_s` is given up."""
    window_s: float = 600.0
    memory_factor: float = 0.7
    """After dying of memory, a host keeps so much of the bytes of teachers it kept before."""

    def __post_init__(self) -> None:
        if not 0 < self.suspect_after_s <= self.hung_after_s:
            raise ValueError(
                f"suspect_after_s ({self.suspect_after_s:g}) must be above 0 and at most "
                f"hung_after_s ({self.hung_after_s:g})"
            )


@dataclass(frozen=True)
class Healthy:
    """The host is asked."""

    reason: str


@dataclass(frozen=True)
class Suspect:
    """Others are asked first, while it may recover."""

    reason: str


@dataclass(frozen=True)
class Respawn:
    """The process is ended if it lives, and started again in `wait_s`."""

    wait_s: float
    memory_share: float
    """Of the configured bytes for teachers; below 1 after deaths of memory."""
    reason: str


@dataclass(frozen=True)
class GiveUpHost:
    """It is not started again; its teachers are placed elsewhere, or are missing."""

    reason: str


def judge_host_health(
    record: HostRecord, limits: HealthLimits, now_s: float
) -> Healthy | Suspect | Respawn | GiveUpHost:
    """Is a host in order, and if not, what is done about it?"""
    if record.dead is not None:
        return _after_death(record, record.dead, limits, now_s)
    age_s, failures = record.heartbeat_age_s, record.consecutive_failures
    if age_s >= limits.hung_after_s:
        cause = f"silent for {age_s:.1f} s, hung_after_s is {limits.hung_after_s:g}"
        return _after_death(record, cause, limits, now_s, ended=True)
    if failures >= limits.respawn_failures:
        cause = f"{failures} failures in a row, allowed are {limits.respawn_failures - 1}"
        return _after_death(record, cause, limits, now_s, ended=True)
    if age_s >= limits.suspect_after_s:
        return Suspect(
            f"{record.name}: silent for {age_s:.1f} s, suspect_after_s is "
            f"{limits.suspect_after_s:g}"
        )
    if failures >= limits.suspect_failures:
        return Suspect(f"{record.name}: {failures} failures in a row")
    return Healthy(f"{record.name}: heard {age_s:.1f} s ago")


def _after_death(
    record: HostRecord, cause: str, limits: HealthLimits, now_s: float, *, ended: bool = False
) -> Respawn | GiveUpHost:
    """Start again, later each time, or never.

    `ended`: the process is still to be ended, so that `deaths` does not know of it yet.
    """
    recent = [death for death in record.deaths if death.at_s > now_s - limits.window_s]
    count = len(recent) + ended
    history = f"{record.name}: {cause}; death {count} within {limits.window_s:g} s"
    if count >= limits.max_deaths:
        return GiveUpHost(f"{history}, given up at {limits.max_deaths}")
    wait_s = min(limits.max_backoff_s, limits.backoff_s * 2.0 ** (max(count, 1) - 1))
    share = limits.memory_factor ** sum(death.out_of_memory for death in recent)
    memory = f" with {share:.2f} of its bytes for teachers" if share < 1 else ""
    return Respawn(wait_s, share, f"{history}, started again in {wait_s:g} s{memory}")


@dataclass(frozen=True)
class ReplicaLoad:
    """A host that could answer, as its client sees it."""

    open_requests: int
    failures: int = 0
    """In a row; a suspected host has at least one."""
    same_node: bool = False


@dataclass(frozen=True)
class Pick:
    """Who is asked."""

    host: str
    reason: str


@dataclass(frozen=True)
class NoReplica:
    """Nobody is left to ask."""

    reason: str


def pick_replica(
    candidates: Mapping[str, ReplicaLoad], tried: Collection[str], generator: random.Random
) -> Pick | NoReplica:
    """The less loaded of two that are drawn; nobody twice, those without failures first.

    Two draws instead of the least loaded of all: clients that all see the same old loads would
    otherwise all run to the same host (Mitzenmacher 2001, "The power of two choices").
    """
    left = sorted(set(candidates) - set(tried))
    if not left:
        return NoReplica(f"all {len(candidates)} replicas were tried")
    fewest = min(candidates[name].failures for name in left)
    sound = [name for name in left if candidates[name].failures == fewest]
    drawn = generator.sample(sound, min(2, len(sound)))
    best = min(
        drawn,
        key=lambda name: (candidates[name].open_requests, not candidates[name].same_node, name),
    )
    load = candidates[best]
    return Pick(
        best,
        f"{best}: {load.open_requests} open requests, {load.failures} failures, "
        f"{'same' if load.same_node else 'another'} node, drawn from {len(sound)} of "
        f"{len(candidates)} replicas, {len(candidates) - len(left)} tried",
    )
