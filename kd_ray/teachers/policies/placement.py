"""Which teachers live on which hosts: balanced by bytes and by work, with few moves on a change.

A host's `level` is the mean of two ratios: its bytes over what is fair for its memory, and its
work over what is fair for its compute. 1 is exactly fair. Copies of one teacher lie on different
hosts, on different nodes where that costs no memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_GIB = 1 << 30
_ALL = 1 << 40
_HAIR = 1e-9
"""Levels closer than this are equal: a move must gain more than rounding."""


class PlacementError(ValueError):
    """Teachers that cannot be placed on these hosts at all."""


@dataclass(frozen=True)
class HostRoom:
    """A host, as placement sees it."""

    name: str
    node: str
    memory_bytes: int
    """For the weights of teachers."""
    compute: float = 1.0
    """Its share of a GPU, or its CPUs where no host has a GPU: only ratios count."""


@dataclass(frozen=True)
class Placement:
    """Where each teacher lives."""

    hosts: Mapping[int, tuple[str, ...]]
    """Teacher -> names of hosts, in order."""
    notes: tuple[str, ...]
    """What could not be had: memory that teachers must share by turns, copies left away."""
    reason: str

    def teachers_of(self, host: str) -> tuple[int, ...]:
        """Who lives on a host, in order."""
        return tuple(sorted(teacher for teacher, names in self.hosts.items() if host in names))


NOWHERE = Placement({}, (), "nothing is placed yet")
"""Before the first placement."""


@dataclass(frozen=True)
class Changes:
    """What leads from one placement to the next: first the loads, then the drops.

    In that order a teacher that moves answers all the time.
    """

    loads: tuple[tuple[int, str], ...]
    """Teacher, host."""
    drops: tuple[tuple[int, str], ...]
    reason: str


def place(
    teachers: Mapping[int, int],
    hosts: Sequence[HostRoom],
    *,
    replicas: Mapping[int, int] | None = None,
    load: Mapping[int, float] | None = None,
) -> Placement:
    """Place teachers on empty hosts; arguments and errors as in `replan`."""
    return replan(NOWHERE, teachers, hosts, replicas=replicas, load=load)


def replan(
    previous: Placement,
    teachers: Mapping[int, int],
    hosts: Sequence[HostRoom],
    *,
    replicas: Mapping[int, int] | None = None,
    load: Mapping[int, float] | None = None,
    tolerance: float = 0.1,
) -> Placement:
    """Place what has no place yet; move others only to relieve memory, or hosts out of balance.

    The same arguments give the same placement, and its own result gives itself. Unless memory or
    replicas forbid, no level ends above 1 + `tolerance`, or 1 + the largest share of one teacher.

    Args:
        previous: who may stay. Hosts and teachers that are gone are forgotten; a teacher that was
            replaced stays where it was, as long as there is room.
        teachers: index in the pool -> bytes of its weights.
        hosts: all that are up.
        replicas: copies of a teacher; 1 where none are named, no more than there are hosts.
        load: requests to a teacher, in any unit; 1 where none are named. Its copies share them.
        tolerance: how far from 1 a level may be before teachers are moved.

    Raises:
        PlacementError: no hosts, two of one name, or a teacher that no host can hold even alone.
    """
    copies = {teacher: (replicas or {}).get(teacher, 1) for teacher in teachers}
    _check(teachers, hosts, copies)
    work = {teacher: (load or {}).get(teacher, 1.0) for teacher in teachers}
    wanted = {teacher: min(copies[teacher], len(hosts)) for teacher in teachers}
    board = _Board(hosts, teachers, work, wanted, tolerance)
    for teacher in sorted(teachers):
        names = [name for name in previous.hosts.get(teacher, ()) if name in board.rooms]
        for name in names:
            board.put(teacher, name)
        for _ in range(len(names) - wanted[teacher]):
            board.take(teacher, board.least_needed(teacher))
    for teacher in sorted(teachers, key=lambda index: (-board.weight(index), index)):
        while len(board.where[teacher]) < wanted[teacher]:
            board.put(teacher, board.best_host(teacher))
    while (move := board.relief() or board.levelling()) is not None:
        teacher, source, target = move
        board.take(teacher, source)
        board.put(teacher, target)
    return Placement(
        hosts={teacher: tuple(sorted(board.where[teacher])) for teacher in sorted(teachers)},
        notes=(*board.overfull(), *_copies_left_away(copies, wanted)),
        reason=board.summary(),
    )


def changes(before: Placement, after: Placement) -> Changes:
    """What has to be loaded and dropped."""
    old = {(teacher, name) for teacher, names in before.hosts.items() for name in names}
    new = {(teacher, name) for teacher, names in after.hosts.items() for name in names}
    loads, drops = tuple(sorted(new - old)), tuple(sorted(old - new))
    kept = len(new & old)
    reason = f"{len(loads)} loads, {len(drops)} drops, {kept} stay; {after.reason}"
    return Changes(loads, drops, reason)


def deal(num_teachers: int, hosts: int, copies: int = 1) -> tuple[tuple[int, ...], ...]:
    """Which teachers live on which host: dealt like cards, so that numbers differ by at most one.

    The copies of a teacher go to neighbouring hosts. Hosts beyond the number of copies would be
    empty and are left away.
    """
    if num_teachers < 1 or hosts < 1 or not 1 <= copies <= hosts:
        raise ValueError(
            f"need teachers, hosts and from 1 to {hosts} copies, got {num_teachers} teachers, "
            f"{copies} copies of each, on {hosts} hosts"
        )
    used = min(hosts, num_teachers * copies)
    dealt: list[list[int]] = [[] for _ in range(used)]
    for card in range(num_teachers * copies):
        dealt[card % used].append(card // copies)
    return tuple(tuple(teachers) for teachers in dealt)


@dataclass
class _Board:
    """A placement in the making."""

    hosts: Sequence[HostRoom]
    sizes: Mapping[int, int]
    work: Mapping[int, float]
    wanted: Mapping[int, int]
    tolerance: float
    where: dict[int, set[str]] = field(init=False)
    held: dict[str, set[int]] = field(init=False)
    levels: dict[str, float] = field(init=False)
    used: dict[str, int] = field(init=False)
    """Bytes."""
    busy: dict[str, int] = field(init=False)
    """Work, in 2**-40 of all."""

    def __post_init__(self) -> None:
        self.rooms = {host.name: host for host in self.hosts}
        self.where = {teacher: set() for teacher in self.sizes}
        self.held = {name: set() for name in self.rooms}
        self.levels = dict.fromkeys(self.rooms, 0.0)
        self.used = dict.fromkeys(self.rooms, 0)
        self.busy = dict.fromkeys(self.rooms, 0)
        self._bytes = sum(size * self.wanted[teacher] for teacher, size in self.sizes.items())
        # Whole numbers: the same teachers give the same level, in whatever order they came.
        everything = math.fsum(self.work.values())
        self._units = {
            teacher: round(work / everything / self.wanted[teacher] * _ALL) if everything else 0
            for teacher, work in self.work.items()
        }
        self._memory = sum(host.memory_bytes for host in self.hosts)
        self._compute = math.fsum(host.compute for host in self.hosts)

    def put(self, teacher: int, name: str) -> None:
        """One copy more."""
        self.where[teacher].add(name)
        self.held[name].add(teacher)
        self.used[name] += self.sizes[teacher]
        self.busy[name] += self._units[teacher]
        self.levels[name] = self._level(name)

    def take(self, teacher: int, name: str) -> None:
        """One copy less."""
        self.where[teacher].remove(name)
        self.held[name].remove(teacher)
        self.used[name] -= self.sizes[teacher]
        self.busy[name] -= self._units[teacher]
        self.levels[name] = self._level(name)

    def weight(self, teacher: int, host: HostRoom | None = None) -> float:
        """What a copy adds to the level of a host; None: of the average host."""
        memory = self._memory / len(self.hosts) if host is None else host.memory_bytes
        compute = self._compute / len(self.hosts) if host is None else host.compute
        return self._share(self.sizes[teacher], self._units[teacher], memory, compute)

    def best_host(self, teacher: int) -> str:
        """Where the next copy goes: it fits, its node has none yet, the level stays lowest."""
        nodes = {self.rooms[name].node for name in self.where[teacher]}
        free = [host for host in self.hosts if host.name not in self.where[teacher]]
        return min(
            free,
            key=lambda host: (
                self._excess(host.name, self.sizes[teacher]) > 0,
                host.node in nodes,
                self.levels[host.name] + self.weight(teacher, host),
                host.name,
            ),
        ).name

    def least_needed(self, teacher: int) -> str:
        """Which copy goes first: one beside another on its node, then on the fullest host."""
        nodes = [self.rooms[name].node for name in self.where[teacher]]
        return max(
            self.where[teacher],
            key=lambda name: (nodes.count(self.rooms[name].node) > 1, self.levels[name], name),
        )

    def relief(self) -> tuple[int, str, str] | None:
        """The move that takes most bytes off hosts that hold more than fits; None: none does."""
        best: tuple[tuple[int, int, int, str, str], tuple[int, str, str]] | None = None
        for source in sorted(self.held):
            if self._excess(source) <= 0:
                continue
            for teacher in sorted(self.held[source]):
                for target in sorted(self.rooms):
                    gain = -self._excess_change(teacher, source, target)
                    if target in self.where[teacher] or gain <= 0:
                        continue
                    key = (-gain, self.sizes[teacher], teacher, source, target)
                    if best is None or key < best[0]:
                        best = key, (teacher, source, target)
        return None if best is None else best[1]

    def levelling(self) -> tuple[int, str, str] | None:
        """A move from a host above its share to one below; None: all are near enough."""
        for source in sorted(self.levels, key=lambda name: (-self.levels[name], name)):
            for target in sorted(self.levels, key=lambda name: (self.levels[name], name)):
                high, low = self.levels[source], self.levels[target]
                if high <= 1 + self.tolerance and low >= 1 - self.tolerance:
                    break
                movable = [
                    teacher
                    for teacher in self.held[source] - self.held[target]
                    if low + self.weight(teacher, self.rooms[target]) < high - _HAIR
                    and self._excess_change(teacher, source, target) <= 0
                    and not self._crowds(teacher, source, target)
                ]
                if movable:
                    half = (high - low) / 2
                    teacher = min(
                        movable,
                        key=lambda index: (
                            abs(self.weight(index, self.rooms[target]) - half),
                            index,
                        ),
                    )
                    return teacher, source, target
        return None

    def overfull(self) -> list[str]:
        """One line for each host whose teachers take turns in its memory."""
        return [
            f"host {name}: {len(self.held[name])} teachers of {self.used[name] / _GIB:.2f} GiB "
            f"share {room.memory_bytes / _GIB:.2f} GiB by turns (paging)"
            for name, room in sorted(self.rooms.items())
            if self._excess(name) > 0
        ]

    def summary(self) -> str:
        """One line for the log."""
        copies = sum(len(names) for names in self.where.values())
        low, high = min(self.levels.values()), max(self.levels.values())
        return (
            f"{len(self.sizes)} teachers ({copies} copies, {self._bytes / _GIB:.2f} GiB) on "
            f"{len(self.hosts)} hosts ({self._memory / _GIB:.2f} GiB), levels {low:.2f} to "
            f"{high:.2f} of a fair share"
        )

    def _level(self, name: str) -> float:
        room = self.rooms[name]
        return self._share(self.used[name], self.busy[name], room.memory_bytes, room.compute)

    def _share(self, size: int, units: int, memory: float, compute: float) -> float:
        by_bytes = size / max(1, self._bytes) * self._memory / memory
        return (by_bytes + units / _ALL * self._compute / compute) / 2

    def _excess(self, name: str, more: int = 0) -> int:
        """Bytes that do not fit."""
        return max(0, self.used[name] + more - self.rooms[name].memory_bytes)

    def _excess_change(self, teacher: int, source: str, target: str) -> int:
        """What a move adds to the bytes that do not fit, of both hosts together."""
        size = self.sizes[teacher]
        before = self._excess(source) + self._excess(target)
        return self._excess(source, -size) + self._excess(target, size) - before

    def _crowds(self, teacher: int, source: str, target: str) -> bool:
        """Would two copies come to lie on one node that do not now?"""
        if self.rooms[source].node == self.rooms[target].node:
            return False
        others = self.where[teacher] - {source}
        return self.rooms[target].node in {self.rooms[name].node for name in others}


def _check(
    teachers: Mapping[int, int], hosts: Sequence[HostRoom], replicas: Mapping[int, int]
) -> None:
    if not hosts:
        raise PlacementError(f"{len(teachers)} teachers are to be placed and there are no hosts")
    names = [host.name for host in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlacementError(f"two hosts are called {', '.join(twice)}; names tell them apart")
    for host in hosts:
        if host.memory_bytes <= 0 or host.compute <= 0:
            raise PlacementError(
                f"host {host.name} has {host.memory_bytes} bytes for teachers and compute "
                f"{host.compute:g}; both must be above 0"
            )
    none = [teacher for teacher, count in sorted(replicas.items()) if count < 1]
    if none:
        raise PlacementError(
            f"teacher {none[0]} is to have {replicas[none[0]]} copies; at least 1 is placed, and "
            "one that nobody needs is removed from the teachers"
        )
    largest = max(hosts, key=lambda host: host.memory_bytes)
    for teacher, size in sorted(teachers.items()):
        if size > largest.memory_bytes:
            raise PlacementError(
                f"teacher {teacher} has {size / _GIB:.2f} GiB of weights and the largest host, "
                f"{largest.name}, {largest.memory_bytes / _GIB:.2f} GiB: it does not fit even "
                "alone. Give hosts more memory, or leave the teacher away"
            )


def _copies_left_away(copies: Mapping[int, int], wanted: Mapping[int, int]) -> list[str]:
    return [
        f"teacher {teacher}: {copies[teacher]} copies were asked, {wanted[teacher]} hosts are there"
        for teacher in sorted(copies)
        if copies[teacher] > wanted[teacher]
    ]
