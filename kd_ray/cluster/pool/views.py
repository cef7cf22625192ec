"""A pool as one job sees it: its own settings, its own teachers in its own order."""

import dataclasses
from collections.abc import Callable, Sequence

from kd_ray.cluster.pool.address import PoolAddress
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.contracts import PROTOCOL_VERSION, TeacherInfo, TeachersInfo


class PoolError(RuntimeError):
    """A named pool is not there, or is in the way; the text says the way out."""


def view_of(
    address: PoolAddress, settings: PoolSettings, digests: Sequence[str] | None
) -> PoolAddress:
    """The pool as a job sees it that attaches.

    Args:
        address: the pool's own.
        settings: section `teachers.source` of the job.
        digests: of its teachers, in its own order; None: all of the pool.

    Raises:
        PoolError: it speaks another protocol, or lacks a teacher.
    """
    if address.info.protocol != PROTOCOL_VERSION:
        raise PoolError(
            f"the pool {settings.name!r} speaks protocol {address.info.protocol} (kd_ray "
            f"{address.info.package}), and this job {PROTOCOL_VERSION}; start the pool again with "
            "the job's version of kd_ray, or the job with the pool's"
        )
    teachers = address.info.teachers
    chosen: Sequence[TeacherInfo] = teachers
    if digests is not None:
        known = {teacher.digest: teacher for teacher in teachers}
        missing = [digest for digest in digests if digest not in known]
        if missing:
            have = ", ".join(f"{teacher.name} ({teacher.digest})" for teacher in teachers[:8])
            raise PoolError(
                f"the pool {settings.name!r} lacks {len(missing)} of the {len(digests)} teachers "
                f"in teachers.list (digests {', '.join(missing[:4])}); it has {have}"
                f"{', ...' if len(teachers) > 8 else ''}. Leave out teachers.list to ask all of "
                "them, or start a pool with yours"
            )
        chosen = [known[digest] for digest in digests]
    info = TeachersInfo(
        teachers=_numbered(chosen), source="pool", recognizer=address.info.recognizer
    )
    places = tuple(teacher.index for teacher in chosen)
    return dataclasses.replace(address, info=info, settings=settings, places=places)


def view_after(
    mine: PoolAddress,
    now: PoolAddress,
    on_replaced: Callable[[int, TeacherInfo], None],
    on_removed: Callable[[int], None],
) -> PoolAddress:
    """A job's view after the pool has changed; the job's numbers stay what they are.

    A teacher that another has taken the place of is followed; one that was removed keeps its
    number and is missing. Those that were added are for jobs that attach later.

    Args:
        mine: the job's view before.
        now: the pool's own address.
        on_replaced: gets the job's number and who answers under it now.
        on_removed: gets the job's number.
    """
    there = {teacher.index: teacher for teacher in now.info.teachers}
    places, infos = [], []
    for info in mine.info.teachers:
        old = place = mine.place(info.index)
        while place in now.replaced:
            place = now.replaced[place]
        # Another precision under the old name: other numbers, which the job should know of.
        moved = place != old or (place in there and there[place].precision != info.precision)
        if moved and place in there:
            info = dataclasses.replace(there[place], index=info.index)
            on_replaced(info.index, info)
        elif place not in there and _lives(mine, old):
            on_removed(info.index)
        places.append(place)
        infos.append(info)
    own = dataclasses.replace(mine.info, teachers=tuple(infos))
    return dataclasses.replace(now, info=own, settings=mine.settings, places=tuple(places))


def _numbered(teachers: Sequence[TeacherInfo]) -> tuple[TeacherInfo, ...]:
    return tuple(
        dataclasses.replace(teacher, index=number) for number, teacher in enumerate(teachers)
    )


def _lives(address: PoolAddress, teacher: int) -> bool:
    return any(teacher in host.teachers for host in address.hosts)
