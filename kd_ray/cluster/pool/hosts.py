"""Teacher hosts as Ray actors: the process around a `TeacherHost`, and how it is started."""

import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from kd_ray.cluster.metrics import HostFigures
from kd_ray.cluster.pool.address import (
    HostAddress,
    HostArrival,
    HostHandle,
    HostReport,
    Loader,
    PoolAddress,
    arrays_bytes,
    place_of,
)
from kd_ray.cluster.pool.nodes import seat_here
from kd_ray.cluster.pool.plan import PoolPlan
from kd_ray.config.sources import HostSettings
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core import strategies
from kd_ray.core.contracts import Audio, Generate, Score, TeacherInfo, TeachersInfo, Written
from kd_ray.teachers.answers import Call
from kd_ray.teachers.cache import open_levels
from kd_ray.teachers.host import HostStatus, TeacherHost
from kd_ray.teachers.remembering import Memory
from kd_ray.teachers.residents import AllLoaded, Residents, paged_from_folders
from kd_ray.teachers.transcriber import TranscriberSpec, load_transcriber

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_SMALL_BYTES = 64 << 10
"""A target up to this size travels with the host's report: fetching it costs a round more."""


class PoolStartError(RuntimeError):
    """A host could not be started, or could not load its teachers."""


Kept = strategies.Partial | strategies.FusedTargets | None


class HostProcess:
    """A `TeacherHost` with the process around it; an async actor in a pool."""

    def __init__(
        self,
        folders: Sequence[Path],
        indices: Sequence[int],
        num_teachers: int,
        settings: HostSettings,
        load: Loader | None,
        recognizer: TranscriberSpec | None = None,
        memory_share: float = 1.0,
        known: Mapping[int, TeacherInfo] | None = None,
        shared: bool = False,
    ) -> None:
        torch.set_num_threads(max(1, math.floor(settings.cpus_per_host)))
        device = "cuda" if settings.gpus_per_host > 0 else "cpu"
        residents: Residents
        if load is None:
            memory_mib = settings.memory_mib
            residents = paged_from_folders(
                folders,
                indices,
                device=device,
                max_bytes=None if memory_mib is None else int(memory_mib * _MIB),
                computation=settings,
                warm_bytes=int(settings.warm_mib * _MIB),
                share=memory_share,
                known=known,
            )
        else:
            residents = AllLoaded(
                load(folders, device), indices, lambda folder: load([folder], device)[0]
            )
        self._kept: Any = None
        self._shared = shared
        self._figures: HostFigures | None = None
        self._host = TeacherHost(
            residents,
            num_teachers=num_teachers,
            batching=settings.batching,
            max_batch_utterances=settings.max_batch_utterances,
            max_batch_frames=settings.max_batch_frames,
            batch_wait_ms=settings.batch_wait_ms,
            memory=Memory(
                int(memory_share * settings.cache_mib * _MIB),
                int(memory_share * settings.fused_cache_mib * _MIB),
                None if settings.cache_store is None else Path(settings.cache_store),
            ),
            max_job_bytes=int(settings.max_job_mib * _MIB),
            transcriber=load_transcriber(recognizer, device),
        )

    async def arrive(self) -> HostArrival:
        """Answers once the teachers are loaded."""
        if self._figures is None:
            self._figures = HostFigures(*_labels(shared=self._shared))
            self._figures.start(
                lambda: self._host.status,
                lambda: {info.index: info.name for info in self._host.infos},
            )
        node = ray.get_runtime_context().get_node_id()
        infos = self._host.infos
        teachers = tuple(info.index for info in infos)
        return HostArrival(teachers, infos, os.getpid(), node, seat_here(), self._host.recognizer)

    async def answer(
        self, audio: Audio, question: Score | Generate, call: Call
    ) -> tuple[HostReport, Kept]:
        """Answer `question`, whose audio travels beside it (one object for all hosts).

        The second object stays on this node until somebody merges or fetches it.
        """
        answer = await self._host.answer(dataclasses.replace(question, audio=audio), call)
        if isinstance(answer.partial, Written):
            return HostReport(answer, False, 0), None
        kept: Kept = answer.partial if answer.fused is None else answer.fused
        size = arrays_bytes(kept)
        along = answer.fused if size <= _SMALL_BYTES else None
        report = HostReport(
            dataclasses.replace(answer, partial=None, fused=along), answer.fused is not None, size
        )
        self._host.count_bytes_out(call.job, report.kept_bytes)
        return report, None if along is not None else kept

    async def merge(self, *partials: strategies.Partial) -> tuple[int, strategies.Partial]:
        """Join what several hosts made of one request; its bytes, and the partial itself."""
        merged = await self._host.merge(partials)
        return arrays_bytes(merged), merged

    async def finish(self, *partials: strategies.Partial) -> strategies.FusedTargets:
        """The target of what several hosts made of one request."""
        return await self._host.finish(partials)

    async def add(self, folders: Mapping[int, Path]) -> HostArrival:
        """Teachers come to live here, by their indices; requests go on meanwhile."""
        await self._host.add(folders)
        return await self.arrive()

    async def remove(self, indices: Sequence[int]) -> HostArrival:
        """Teachers leave."""
        await self._host.remove(indices)
        return await self.arrive()

    async def keep(self, kept: Any) -> None:
        """Hold what a manager that is started again must know."""
        self._kept = kept

    async def kept(self) -> Any:
        """What `keep` was given last; None: nothing yet."""
        return self._kept

    async def alive(self) -> None:
        """A sign of life."""

    async def forget_job(self, job: str) -> None:
        """A job has gone."""
        self._host.forget_job(job)

    async def status(self) -> HostStatus:
        """Queue and counters."""
        return self._host.status


