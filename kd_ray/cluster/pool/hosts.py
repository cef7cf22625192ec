"""Teacher hosts as Ray actors: the process around a `TeacherHost`, and bringing several up."""

import dataclasses
import logging
import math
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
import torch

from kd_ray.cluster.pool.address import (
    HostAddress,
    HostArrival,
    HostHandle,
    HostReport,
    PoolAddress,
    arrays_bytes,
)
from kd_ray.config.sources import HostSettings
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core import strategies
from kd_ray.core.contracts import Audio, Generate, Score, TeachersInfo, Written
from kd_ray.teachers.answers import Call
from kd_ray.teachers.host import HostStatus, TeacherHost
from kd_ray.teachers.policies import deal
from kd_ray.teachers.residents import AllLoaded, Residents, ScoringTeacher, paged_from_folders
from kd_ray.teachers.transcriber import TranscriberSpec, load_transcriber

logger = logging.getLogger(__name__)

Loader = Callable[[Sequence[Path], str], Sequence[ScoringTeacher]]
"""(checkpoint folders, device) -> teachers, in the same order; called in the host's process."""

_MIB = 1 << 20


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
            )
        else:
            residents = AllLoaded(load(folders, device), indices)
        self._host = TeacherHost(
            residents,
            num_teachers=num_teachers,
            batching=settings.batching,
            max_batch_utterances=settings.max_batch_utterances,
            max_batch_frames=settings.max_batch_frames,
            batch_wait_ms=settings.batch_wait_ms,
            cache_bytes=int(settings.cache_mib * _MIB),
            transcriber=load_transcriber(recognizer, device),
        )

    async def arrive(self) -> HostArrival:
        """Answers once the teachers are loaded."""
        node = ray.get_runtime_context().get_node_id()
        infos = self._host.infos
        teachers = tuple(info.index for info in infos)
        return HostArrival(teachers, infos, os.getpid(), node, self._host.recognizer)

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
        report = HostReport(
            dataclasses.replace(answer, partial=None, fused=None),
            answer.fused is not None,
            arrays_bytes(kept),
        )
        self._host.count_bytes_out(call.job, report.kept_bytes)
        return report, kept

    async def merge(self, *partials: strategies.Partial) -> tuple[int, strategies.Partial]:
        """Join what several hosts made of one request; its bytes, and the partial itself."""
        merged = await self._host.merge(partials)
        return arrays_bytes(merged), merged

    async def finish(self, *partials: strategies.Partial) -> strategies.FusedTargets:
        """The target of what several hosts made of one request."""
        return await self._host.finish(partials)

    async def alive(self) -> None:
        """A sign of life."""

    async def forget_job(self, job: str) -> None:
        """A job has gone."""
        self._host.forget_job(job)

    async def status(self) -> HostStatus:
        """Queue and counters."""
        return self._host.status


HostActor = ray.remote(HostProcess)


