"""What the parts of the measurement share."""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kd_ray.bench.pool.fleet import Fleet
from kd_ray.bench.pool.models import write_teachers
from kd_ray.cluster.pool import PoolSource, TeacherPool
from kd_ray.cluster.pool.address import Loader
from kd_ray.cluster.pool.status import ask_host
from kd_ray.cluster.simulated import SimulatedCluster
from kd_ray.config.bench import BenchPoolConfig
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.closing import Closing
from kd_ray.teachers.host import HostStatus


@dataclass(frozen=True)
class OneHost:
    """A pool of one host on this machine, and a client of it."""

    source: PoolSource
    pid: int
    start_s: float
    """Until its teachers were registered."""
    name: str
    """Of its actor."""

    def status(self) -> HostStatus:
        """Queue and counters."""
        return ask_host(self.name, self.source.address.namespace)


class Setup(Closing):
    """Ray, teachers with random weights, and the fleet: made when a part first asks for them."""

    def __init__(self, config: BenchPoolConfig) -> None:
        self.config = config
        self._stack = ExitStack()

    @cached_property
    def cluster(self) -> SimulatedCluster:
        """Ray, of one node at first."""
        cluster = SimulatedCluster(cpus_per_node=self.config.cpus_per_host)
        return self._stack.enter_context(cluster)

    @cached_property
    def folder(self) -> Path:
        """For whatever a part writes."""
        temporary = tempfile.TemporaryDirectory(prefix="kd-ray-bench-")
        return Path(self._stack.enter_context(temporary))

    @cached_property
    def teacher(self) -> Path:
        """The checkpoint of the teacher that is measured."""
        size = self.config.batch.vocabulary_size
        return write_teachers(self.folder / "one", self.config.model, size, 1)[0]

    @cached_property
    def fleet(self) -> Fleet:
        """Hosts on simulated nodes."""
        return self._stack.enter_context(Fleet(self.config, self.cluster))

    @property
    def threads(self) -> int:
        """Of torch, in a host."""
        return max(1, math.floor(self.config.cpus_per_host))

    @contextlib.contextmanager
    def one_host(
        self, folders: Sequence[Path], *, load: Loader | None = None, **settings: Any
    ) -> Iterator[OneHost]:
        """A pool of one host, while the context lasts.

        Args:
            folders: of its teachers.
            load: makes teachers of them; None: they are checkpoints.
            settings: of the pool, beside those that all parts have.
        """
        assert self.cluster.nodes, "there is a Ray"
        section = PoolSettings(
            cpus_per_host=self.config.cpus_per_host,
            max_batch_utterances=self.config.batch.utterances,
            deadline_s=600.0,
            recover_s=0.0,
            max_deaths=0,
        ).model_copy(update=settings)
        started = time.perf_counter()
        with TeacherPool.start(folders, section, load=load) as pool:
            start_s = time.perf_counter() - started
            (host,) = pool.address.hosts
            source = PoolSource(pool.address)
            try:
                yield OneHost(source, host.pid, start_s, host.name)
            finally:
                source.close()

    def close(self) -> None:
        """Everything is gone."""
        self._stack.close()


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch in this process, while the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
