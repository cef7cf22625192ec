"""Whether the teachers that answered are enough. Teachers by their index in the list."""

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
