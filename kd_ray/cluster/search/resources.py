"""What a trial takes, and how many fit at a time.

Ray Tune counts only what a trial itself reserves: worker groups and teacher hosts that a trial
starts have to be counted here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kd_ray.cluster.search.space import Base
from kd_ray.config.commands import DistillConfig
from kd_ray.config.search import SearchConfig
from kd_ray.config.sources import HostSettings, PoolSource

GROUP_CPUS = 0.1
"""Of a trial that only looks after a worker group."""


@dataclass(frozen=True)
class Amount:
    """CPUs and GPUs."""

    cpus: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.cpus + other.cpus, self.gpus + other.gpus)


@dataclass(frozen=True)
class Needs:
    """What a search takes of a cluster."""

    pool: Amount
    """Hosts that all trials share."""
    trial: Amount
    """Of each trial, with the workers and hosts that it starts."""
    reserved: Amount
    """Of these, what Tune reserves for the trial's process."""


def needs_of(config: SearchConfig, base: Base) -> Needs:
    """What a search takes."""
    workers = base.config.workers
    own = Amount(
        config.cpus_per_trial or workers.cpus,
        workers.gpus if config.gpus_per_trial is None else config.gpus_per_trial,
    )
    pool = Amount() if config.pool is None else _hosts(config.pool)
    hosts = Amount()
    if config.pool is None and isinstance(base.config, DistillConfig):
        source = base.config.teachers.source
        if isinstance(source, PoolSource) and source.name is None:
            hosts = _hosts(source)
    if not workers.grouped:
        return Needs(pool, own + hosts, own)
    looks_after = Amount(GROUP_CPUS)
    group = Amount(own.cpus * workers.count, own.gpus * workers.count)
    return Needs(pool, looks_after + group + hosts, looks_after)


def _hosts(settings: HostSettings) -> Amount:
    return Amount(settings.hosts * settings.cpus_per_host, settings.hosts * settings.gpus_per_host)


def slots(config: SearchConfig, needs: Needs, cluster: Mapping[str, float]) -> int:
    """Trials at a time: those asked for, else as many as the cluster holds; at least one."""
    if config.concurrent is not None:
        return config.concurrent
    fits = [
        (cluster.get(name, 0.0) - taken) / each
        for name, taken, each in (
            ("CPU", needs.pool.cpus, needs.trial.cpus),
            ("GPU", needs.pool.gpus, needs.trial.gpus),
        )
        if each
    ]
    return max(1, int(min(fits) + 1e-9))


def private_cpus(config: SearchConfig, needs: Needs, machine: int) -> int:
    """Logical CPUs of a private Ray: those of the machine, and enough for what was asked for."""
    return max(machine, math.ceil(needs.pool.cpus + (config.concurrent or 1) * needs.trial.cpus))
