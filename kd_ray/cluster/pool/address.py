"""Where a pool's hosts are: plain data that travels to any process of a job."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kd_ray.cluster.pool.nodes import Seat
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.contracts import TeacherInfo, TeachersInfo
from kd_ray.teachers.answers import HostAnswer
from kd_ray.teachers.residents import ScoringTeacher

HostHandle = Any
"""An actor handle of `HostProcess`; Ray's own types lose its async methods."""


NAMESPACE: Final = "kd_ray"
"""Of named pools, whatever job started them."""


def manager_name(pool: str) -> str:
    """The actor's name of a pool's manager."""
    return _MANAGER + pool


def pool_of(manager: str) -> str | None:
    """The pool of which an actor of this name is the manager; None: of none."""
    return manager.removeprefix(_MANAGER) if manager.startswith(_MANAGER) else None


def hosts_prefix(pool: str) -> str:
    """What the names of a pool's host actors begin with; a number follows."""
    return f"kd_ray-pool-{pool}-host-"


def place_of(host: str) -> tuple[str, str]:
    """The pool and the number that the name of a host actor is made of."""
    before, _, number = host.rpartition("-host-")
    return before.removeprefix("kd_ray-pool-"), number


_MANAGER: Final = "kd_ray-manager-"


Loader = Callable[[Sequence[Path], str], Sequence[ScoringTeacher]]
"""(checkpoint folders, device) -> teachers, in the same order; called in the host's process."""


@dataclass(frozen=True)
class HostAddress:
    """A host's actor name and the teachers that live there, by their indices in the pool."""

    name: str
    teachers: tuple[int, ...]
    pid: int
    node: str


@dataclass(frozen=True)
class PoolAddress:
    """All that a client needs to find a pool; plain data, sent to any process of the job."""

    namespace: str
    hosts: tuple[HostAddress, ...]
    info: TeachersInfo
    """The job's teachers, numbered as the job does."""
    settings: PoolSettings
    places: tuple[int, ...] | None = None
    """Index in the pool of each of the job's teachers; None: the job's teachers are the pool's."""
    version: int = 0
    """Goes up with every change of hosts or teachers."""
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Teachers of the pool that another has taken the place of, and who."""
    stored_data: tuple[str, ...] = ()
    """Digests of the data that the hosts' target store was made of; empty: there is no store."""

    def place(self, number: int) -> int:
        """The index in the pool of the job's teacher `number`."""
        return number if self.places is None else self.places[number]

    @property
    def called(self) -> Mapping[int, int]:
        """What the job calls the pool's teachers, by their indices in the pool."""
        count = len(self.info.teachers)
        return {self.place(number): number for number in range(count)}

    def numbers(self, teachers: Iterable[int]) -> list[int]:
        """The job's numbers of those of the pool's teachers that it has."""
        called = self.called
        return [called[index] for index in teachers if index in called]

    def with_host(self, new: HostAddress) -> "PoolAddress":
        """The same pool, one host of it somewhere else."""
        hosts = tuple(new if host.name == new.name else host for host in self.hosts)
        return dataclasses.replace(self, hosts=hosts)


@dataclass(frozen=True)
class HostArrival:
    """What a host says once its teachers are loaded."""

    teachers: tuple[int, ...]
    infos: tuple[TeacherInfo, ...]
    pid: int
    node: str
    seat: Seat
    recognizer: TeacherInfo | None = None


@dataclass(frozen=True)
class HostReport:
    """What comes to the client of a host's answer; its distributions stay where they are.

    `finished`: what is kept is the target itself, not a partial. `kept_bytes`: of its arrays. A
    small target comes along, as `answer.fused`, and nothing is kept.
    """

    answer: HostAnswer
    finished: bool
    kept_bytes: int


def arrays_bytes(value: object) -> int:
    """Bytes of the arrays of a dataclass, and of those within it."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if dataclasses.is_dataclass(value):
        return sum(arrays_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0