def _labels(*, shared: bool) -> tuple[str, str]:
    """What the pool and this host are called in figures: labels that come again."""
    pool, number = place_of(str(ray.get_runtime_context().get_actor_name()))
    return pool if shared else "(a job's own)", number


HostActor = ray.remote(HostProcess)


class HostStarter:
    """Starts a pool's host processes."""

    def __init__(
        self,
        settings: HostSettings,
        load: Loader | None,
        recognizer: TranscriberSpec | None = None,
        *,
        namespace: str | None = None,
        detached: bool = False,
    ) -> None:
        self._settings = settings
        self._load = load
        self._recognizer = recognizer
        self._stored_data = _stored_data(settings)
        self.namespace = namespace or str(ray.get_runtime_context().namespace)
        # Hosts of a named pool outlive the manager that started them.
        self._lifetime = "detached" if detached else None

    @property
    def start_timeout_s(self) -> float:
        """Longest wait for a host to load its teachers."""
        return self._settings.start_timeout_s

    @property
    def max_deaths(self) -> int:
        """How often a host may die and is started again."""
        return self._settings.max_deaths

    def start_host(
        self,
        plan: PoolPlan,
        name: str,
        *,
        memory_share: float = 1.0,
        known: Mapping[int, TeacherInfo] | None = None,
    ) -> HostHandle:
        """Create a host's actor; it loads its teachers by itself.

        Args:
            plan: says which teachers those are.
            name: of the actor.
            memory_share: of the bytes for teachers and their answers, below 1 after deaths of
                memory.
            known: who the teachers were before, by index.

        Raises:
            ValueError: there is a host of this name, or Ray has not buried it yet.
        """
        actor = HostActor.options(
            name=name,
            namespace=self.namespace,
            lifetime=self._lifetime,
            num_cpus=self._settings.cpus_per_host,
            num_gpus=self._settings.gpus_per_host,
            resources=self._settings.resources_per_host or None,
            label_selector=self._settings.label_selector or None,
            max_restarts=0,
            max_task_retries=0,
            # Not inside a placement group that the caller may happen to sit in; copies of a
            # teacher apart, as far as there are nodes.
            scheduling_strategy="SPREAD" if self._settings.replicas > 1 else "DEFAULT",
        )
        folders = plan.folders(name)
        handle: HostHandle = actor.remote(
            list(folders.values()), list(folders), len(plan.teachers), self._settings, self._load,
            self._recognizer, memory_share, known, self._lifetime is not None,
        )  # fmt: skip
        return handle

    def too_late(self, plan: PoolPlan, name: str) -> PoolStartError:
        """Why a host may not have started in time, and the ways out."""
        folders = ", ".join(map(str, plan.folders(name).values()))
        return PoolStartError(
            f"{name} did not start within {self.start_timeout_s:g} s (teachers: {folders}). It "
            f"asks for {self._wish()}; the cluster has {self._offer()}. Ways out: lower "
            "teachers.source.hosts, cpus_per_host or gpus_per_host, or raise "
            "teachers.source.start_timeout_s if the teachers are large."
        )

    def address(
        self,
        plan: PoolPlan,
        arrivals: Mapping[str, HostArrival],
        client: PoolSettings | None = None,
        *,
        known: Mapping[int, TeacherInfo] | None = None,
        recognizer: TeacherInfo | None = None,
    ) -> PoolAddress:
        """Where clients find the pool.

        Args:
            plan: its teachers are in the order of their indices.
            arrivals: of the hosts that are up.
            client: how clients ask, if that is known here.
            known: teachers by index, of hosts that are down.
            recognizer: that of hosts that are down.
        """
        infos = {**(known or {})}
        for arrival in arrivals.values():
            infos |= {info.index: info for info in arrival.infos}
            recognizer = arrival.recognizer
        return PoolAddress(
            namespace=self.namespace,
            hosts=tuple(
                HostAddress(name, arrival.teachers, arrival.pid, arrival.node)
                for name, arrival in arrivals.items()
            ),
            info=TeachersInfo(
                teachers=tuple(infos[index] for index in sorted(plan.teachers)),
                source="pool",
                recognizer=recognizer,
            ),
            settings=client or PoolSettings(),
            version=plan.version,
            replaced=plan.replaced,
            stored_data=self._stored_data,
        )

    def warn_if_too_large(self, plan: PoolPlan) -> None:
        """Say what of the settings the cluster or the teachers cannot fill."""
        hosts = len(plan.hosts)
        if hosts < self._settings.hosts:
            logger.warning(
                "teachers.source.hosts is %d but there are only %d teachers, %d copies of each: "
                "%d hosts are started",
                self._settings.hosts,
                len(plan.teachers),
                self._settings.replicas,
                hosts,
            )
        total = _total_resources()
        if any(hosts * each > total.get(kind, 0.0) for kind, each in self._needs().items()):
            logger.warning(
                "%d teacher hosts ask for %s each, but the cluster has %s; waiting up to %g s",
                hosts,
                self._wish(),
                self._offer(),
                self._settings.start_timeout_s,
            )

    def _needs(self) -> dict[str, float]:
        settings = self._settings
        usual = {"CPU": settings.cpus_per_host, "GPU": settings.gpus_per_host}
        return usual | settings.resources_per_host

    def _wish(self) -> str:
        wish = ", ".join(f"{each:g} {kind}" for kind, each in self._needs().items())
        labels = ", ".join(f"{key}={value}" for key, value in self._settings.label_selector.items())
        return f"{wish}, on nodes with {labels}" if labels else wish

    def _offer(self) -> str:
        total = _total_resources()
        free = dict(ray.available_resources())  # type: ignore[no-untyped-call]
        return ", ".join(
            f"{total.get(kind, 0.0):g} {kind} ({free.get(kind, 0.0):g} free)"
            for kind in self._needs()
        )


def _stored_data(settings: HostSettings) -> tuple[str, ...]:
    """Digests of the data that the hosts' target store was made of."""
    if settings.cache_store is None:
        return ()
    try:
        return tuple(open_levels(Path(settings.cache_store)))
    except (ValueError, OSError) as error:
        raise PoolStartError(f"cache_store: {error}") from error


def kill_hosts(handles: Sequence[HostHandle]) -> None:
    """End host processes."""
    for handle in handles:
        ray.kill(handle, no_restart=True)


def _total_resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
