"""Who lives where in a pool: the plan that its hosts are made after, and the plans that follow it.

Indices of teachers and names of hosts are never given twice, so that nobody who knows an older
plan mistakes one for another.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_ray.cluster.pool.address import Loader
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import HostSettings
from kd_ray.teachers.policies.placement import HostRoom, Placement, place, replan
from kd_ray.teachers.transcriber import TranscriberSpec

_MIB = 1 << 20
_ANY_MEMORY = 1 << 50


@dataclass(frozen=True)
class PoolSpec:
    """What a named pool shall be; travels to its manager."""

    config: PoolConfig
    folders: tuple[str, ...]
    """Checkpoint folders, in the order of the list."""
    recognizer: TranscriberSpec | None = None
    load: Loader | None = None
    digests: tuple[str, ...] = ()
    """Of the teachers, in the same order; empty where they are not known."""


@dataclass(frozen=True)
class PoolPlan:
    """Teachers, hosts, and which teacher lives on which hosts."""

    prefix: str
    """Of the names of hosts."""
    teachers: Mapping[int, str]
    """Index in the pool -> checkpoint folder."""
    hosts: Mapping[str, tuple[int, ...]]
    """Name -> indices of its teachers, in order."""
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Teachers that another has taken the place of, and who."""
    next_teacher: int = 0
    next_host: int = 0
    version: int = 0

    def folders(self, host: str) -> dict[int, Path]:
        """Index and folder of each teacher of a host."""
        return {index: Path(self.teachers[index]) for index in self.hosts[host]}

    def current(self, index: int) -> int:
        """Who has the place of teacher `index` now; itself if nobody took it."""
        while index in self.replaced:
            index = self.replaced[index]
        return index


def first_plan(
    prefix: str, folders: Sequence[Path | str], settings: HostSettings, sizes: Sequence[int]
) -> PoolPlan:
    """The plan of a new pool; hosts that would stay empty are left away.

    Args:
        prefix: of the names of hosts.
        folders: checkpoint folders of the teachers, in the order of the list.
        settings: how many hosts, how many copies, how much memory.
        sizes: bytes of each teacher's weights.
    """
    count = min(settings.hosts, len(folders) * settings.replicas)
    names = [f"{prefix}{number}" for number in range(count)]
    teachers = {index: str(folder) for index, folder in enumerate(folders)}
    placement = place(
        _fitting(dict(enumerate(sizes)), settings),
        [_room(name, settings) for name in names],
        replicas=dict.fromkeys(teachers, settings.replicas),
    )
    return PoolPlan(
        prefix=prefix,
        teachers=teachers,
        hosts=_by_host(placement, names),
        next_teacher=len(teachers),
        next_host=count,
    )


def next_plan(
    plan: PoolPlan,
    settings: HostSettings,
    sizes: Mapping[int, int],
    *,
    add: Sequence[Path | str] = (),
    remove: Iterable[int] = (),
    replace: Mapping[int, Path | str] | None = None,
    more_hosts: int = 0,
    without_hosts: Iterable[str] = (),
    copies: Mapping[int, int] | None = None,
    load: Mapping[int, float] | None = None,
) -> PoolPlan:
    """A plan with changes; what need not move stays where it is.

    Args:
        plan: the one before.
        settings: of the pool's hosts.
        sizes: bytes of the weights of all teachers, the new ones under their coming indices:
            those that are added from `plan.next_teacher` on, then those that replace.
        add: folders of new teachers.
        remove: indices of teachers that leave.
        replace: index of a teacher -> folder of the one that takes its place, on its hosts.
        more_hosts: how many hosts come.
        without_hosts: names of hosts that leave.
        copies: of single teachers; the others have `settings.replicas`.
        load: requests to a teacher, any unit (`kd_ray.teachers.policies.placement`).

    Raises:
        ValueError: an unknown teacher or host, or no teacher or host would be left.
    """
    replace = replace or {}
    gone = {*remove, *replace}
    _check_known(gone - set(plan.teachers), "teachers", sorted(plan.teachers))
    leaving = set(without_hosts)
    _check_known(leaving - set(plan.hosts), "hosts", sorted(plan.hosts))
    teachers = {index: folder for index, folder in plan.teachers.items() if index not in gone}
    number = plan.next_teacher
    for folder in add:
        teachers[number] = str(folder)
        number += 1
    replaced = dict(plan.replaced)
    for old, folder in replace.items():
        teachers[number] = str(folder)
        replaced[old] = number
        number += 1
    names = [name for name in plan.hosts if name not in leaving]
    names += [f"{plan.prefix}{plan.next_host + count}" for count in range(more_hosts)]
    if not teachers or not names:
        raise ValueError(
            f"a pool keeps at least one teacher and one host; {len(teachers)} teachers and "
            f"{len(names)} hosts would be left"
        )
    # A new teacher begins where the one was whose place it takes.
    before = {
        replaced.get(index, index): tuple(
            name for name in plan.hosts if index in plan.hosts[name] and name not in leaving
        )
        for index in plan.teachers
        if index not in gone or index in replace
    }
    placement = replan(
        Placement(before, (), "as it was"),
        _fitting({index: sizes[index] for index in teachers}, settings),
        [_room(name, settings) for name in names],
        replicas=dict.fromkeys(teachers, settings.replicas) | dict(copies or {}),
        load=load,
    )
    return dataclasses.replace(
        plan,
        teachers=teachers,
        hosts=_by_host(placement, names),
        replaced=replaced,
        next_teacher=number,
        next_host=plan.next_host + more_hosts,
        version=plan.version + 1,
    )


def weight_bytes(folder: Path | str) -> int:
    """Bytes of a teacher's weights; 1 where they are no file (teachers of tests)."""
    file = Path(folder) / "model.safetensors"
    for candidate in (file, Path(folder) / "model" / "model.safetensors"):
        if candidate.is_file():
            return max(1, candidate.stat().st_size)
    return 1


def _by_host(placement: Placement, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {name: placement.teachers_of(name) for name in names}


def _room(name: str, settings: HostSettings) -> HostRoom:
    # Hosts are alike, and which node they get is Ray's choice.
    return HostRoom(name, name, _memory(settings), settings.gpus_per_host or settings.cpus_per_host)


def _memory(settings: HostSettings) -> int:
    return _ANY_MEMORY if settings.memory_mib is None else int(settings.memory_mib * _MIB)


def _fitting(sizes: Mapping[int, int], settings: HostSettings) -> dict[int, int]:
    # A teacher larger than a host's share is loaded alone, with a warning.
    return {index: min(size, _memory(settings)) for index, size in sizes.items()}


def _check_known(unknown: Iterable[object], what: str, known: Sequence[object]) -> None:
    names = ", ".join(map(str, sorted(unknown, key=str)))
    if names:
        raise ValueError(f"the pool has no {what} {names}; it has {', '.join(map(str, known))}")
