"""Where a pool's hosts are: plain data that travels to any process of a job."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.contracts import TeacherInfo, TeachersInfo
from kd_ray.teachers.answers import HostAnswer

HostHandle = Any
"""An actor handle of `HostProcess`; Ray's own types lose its async methods."""


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
    recognizer: TeacherInfo | None = None


@dataclass(frozen=True)
class HostReport:
    """What comes to the client of a host's answer; its distributions stay where they are.

    `finished`: what is kept is the target itself, not a partial. `kept_bytes`: of its arrays.
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
