"""Several hosts on simulated nodes, with every teacher on each: parts look at some of it.

Starting hosts takes most of the time of a short measurement. Clients know of a pool what its
address says, so an address that names fewer hosts, or fewer teachers on each, is a smaller pool.
"""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.bench.pool.fakes import fake_folders, fake_loader
from kd_ray.cluster.pool import HostAddress, PoolAddress, TeacherPool
from kd_ray.cluster.simulated import SimulatedCluster
from kd_ray.config.bench import BenchPoolConfig
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.closing import Closing
from kd_ray.core.contracts import Score, Signal, TeachersInfo
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.policies import deal


@dataclass(frozen=True)
class Event:
    """Something that was told; times of `time.perf_counter`."""

    when_s: float
    kind: str
    details: dict[str, Any]


class Events:
    """What a pool or a client tells, with its time; any thread may wait for more."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, kind: str, /, **details: Any) -> None:
        """One event."""
        with self._changed:
            self.told.append(Event(time.perf_counter(), kind, details))
            self._changed.notify_all()

    def since(self, when_s: float, kind: str) -> Event | None:
        """The first of its kind from then on."""
        return next((e for e in self.told if e.kind == kind and e.when_s >= when_s), None)

    def wait_for(self, kind: str, since_s: float, timeout_s: float) -> Event:
        """The first of its kind from then on, waited for.

        Raises:
            TimeoutError: there was none in time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.since(since_s, kind) is not None, timeout_s)
        found = self.since(since_s, kind)
        if found is None:
            told = ", ".join(event.kind for event in self.told) or "nothing"
            raise TimeoutError(f"no {kind} within {timeout_s:g} s; told was: {told}")
        return found


class Fleet(Closing):
    """Hosts, one on each node where the nodes are simulated.

    Teachers 0 to `free - 1` answer at once; `waiting` are the indices of those that take
    `fleet.pass_s` for a pass.

    Args:
        config: of the whole measurement.
        cluster: grows to as many nodes as there are hosts.
    """

    def __init__(self, config: BenchPoolConfig, cluster: SimulatedCluster) -> None:
        self.hosts = config.fleet.hosts
        self.free = max(config.bytes.teachers)
        self.waiting = tuple(range(self.free, self.free + self.hosts))
        self.nodes = cluster.grow(self.hosts)
        self.events = Events()
        """Of the hosts' keeper."""
        self._folders = fake_folders(self.free, self.hosts)
        self._settings = PoolSettings(
            hosts=self.hosts,
            replicas=self.hosts,
            cpus_per_host=config.cpus_per_host,
            max_batch_utterances=config.batch.utterances,
            quorum=1.0,
            deadline_s=120.0,
            recover_s=config.failover.recover_s,
        )
        size = config.batch.vocabulary_size
        self._load_here = fake_loader(size)
        self._pool = TeacherPool.start(
            self._folders,
            self._settings,
            load=fake_loader(size, config.fleet.pass_s),
            on_event=self.events,
        )
        self._addresses = list(self._pool.address.hosts)

    def spread(self, teachers: Sequence[int], hosts: int, copies: int = 1) -> PoolAddress:
        """The pool of so many hosts, among which these teachers were dealt."""
        dealt = deal(len(teachers), hosts, copies)
        return self.view([[teachers[card] for card in hand] for hand in dealt])

    def view(
        self, placement: Sequence[Sequence[int]], nodes: Sequence[str] | None = None
    ) -> PoolAddress:
        """The pool of the first hosts, each with the teachers of `placement`.

        Args:
            placement: for each host, indices of teachers.
            nodes: what the hosts' nodes are called; default: their real names.
        """
        whole = self._pool.address
        places = tuple(sorted({index for hand in placement for index in hand}))
        hosts = tuple(
            HostAddress(host.name, tuple(sorted(hand)), host.pid, host.node)
            for host, hand in zip(self._addresses, placement, strict=False)
        )
        if nodes is not None:
            hosts = tuple(
                dataclasses.replace(host, node=node)
                for host, node in zip(hosts, nodes, strict=True)
            )
        teachers = whole.info.teachers
        info = TeachersInfo(
            teachers=tuple(
                dataclasses.replace(teachers[place], index=number)
                for number, place in enumerate(places)
            ),
            source="pool",
        )
        return dataclasses.replace(whole, hosts=hosts, info=info, places=places)

    def expected(self, teachers: Sequence[int], requests: Sequence[Score]) -> list[Signal]:
        """What these teachers say, by a source in this process in which nobody waits."""
        folders = [self._folders[index] for index in teachers]
        source = LocalSource(self._load_here(folders, "cpu"))
        try:
            return [source.ask(request).result(60.0) for request in requests]
        finally:
            source.close()

    def kill(self, number: int) -> float:
        """End a host's process without a word; when that was."""
        when_s = time.perf_counter()
        os.kill(self._addresses[number].pid, signal.SIGKILL)
        return when_s

    def wait_until_back(self, number: int, since_s: float, timeout_s: float) -> Event:
        """Until the keeper has started a killed host again."""
        event = self.events.wait_for("host_started_again", since_s, timeout_s)
        old = self._addresses[number]
        self._addresses[number] = dataclasses.replace(old, pid=event.details["pid"])
        return event

    def close(self) -> None:
        """End the hosts."""
        self._pool.close()
