"""What to do when: decisions about hosts, quorum and bytes, as plain functions.

They see a status and return a decision object with its reason; carrying it out (and logging it)
is the caller's part. Times in seconds, teachers by their index in the list.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Proceed:
    """Enough teachers answered; `missing` ones are left out, weights renormalised."""

    answered: tuple[int, ...]
    missing: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """Too few teachers answered."""

    answered: tuple[int, ...]
    missing: tuple[int, ...]
    reason: str


def required_teachers(num_teachers: int, quorum: float) -> int:
    """The smallest number of teachers that satisfies `quorum` (a share of all); at least one."""
    # 1e-9: 0.7 * 10 is a hair above 7 in binary.
    return max(1, math.ceil(quorum * num_teachers - 1e-9))


def judge_quorum(answered: Sequence[int], num_teachers: int, quorum: float) -> Proceed | GiveUp:
    """Are the teachers that answered enough?"""
    have = tuple(sorted(answered))
    missing = tuple(index for index in range(num_teachers) if index not in set(have))
    needed = required_teachers(num_teachers, quorum)
    reason = f"{len(have)} of {num_teachers} teachers answered, quorum {quorum:g} asks for {needed}"
    return (Proceed if len(have) >= needed else GiveUp)(have, missing, reason)


def judge_alone(teacher: int, answered: Sequence[int]) -> Proceed | GiveUp:
    """Did the one teacher that was asked answer?"""
    if teacher in answered:
        return Proceed((teacher,), (), f"teacher {teacher} was asked, and answered")
    return GiveUp((), (teacher,), f"teacher {teacher} was asked alone, and did not answer")


@dataclass(frozen=True)
class KeepWaiting:
    """The host may still answer, for `remaining_s`."""

    remaining_s: float


@dataclass(frozen=True)
class LeaveOut:
    """The host is not asked again."""

    reason: str


def judge_host(failure: str | None, waited_s: float, deadline_s: float) -> KeepWaiting | LeaveOut:
    """What becomes of a host that has not answered: `failure` says what Ray reported, if it did."""
    if failure is not None:
        return LeaveOut(failure)
    if waited_s >= deadline_s:
        return LeaveOut(f"no answer after {waited_s:.1f} s, deadline {deadline_s:g} s")
    return KeepWaiting(deadline_s - waited_s)


@dataclass(frozen=True)
class Admit:
    """The request may go out."""


@dataclass(frozen=True)
class Refuse:
    """The request must wait until an earlier one is collected."""

    reason: str


def judge_admission(
    bytes_in_flight: int, request_bytes: int, max_bytes_in_flight: int
) -> Admit | Refuse:
    """Does a request fit into the byte budget?

    A request that is larger than the whole budget goes out alone: refusing it would stop the run
    with nothing to collect.
    """
    if bytes_in_flight == 0 or bytes_in_flight + request_bytes <= max_bytes_in_flight:
        return Admit()
    mib = 1 << 20
    return Refuse(
        f"{bytes_in_flight / mib:.1f} MiB in flight and {request_bytes / mib:.1f} MiB asked, "
        f"allowed are {max_bytes_in_flight / mib:.1f} MiB"
    )


def deal(num_teachers: int, hosts: int) -> tuple[tuple[int, ...], ...]:
    """Which teachers live on which host: dealt like cards, so that numbers differ by at most one.

    Hosts beyond the number of teachers would be empty and are left away.
    """
    if num_teachers < 1 or hosts < 1:
        raise ValueError(f"need teachers and hosts, got {num_teachers} teachers on {hosts} hosts")
    used = min(hosts, num_teachers)
    return tuple(tuple(range(host, num_teachers, used)) for host in range(used))