class HostStarter:
    """Brings a pool's hosts up."""

    def __init__(
        self,
        folders: Sequence[Path | str],
        settings: HostSettings,
        load: Loader | None,
        recognizer: TranscriberSpec | None = None,
        *,
        pool: str | None = None,
        namespace: str | None = None,
    ) -> None:
        self._folders = tuple(map(Path, folders))
        self._settings = settings
        self._load = load
        self._recognizer = recognizer
        self._namespace = namespace or str(ray.get_runtime_context().namespace)
        # Hosts of a named pool outlive the manager that started them.
        self._lifetime = None if pool is None else "detached"
        dealt = deal(len(self._folders), settings.hosts, settings.replicas)
        pool = pool or uuid.uuid4().hex[:8]
        self.placement = {
            f"kd_ray-pool-{pool}-host-{number}": indices for number, indices in enumerate(dealt)
        }
        if len(dealt) < settings.hosts:
            logger.warning(
                "teachers.source.hosts is %d but there are only %d teachers, %d copies of each: "
                "%d hosts are started",
                settings.hosts,
                len(self._folders),
                settings.replicas,
                len(dealt),
            )
        self._warn_if_too_large()

    @property
    def start_timeout_s(self) -> float:
        """Longest wait for a host to load its teachers."""
        return self._settings.start_timeout_s

    def start_host(self, name: str, indices: Sequence[int]) -> HostHandle:
        """Create a host's actor; it loads its teachers by itself."""
        actor = HostActor.options(
            name=name,
            namespace=self._namespace,
            lifetime=self._lifetime,
            num_cpus=self._settings.cpus_per_host,
            num_gpus=self._settings.gpus_per_host,
            max_restarts=0,
            max_task_retries=0,
            # Not inside a placement group that the caller may happen to sit in.
            scheduling_strategy="DEFAULT",
        )
        folders = [self._folders[index] for index in indices]
        handle: HostHandle = actor.remote(
            folders, indices, len(self._folders), self._settings, self._load, self._recognizer
        )
        return handle

    def await_arrivals(self, handles: Sequence[HostHandle]) -> list[HostArrival]:
        """Wait until every host's teachers are loaded, or say which are not and why."""
        references = [handle.arrive.remote() for handle in handles]
        limit_s = self._settings.start_timeout_s
        _, late = ray.wait(references, num_returns=len(references), timeout=limit_s)
        arrivals = []
        for (name, indices), reference in zip(self.placement.items(), references, strict=True):
            folders = ", ".join(str(self._folders[index]) for index in indices)
            if reference in late:
                raise PoolStartError(
                    f"{name} did not start within {limit_s:g} s (teachers: {folders}). It asks for "
                    f"{self._wish()}; the cluster has {_offer()}. Ways out: lower "
                    "teachers.source.hosts, cpus_per_host or gpus_per_host, or raise "
                    "teachers.source.start_timeout_s if the teachers are large."
                )
            try:
                arrivals.append(ray.get(reference))
            except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError) as error:
                raise PoolStartError(
                    f"{name} could not load its teachers ({folders}): {error}"
                ) from error
        return arrivals

    def address(
        self, arrivals: Sequence[HostArrival], client: PoolSettings | None = None
    ) -> PoolAddress:
        """Where clients find the pool; `client`: how they ask, if that is known here."""
        infos = {info.index: info for arrival in arrivals for info in arrival.infos}
        return PoolAddress(
            namespace=self._namespace,
            hosts=tuple(
                HostAddress(name, indices, arrival.pid, arrival.node)
                for (name, indices), arrival in zip(self.placement.items(), arrivals, strict=True)
            ),
            info=TeachersInfo(
                teachers=tuple(infos[index] for index in sorted(infos)),
                source="pool",
                recognizer=arrivals[0].recognizer,
            ),
            settings=client or PoolSettings(),
        )

    def _warn_if_too_large(self) -> None:
        total = _total_resources()
        needed = {"CPU": self._settings.cpus_per_host, "GPU": self._settings.gpus_per_host}
        hosts = len(self.placement)
        if any(hosts * each > total.get(kind, 0.0) for kind, each in needed.items()):
            logger.warning(
                "%d teacher hosts ask for %s each, but the cluster has %s; waiting up to %g s",
                hosts,
                self._wish(),
                _offer(),
                self._settings.start_timeout_s,
            )

    def _wish(self) -> str:
        return f"{self._settings.cpus_per_host:g} CPU, {self._settings.gpus_per_host:g} GPU"


def kill_hosts(handles: Sequence[HostHandle]) -> None:
    """End host processes."""
    for handle in handles:
        ray.kill(handle, no_restart=True)


def _total_resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def _offer() -> str:
    total = _total_resources()
    free = dict(ray.available_resources())  # type: ignore[no-untyped-call]
    return ", ".join(
        f"{total.get(kind, 0.0):g} {kind} ({free.get(kind, 0.0):g} free)" for kind in ("CPU", "GPU")
    )
